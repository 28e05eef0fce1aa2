"""The chart of the answer: its legend has the points' own signs, and its names are not cut off."""

from __future__ import annotations

import re

import pytest
import vl_convert

from orchestrator.html_report.answer_chart import answer_chart
from orchestrator.html_report.figure import WIDTH, printed

BASELINE = {"loss.focal_gamma": 0.0}
CHARACTER = 6.5
"""Pixels of a character at 11 pixels, at most on average."""


@pytest.fixture
def chart_of(keep, make_trial, page_data_of):
    """Draw variants that differ from the baseline by so much at two seeds; None = equal digests."""

    def of(*differences):
        trials = []
        for seed in range(2):
            equal = {"state_digest": f"s{seed}", "scores_digest": f"x{seed}"}
            for gamma, difference in enumerate([0.0, *differences]):
                of_variant = equal if gamma == 0 or difference is None else {}
                auroc = 0.7 + (difference or 0.0)
                named = {"loss.focal_gamma": float(gamma), "training.epochs": 30 + gamma}
                trials.append(make_trial(named, seed, image=(auroc, auroc), **of_variant))
        page = page_data_of(keep(trials, baseline=BASELINE))
        chart = answer_chart(page)
        assert chart is not None
        return chart, printed(chart, page.variant_names)

    return of


@pytest.mark.parametrize(
    ("differences", "side"),
    [((-0.04, -0.02), "end"), ((0.04, 0.02), "start"), ((0.03, -0.03), "middle"), ((None, -0.03), "end")],
)
def test_the_name_of_the_baseline_stays_within_the_figure(chart_of, differences, side):
    _, spec = chart_of(*differences)
    drawn = vl_convert.vegalite_to_svg(spec)
    name = "focal_gamma=0, epochs=30"
    ((anchor, x),) = re.findall(rf'text-anchor="(\w+)" transform="translate\(([\d.]+),[-\d.]+\)"[^>]*>{name}<', drawn)
    assert anchor == side
    left = re.findall(r"translate\(([\d.]+),", drawn)[0]
    at, width = float(left) + float(x), CHARACTER * len(name)
    assert at - {"start": 0, "middle": width / 2, "end": width}[side] >= 0
    assert at + {"start": width, "middle": width / 2, "end": 0}[side] <= WIDTH


def test_identical_and_undecided_variants_have_signs_of_their_own_in_legend_and_chart(chart_of):
    chart, spec = chart_of(None, -0.03)
    assert [row[list(chart.fields).index("verdict")] for row in chart.rows] == ["identical", "undecided"]
    drawn = vl_convert.vegalite_to_svg(spec)
    point = r'<path aria-label="[^"]*Verdict: {0};[^"]*"[^>]* d="([^"]*)" fill="([^"]*)"'
    signs = {verdict: re.search(point.format(verdict), drawn) for verdict in ("identical", "undecided")}
    shapes = {verdict: "A" in sign[1] for verdict, sign in signs.items()}
    assert shapes == {"identical": False, "undecided": True}, "a square, a circle"
    assert {sign[2] for sign in signs.values()} == {"#8C8C8C"}, "none is hollow"
    legend = drawn[drawn.index("role-legend") :]
    symbols = re.findall(r'<path[^>]* d="([^"]*)" fill="#8C8C8C"', legend)
    assert ["A" in symbol for symbol in symbols] == [False, True]
    assert "Hollow points" not in chart.note


def test_the_best_is_on_top_though_only_some_points_are_hollow(chart_of):
    chart, spec = chart_of(-0.01, None, -0.03)
    names = [row[0] for row in chart.rows]
    drawn = vl_convert.vegalite_to_svg(spec)
    axis = drawn[drawn.index("Y-axis") :]
    shown = re.findall(r"<tspan[^>]*>(focal_gamma=\d)<", axis)
    assert shown == [name.partition(",")[0] for name in names] == [f"focal_gamma={n}" for n in (2, 1, 3)]
