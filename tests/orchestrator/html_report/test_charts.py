"""The charts of variants: their numbers, and the charts that are left out."""

from __future__ import annotations

import pytest

from orchestrator.html_report.chart import HAS_CAVEAT, HAS_INTERVAL, Chart, points, quantitative, spans_decades
from orchestrator.html_report.factors import factor_charts
from orchestrator.html_report.learning_curves import Curve, curve_charts, read_curves
from orchestrator.html_report.mean_interval import mean_interval, share_interval
from orchestrator.html_report.parallel_coordinates import ConfigurationLine, parallel_chart, variant_lines
from orchestrator.html_report.per_class import class_charts
from orchestrator.html_report.r_matrices import matrix_groups
from orchestrator.reports.final_metrics import MEAN


def rows_of(chart):
    return [dict(zip(chart.fields, row, strict=True)) for row in chart.rows]


def test_a_factor_is_drawn_with_the_means_of_the_report_and_their_intervals(keep, grid, page_data_of):
    page_data = page_data_of(keep(grid))
    image, pixel = factor_charts(page_data).charts
    assert (image.title, pixel.title) == ("Image AUROC against focal_gamma", "Pixel AUROC against focal_gamma")
    for k, row in enumerate(rows_of(image)):
        of = share_interval(page_data.variants[k].values(MEAN, "image_auroc"))
        assert (row["variant"], row["x"], row["n"]) == (k, page_data.variants[k].factors["loss.focal_gamma"], 3)
        assert (row["mean"], row["low"], row["high"]) == (of.mean, of.low, of.high)
    marks = [layer["mark"]["type"] for layer in image.content()["spec"]["layer"]]
    assert marks == ["area", "line", "rule", "point"]


def test_points_with_caveats_are_drawn_hollow_and_not_faint():
    (filled,) = points({}, any_caveat=False)
    assert filled["mark"]["filled"] is True
    without, with_caveat = points({}, any_caveat=True)
    assert (without["mark"]["filled"], with_caveat["mark"]["filled"]) == (True, False)
    assert with_caveat["transform"] == [{"filter": HAS_CAVEAT}]
    assert {layer["mark"]["opacity"] for layer in (filled, without, with_caveat)} == {1}


@pytest.mark.parametrize(
    ("values", "expected"), [([1, 49], False), ([1, 50], True), ([0, 100], False), ([-1, 100], False), ([2, 100], True)]
)
def test_fifty_times_the_smallest_value_makes_a_logarithmic_axis(values, expected):
    assert spans_decades(values) is expected


def test_numbers_of_a_chart_have_six_digits():
    chart = Chart("t", "n", {"x": "X", "y": "Y"}, [(0.123456789, "a")], {})
    assert chart.content()["rows"] == [[0.123457, "a"]]
    assert chart.content()["fields"] == ["x", "y"]
    assert chart.content()["heads"] == ["X", "Y"]


def test_a_logarithmic_axis_is_not_asked_whether_it_begins_at_zero():
    assert quantitative("x", "x")["scale"] == {"zero": False}
    assert quantitative("x", "x", scale={"type": "log"})["scale"] == {"type": "log"}


def test_over_a_grid_a_factor_is_drawn_with_its_marginal_means(keep, trial, page_data_of):
    seeds, gammas, ranks = range(3), (0.0, 1.0), tuple(range(1, 10))
    trials = [trial(g, s, also={"lora.rank": r}) for g in gammas for r in ranks for s in seeds]
    charts = {chart.title: chart for chart in factor_charts(page_data_of(keep(trials))).charts}
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


def test_two_factors_that_differ_together_are_not_drawn_one_by_one(keep, trial, page_data_of):
    place = keep([trial(0.0), trial(1.0, also={"lora.rank": 16})])
    group = factor_charts(page_data_of(place))
    assert group.charts == ()
    assert "`lora.rank`, `loss.focal_gamma`" in group.missing


def test_charts_of_single_seeds_have_no_layers_of_intervals(keep, trial, page_data_of):
    page_data = page_data_of(keep([trial(0.0), trial(1.0)]))
    for chart in (*factor_charts(page_data).charts, *class_charts(page_data)):
        assert not any(HAS_INTERVAL in layer.get("transform", ()) for layer in chart.content()["spec"]["layer"])
        assert all(row["low"] is None and row["n"] == 1 for row in rows_of(chart))


def test_a_heat_map_holds_r_of_every_pair_of_tasks_and_the_mean_over_seeds(keep, grid, page_data_of):
    page_data = page_data_of(keep(grid))
    image, pixel = matrix_groups(page_data)
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
        assert mean == pytest.approx(mean_interval(page_data.variants[1].values(name, "image_auroc")).mean)


def test_learning_curves_are_means_over_seeds_epoch_by_epoch(keep, grid, page_data_of):
    page_data = page_data_of(keep(grid))
    curves = read_curves(page_data, {trial.trial_id for trial in page_data.trials})
    charts = curve_charts(page_data, curves)
    assert [chart.title for chart in charts] == ["Learning leather", "Learning grid", "Learning transistor"]
    first = rows_of(charts[0])[0]
    members = {trial.trial_id for trial in page_data.variants[0].trials}
    mine = [curve.nll[0] for curve in curves if curve.task == 0 and curve.trial_id in members]
    assert (first["epoch"], first["n"]) == (1, 3)
    assert first["mean"] == pytest.approx(sum(mine) / 3)
    assert "values" not in charts[0].spec["encoding"]["x"]["axis"], "ten epochs; up to six have a tick each"


@pytest.mark.parametrize(("epochs", "shown"), [(60, range(1, 61)), (61, range(1, 62, 2)), (130, range(1, 131, 3))])
def test_long_learning_curves_are_thinned(keep, trial, page_data_of, epochs, shown):
    page_data = page_data_of(keep([trial()]))
    (only,) = page_data.trials
    curve = Curve(only.trial_id, 0, "leather", tuple(float(k) for k in range(epochs)))
    (chart,) = curve_charts(page_data, [curve])
    assert [(row["epoch"], row["mean"]) for row in rows_of(chart)] == [(k, k - 1.0) for k in shown]
    step = shown.step
    assert (f"Every {step}th epoch is shown." in chart.note) is (step > 1)


@pytest.mark.parametrize(("epochs", "ticks"), [(6, [1, 2, 3, 4, 5, 6]), (7, None)])
def test_up_to_six_epochs_have_a_tick_each(keep, trial, page_data_of, epochs, ticks):
    page_data = page_data_of(keep([trial()]))
    curve = Curve(page_data.trials[0].trial_id, 0, "leather", (1.0,) * epochs)
    (chart,) = curve_charts(page_data, [curve])
    assert chart.spec["encoding"]["x"]["axis"].get("values") == ticks


def test_parallel_coordinates_need_two_factors(keep, trial, page_data_of, tmp_path):
    page_data = page_data_of(keep([trial(gamma, also={"lora.rank": rank}) for gamma in (0.0, 1.0) for rank in (4, 8)]))
    (chart,) = variant_lines(page_data)
    axes = [row["axis"] for row in rows_of(chart) if row["variant"] == 0]
    assert axes == ["rank", "focal_gamma", "mean Image AUROC"]


def test_an_axis_of_numbers_is_sorted_by_size_even_if_they_are_texts():
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


def heights(values):
    lines = [ConfigurationLine(str(k), {"axis": value}, float(k)) for k, value in enumerate(values)]
    (chart,) = parallel_chart("title", "note", ("axis",), lines, "quality")
    ticks = [tick for tick in chart.spec["layer"][1]["data"]["values"] if tick["axis"] == "axis"]
    return [row["at"] for row in rows_of(chart) if row["axis"] == "axis"], [tick["label"] for tick in ticks]


def test_heights_and_labels_of_a_parallel_axis():
    assert heights([1, 2, 5]) == ([0.0, 0.25, 1.0], ["1", "2", "5"])
    assert heights([3, 3]) == ([0.5, 0.5], ["3"]), "a single value is in the middle"
    assert heights(["b", "a", "c"]) == ([0.5, 0.0, 1.0], ["a", "b", "c"])
    assert heights(["a", "a"])[0] == [0.5, 0.5]
    logarithmic, labels = heights([0.0001, 0.01, 1.0])
    assert logarithmic == pytest.approx([0.0, 0.5, 1.0])
    assert labels == ["0.0001", "0.01", "1"]
    assert heights(list(range(7)))[1] == ["0", "6"], "of more than six values, the lowest and the highest"
    assert heights([1, 1.23456])[1] == ["1", "1.23"]


def test_a_single_line_makes_no_chart():
    assert parallel_chart("title", "note", ("a",), [ConfigurationLine("x", {"a": 1}, 0.5)], "quality") == ()


def test_colours_of_the_heat_maps_reach_from_the_lowest_mean_to_one(keep, trial, page_data_of):
    image, _ = matrix_groups(page_data_of(keep([trial(0.0), trial(1.0)])))
    low = min(row["mean"] for chart in image.charts for row in rows_of(chart))
    for chart in image.charts:
        assert chart.spec["layer"][0]["encoding"]["color"]["scale"]["domain"] == [low, 1.0]
        middle = (low + 1.0) / 2
        assert chart.spec["layer"][1]["encoding"]["color"]["condition"]["test"] == f"datum.mean > {middle:.6g}"
        assert "n = 1 seed;" in chart.note
