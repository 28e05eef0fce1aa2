"""Durations in words, and the unit of an axis."""

from __future__ import annotations

import pytest

from orchestrator.host.durations import axis_unit, duration_text, rough_duration


def test_durations_have_at_most_two_units_and_none_is_lost():
    assert [duration_text(s) for s in (0, 59.6, 200, 7500)] == ["0 s", "1 min", "3 min 20 s", "2 h 5 min"]
    assert [duration_text(s) for s in (0.04, 0.94, 0.96, 3599.7)] == ["0.04 s", "0.9 s", "1 s", "1 h"]


def test_an_estimate_has_no_more_digits_than_it_can_have():
    assert [rough_duration(s) for s in (1, 47, 251, 1554, 11_300)] == ["10 s", "50 s", "4 min", "26 min", "3 h 10 min"]


@pytest.mark.parametrize(
    ("longest", "unit"), [(59, ("s", 1)), (60, ("min", 60)), (3599, ("min", 60)), (3600, ("h", 3600))]
)
def test_an_axis_has_the_largest_unit_of_which_there_is_one(longest, unit):
    assert axis_unit(longest) == unit
