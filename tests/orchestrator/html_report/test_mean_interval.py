"""A mean with its t interval."""

from __future__ import annotations

import pytest

from orchestrator.html_report.mean_interval import mean_interval, share_interval


def test_the_interval_is_students():
    of = mean_interval([1.0, 2.0, 3.0])
    half = 4.302652729911275 / 3**0.5  # the 97.5 % quantile of t with two degrees of freedom, times the standard error
    assert (of.mean, of.n) == (2.0, 3)
    assert (of.low, of.high) == pytest.approx((2 - half, 2 + half))


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0]])
def test_fewer_than_three_seeds_have_none(values):
    of = mean_interval(values)
    assert (of.low, of.high, of.n) == (None, None, len(values))


def test_the_interval_of_an_auroc_stays_within_its_limits_and_holds_the_mean():
    of = share_interval([0.999, 0.97, 0.9999])
    assert mean_interval([0.999, 0.97, 0.9999]).high > 1
    assert 0.5 < of.low < of.mean < of.high < 1
    mirrored = share_interval([1 - 0.999, 1 - 0.97, 1 - 0.9999])
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - of.high, 1 - of.low))


def test_far_from_the_limits_the_logit_scale_changes_little():
    values = [0.70, 0.71, 0.72]
    plain, own = mean_interval(values), share_interval(values)
    assert (own.low, own.high) == pytest.approx((plain.low, plain.high), abs=1e-3)


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
def test_equal_values_have_an_interval_of_no_width(values):
    of = share_interval(values)
    assert (of.low, of.mean, of.high) == (values[0],) * 3
