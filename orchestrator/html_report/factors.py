"""The charts of metric against factor: mean metrics with intervals for each compared factor."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.html_report.chart import (
    ACCENT,
    SERIES,
    Chart,
    ChartGroup,
    Spec,
    intervals,
    layered,
    left_out,
    nominal,
    points,
    quantitative,
    series,
    spans_decades,
    tooltip,
)
from orchestrator.html_report.marginal_means import MarginalMeans, marginal_means
from orchestrator.html_report.mean_interval import INTERVALS, MEAN_FIELDS, share_interval
from orchestrator.html_report.page_data import PageData
from orchestrator.reports.final_metrics import MAIN, MEAN
from orchestrator.reports.number_format import plain_value, setting_text
from orchestrator.reports.variants import VariantColumn, mean_name, short_factor_names

MOST_VARIANTS = 400
MARGINAL = "mean over the other factors"
MANY_VARIANTS = 12
"""Variants from which a factor gets a chart even if it never differs alone."""
FIELDS = {"variant": "Variant", "x": "Value", "series": "Series", **MEAN_FIELDS, "caveats": "Caveats"}


def factor_charts(page: PageData) -> ChartGroup:
    """One chart for each factor and metric.

    A factor that never differs alone gets none, as its chart would show the effect of all factors.
    With many variants, as of random draws, it gets one with a note.
    """
    metrics = [m for m in MAIN if any(variant.values(MEAN, m) for variant in page.variants)]
    shown = [m for m in metrics if m != "routing_accuracy"] or metrics
    compared = page.comparison.compared
    if not compared:
        return ChartGroup("", (), "No factor differs between the variants.")
    drawn = [key for key in compared if len(page.variants) >= MANY_VARIANTS or _differs_alone(page, key)]
    left_out = ", ".join(f"`{key}`" for key in compared if key not in drawn)
    missing = f"No chart against {left_out}: no two variants differ in one of these factors only." if left_out else ""
    return ChartGroup("", tuple(_chart(page, key, metric) for key in drawn for metric in shown), missing)


def _other_factors(variant: VariantColumn, compared: Sequence[str], key: str) -> tuple[str, ...]:
    return tuple(setting_text(variant.factors[other]) for other in compared if other != key)


def _differs_alone(page: PageData, key: str) -> bool:
    others = [_other_factors(variant, page.comparison.compared, key) for variant in page.variants]
    return len(set(others)) < len(others)


def _marginal(page: PageData, key: str, metric: str) -> MarginalMeans:
    def value(variant: VariantColumn) -> object:
        return setting_text(variant.factors[key])

    means = marginal_means(
        page.variants, value, lambda variant: _other_factors(variant, page.comparison.compared, key), metric
    )
    # Values are grouped by their texts, and drawn as numbers again.
    plain_of = {value(variant): plain_value(variant.factors[key]) for variant in page.variants}
    return MarginalMeans(tuple((plain_of[x], mean) for x, mean in means.means), means.settings)


def _chart(page: PageData, key: str, metric: str) -> Chart:
    compared, variants = page.comparison.compared, page.spread_over_ranking(MOST_VARIANTS)
    names = short_factor_names(compared)
    others = [other for other in compared if other != key]
    values = {k: plain_value(page.variants[k].factors[key]) for k in variants}
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.values())
    rows: list[tuple[object, ...]] = []
    for k in variants:
        factors, mean = page.variants[k].factors, share_interval(page.variants[k].values(MEAN, metric))
        rest = ", ".join(f"{names[other]}={setting_text(factors[other])}" for other in others)
        rows.append((k, values[k] if numeric else setting_text(values[k]), rest, *mean, "; ".join(page.caveats[k])))
    as_series = len({row[2] for row in rows}) <= SERIES
    marginal = MarginalMeans() if as_series else _marginal(page, key, metric)
    angle = -35 if len(set(map(setting_text, values.values()))) > 6 else 0
    axis: Spec = nominal("x", names[key], axis={"labelAngle": angle, "labelLimit": 90})
    if numeric:
        decades = spans_decades([float(str(value)) for value in values.values()])
        scale: Spec = {"type": "log", "nice": False} if decades else {}
        axis = quantitative("x", names[key], scale={**scale, "padding": 12}) | (
            {"axis": {"grid": False}} if decades else {}
        )
    name = mean_name(page.variants, metric, MAIN[metric])
    note = INTERVALS + page.hollow_points_note
    note += left_out(len(variants), len(page.variants), "variants, evenly over their ranking")
    if marginal.means:
        note += f" Band: the mean over the {marginal.settings} settings of the other factors that all values have. Points: the variants."
    elif not as_series:
        note += " The other factors differ from point to point, so that this is not the effect of one factor; the numbers name them."
    labels = [str(row[2]) for row in rows] if as_series and others else []
    if not as_series:  # The variant's name holds the other factors.
        rows = [(*row[:2], "", *row[3:]) for row in rows]
        means = [(x if numeric else setting_text(x), mean) for x, mean in marginal.means]
        rows = [(None, x, MARGINAL, *mean, "") for x, mean in means] + rows
    title = f"mean {name}"
    encoding: Spec = {"x": axis, "y": quantitative("mean", title)}
    if not numeric and labels:
        encoding["xOffset"] = nominal("series", None)
    if marginal.means:
        layers = _marginal_layers(title, numeric, any(page.caveats))
    else:
        layers = _layers(title, numeric and as_series, labels, any(page.caveats))
    return Chart(f"{name} against {names[key]}", note, FIELDS, rows, layered(240, encoding, layers))


def _layers(title: str, joined: bool, labels: list[str], any_caveat: bool) -> list[Spec]:
    """Layers of means with intervals, which lines and bands join if the factor is a number."""
    coloured: Spec = series(labels, "color") if labels else {}
    line = {"mark": {"type": "line", "strokeWidth": 1.5}, "encoding": coloured}
    style = {"tooltip": tooltip(FIELDS)} | (series(labels, "color", "shape") if labels else {})
    return [
        *([intervals({"type": "area", "opacity": 0.15}, title, coloured), line] if joined else []),
        intervals({"type": "rule", "strokeWidth": 1.5}, title, coloured),
        *points(style, any_caveat),
    ]


def _marginal_layers(title: str, numeric: bool, any_caveat: bool) -> list[Spec]:
    """Layers of the marginal means with intervals, over the variants as points without any."""
    means = {"filter": "datum.series !== ''"}
    variants: Spec = {
        "transform": [{"filter": "datum.series === ''"}],
        "layer": points({"tooltip": tooltip(FIELDS), "opacity": {"value": 0.3}}, any_caveat),
    }
    mean: Spec = {"type": "point", "filled": True, "shape": "diamond", "size": 90, "color": ACCENT, "opacity": 1}
    area = {"type": "area", "opacity": 0.25, "color": ACCENT}
    line: Spec = {"transform": [means], "mark": {"type": "line", "strokeWidth": 2, "color": ACCENT}}
    return [
        variants,
        *([intervals(area, title, only=[means]), line] if numeric else []),
        intervals({"type": "rule", "strokeWidth": 2, "color": ACCENT}, title, only=[means]),
        {"transform": [means], "mark": mean, "encoding": {"tooltip": tooltip(FIELDS)}},
    ]
