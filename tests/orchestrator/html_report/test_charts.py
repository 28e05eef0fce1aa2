"""Charts of variants: what their numbers are, and what is left out where it would mislead."""

from __future__ import annotations

import pytest

from orchestrator.html_report.chart import UNSURE, VALID, points, quantitative
from orchestrator.html_report.factors import factor_charts
from orchestrator.html_report.learning_curves import curve_charts, read_curves
from orchestrator.html_report.mean_interval import mean_interval
from orchestrator.html_report.parallel_coordinates import ConfigurationLine, parallel_chart, variant_lines
from orchestrator.html_report.per_class import class_charts
from orchestrator.html_report.r_matrices import matrix_groups
from orchestrator.reports.final_metrics import MEAN


def rows_of(chart):
    return [dict(zip(chart.fields, row, strict=True)) for row in chart.rows]


def test_a_factor_is_drawn_with_the_means_of_the_report_and_their_intervals(keep, grid, evidence_of):
    evidence = evidence_of(keep(grid))
    image, pixel = factor_charts(evidence).charts
    assert (image.title, pixel.title) == ("Image AUROC against focal_gamma", "Pixel AUROC against focal_gamma")
    for k, row in enumerate(rows_of(image)):
        of = mean_interval(evidence.variants[k].values(MEAN, "image_auroc"))
        assert (row["variant"], row["x"], row["n"]) == (k, evidence.variants[k].factors["loss.focal_gamma"], 3)
        assert (row["mean"], row["low"], row["high"]) == (of.mean, of.low, of.high)
    marks = [layer["mark"]["type"] for layer in image.content()["spec"]["layer"]]
    assert marks == ["area", "line", "rule", "point"]


def test_points_with_marks_are_drawn_hollow_and_not_faint():
    (filled,) = points({}, marked=False)
    assert filled["mark"]["filled"] is True
    sure, unsure = points({}, marked=True)
    assert (sure["mark"]["filled"], unsure["mark"]["filled"]) == (True, False)
    assert unsure["transform"] == [{"filter": UNSURE}]


def test_a_logarithmic_axis_is_not_asked_whether_it_begins_at_zero():
    assert quantitative("x", "x")["scale"] == {"zero": False}
    assert quantitative("x", "x", scale={"type": "log"})["scale"] == {"type": "log"}


def test_over_a_grid_a_factor_is_drawn_with_its_marginal_means(keep, trial, evidence_of):
    seeds, gammas, ranks = range(3), (0.0, 1.0), tuple(range(1, 10))
    trials = [trial(g, s, also={"lora.rank": r}) for g in gammas for r in ranks for s in seeds]
    charts = {chart.title: chart for chart in factor_charts(evidence_of(keep(trials))).charts}
    gamma = charts["Image AUROC against focal_gamma"]
    means = [row for row in rows_of(gamma) if row["variant"] is None]
    assert [row["x"] for row in means] == [0, 1]
    for row in means:
        points_of = [one["mean"] for one in rows_of(gamma) if one["variant"] is not None and one["x"] == row["x"]]
        assert len(points_of) == 9
        assert row["mean"] == pytest.approx(sum(points_of) / 9)
        assert row["low"] < row["mean"] < row["high"]
        assert row["n"] == 3
    assert "mean over the 9 settings of the other factors" in gamma.note
    # Against rank the two gammas are told apart, each with its own line and band.
    assert all(row["variant"] is not None for row in rows_of(charts["Image AUROC against rank"]))


def test_two_factors_that_differ_together_are_not_drawn_one_by_one(keep, trial, evidence_of):
    place = keep([trial(0.0), trial(1.0, also={"lora.rank": 16})])
    group = factor_charts(evidence_of(place))
    assert group.charts == ()
    assert "`lora.rank`, `loss.focal_gamma`" in group.missing


def test_charts_of_single_seeds_have_no_layers_of_intervals(keep, trial, evidence_of):
    evidence = evidence_of(keep([trial(0.0), trial(1.0)]))
    for chart in (*factor_charts(evidence).charts, *class_charts(evidence)):
        assert not any(VALID in layer.get("transform", ()) for layer in chart.content()["spec"]["layer"])
        assert all(row["low"] is None and row["n"] == 1 for row in rows_of(chart))


def test_a_heat_map_holds_r_of_every_pair_of_tasks_and_the_mean_over_seeds(keep, grid, evidence_of):
    evidence = evidence_of(keep(grid))
    image, pixel = matrix_groups(evidence)
    assert (len(image.charts), len(pixel.charts), pixel.folded) == (3, 3, True)
    rows = rows_of(image.charts[1])
    assert [(row["after"], row["task"]) for row in rows] == [
        ("leather", "leather"),
        ("grid", "leather"),
        ("grid", "grid"),
        ("transistor", "leather"),
        ("transistor", "grid"),
        ("transistor", "transistor"),
    ]
    last = {row["task"]: row["mean"] for row in rows if row["after"] == "transistor"}
    for name, mean in last.items():
        assert mean == pytest.approx(mean_interval(evidence.variants[1].values(name, "image_auroc")).mean)


def test_learning_curves_are_means_over_seeds_epoch_by_epoch(keep, grid, evidence_of):
    evidence = evidence_of(keep(grid))
    curves = read_curves(evidence, {trial.trial_id for trial in evidence.trials})
    charts = curve_charts(evidence, curves)
    assert [chart.title for chart in charts] == ["Learning leather", "Learning grid", "Learning transistor"]
    first = rows_of(charts[0])[0]
    members = {trial.trial_id for trial in evidence.variants[0].trials}
    mine = [curve.nll[0] for curve in curves if curve.task == 0 and curve.trial_id in members]
    assert (first["epoch"], first["n"]) == (1, 3)
    assert first["mean"] == pytest.approx(sum(mine) / 3)
    assert "values" not in charts[0].spec["encoding"]["x"]["axis"]  # Ten epochs; of a few, each has its tick.


def test_parallel_coordinates_need_two_factors(keep, trial, evidence_of, tmp_path):
    evidence = evidence_of(keep([trial(gamma, also={"lora.rank": rank}) for gamma in (0.0, 1.0) for rank in (4, 8)]))
    (chart,) = variant_lines(evidence)
    axes = [row["axis"] for row in rows_of(chart) if row["variant"] == 0]
    assert axes == ["rank", "focal_gamma", "mean Image AUROC"]


def test_an_axis_of_numbers_goes_by_their_size_even_where_they_are_words():
    lines = [
        ConfigurationLine("a", {"rank": "8", "form": "joint"}, 0.1),
        ConfigurationLine("b", {"rank": "16", "form": "relative"}, 0.2),
    ]
    lines.append(ConfigurationLine("c", {"rank": "12"}, 0.3))
    (chart,) = parallel_chart("title", "note", ("rank", "form"), lines, "worth")
    at = {(row["variant"], row["axis"]): row["at"] for row in rows_of(chart)}
    assert (at["a", "rank"], at["c", "rank"], at["b", "rank"]) == (0, 0.5, 1)
    assert (at["a", "form"], at["b", "form"]) == (0, 1)
    assert ("c", "form") not in at
