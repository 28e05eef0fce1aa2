"""Numbers as tables show them."""

from __future__ import annotations

import pytest

from orchestrator.reports.number_format import (
    Summary,
    change_text,
    difference_text,
    interval_text,
    metric_cells,
    metric_text,
    plain_value,
    relative_change,
    setting_text,
    stdev,
    summarise,
    summary_text,
)

DASH = "\u2013"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, DASH),
        (0.0, "0.0%"),
        (-0.0, "0.0%"),
        (1e-9, "0.0%"),
        (4.9e-5, "0.0%"),
        (5.1e-5, "+0.01%"),
        (3e-4, "+0.03%"),
        (-4.9e-4, "-0.05%"),
        (5.1e-4, "+0.1%"),
        (-0.0611, "-6.1%"),
        (0.2, "+20.0%"),
    ],
)
def test_changes_show_what_one_decimal_would_hide(value, shown):
    assert change_text(value) == shown


def test_a_change_is_taken_of_the_baseline():
    assert relative_change(Summary(0.8, None, 1), Summary(0.6, None, 1)) == pytest.approx(-0.25)
    assert relative_change(Summary(0.5, None, 1), Summary(0.6, None, 1)) == pytest.approx(0.2)
    assert relative_change(Summary(0.0, None, 1), Summary(0.6, None, 1)) is None
    assert relative_change(Summary(None, None, 0), Summary(0.6, None, 1)) is None
    assert relative_change(Summary(0.8, None, 1), Summary(None, None, 0)) is None


def test_a_summary_is_mean_and_sample_standard_deviation():
    assert summarise([]) == Summary(None, None, 0)
    assert summarise([0.7]) == Summary(0.7, None, 1)
    found = summarise([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    assert (found.mean, found.n) == (5.0, 8)
    assert found.sd == pytest.approx((32 / 7) ** 0.5)  # The squares sum to 32.
    assert stdev([1.0, 2.0, 4.0]) == pytest.approx((14 / 6) ** 0.5)  # 7/3, by squares 16/9, 1/9 and 25/9.
    assert summarise([0.1] * 3).sd == stdev([0.1] * 3) == 0.0


@pytest.mark.parametrize(
    ("summary", "seeds", "share", "shown"),
    [
        (Summary(None, None, 0), 3, False, DASH),
        (Summary(0.87654, None, 1), 1, False, "0.8765"),
        (Summary(0.87654, 0.01234, 3), 3, False, "0.8765 ± 0.0123"),
        (Summary(0.87654, 0.01234, 2), 3, False, "0.8765 ± 0.0123 (n=2)"),
        (Summary(1.0, 0.0, 3), 3, True, "100% ± 0%"),
        (Summary(0.99999, 0.00001, 3), 3, True, "100.0% ± 0.0%"),
        (Summary(0.985, 0.005, 3), 3, True, "98.5% ± 0.5%"),
    ],
)
def test_a_summary_shows_its_spread_and_its_own_n(summary, seeds, share, shown):
    assert summary_text(summary, seeds, share) == shown


def test_the_best_mean_is_bold_and_equal_looks_tie():
    def bold(*means, share=False):
        cells = metric_cells([Summary(m, None, 1) for m in means], [1] * len(means), share)
        return [cell.bold for cell in cells]

    assert bold(0.8, 0.9, 0.7) == [False, True, False]
    assert bold(0.9, 0.90001, 0.7) == [True, True, False]
    assert bold(0.9, 0.90001) == [False, False]
    assert bold(0.9, None) == [False, False]
    assert bold(None, None) == [False, False]
    assert bold(1.0, 0.9999, share=True) == [True, False]


def test_differences_have_a_sign_and_no_negative_zero():
    assert [difference_text(v) for v in (None, 0.01234, -0.01236, -0.00001)] == [DASH, "+0.0123", "-0.0124", "+0.0000"]
    assert interval_text(-0.01, 0.02) == "-0.0100 to +0.0200"
    assert interval_text(None, 0.02) == interval_text(-0.01, None) == DASH


def test_settings_that_are_equal_read_alike():
    assert setting_text(2.0) == setting_text(2) == "2"
    assert [setting_text(v) for v in (0.05, True, None, "alpha/rank")] == ["0.05", "true", "null", "alpha/rank"]
    assert setting_text([2.0, {"a": 3.0}]) == '[2,{"a":3}]'
    assert plain_value((1.0, 2.5)) == [1, 2.5]


def test_a_share_is_complete_only_when_it_is_exactly_one():
    assert metric_text(1.0, share=True) == "100%"
    assert metric_text(0.9999999, share=True) == "100.0%"
    assert metric_text(0.98764) == "0.9876"
