"""A mean with its t interval."""

from __future__ import annotations

import pytest

from orchestrator.html_report.mean_interval import mean_interval


def test_the_interval_is_students():
    of = mean_interval([1.0, 2.0, 3.0])
    half = 4.302652729911275 / 3**0.5  # the 97.5 % quantile of t with two degrees of freedom, times the standard error
    assert (of.mean, of.n) == (2.0, 3)
    assert (of.low, of.high) == pytest.approx((2 - half, 2 + half))


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0]])
def test_fewer_than_three_seeds_have_none(values):
    of = mean_interval(values)
    assert (of.low, of.high, of.n) == (None, None, len(values))
