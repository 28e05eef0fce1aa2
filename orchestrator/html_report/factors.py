"""Metric against factor: for each factor that is compared, its values against the mean metrics, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.html_report.chart import (
    ACCENT,
    SERIES,
    VALID,
    Chart,
    ChartGroup,
    Spec,
    nominal,
    points,
    quantitative,
    series,
    spans_decades,
    tooltip,
)
from orchestrator.html_report.marginal_means import MarginalMean, marginal_means
from orchestrator.html_report.mean_interval import INTERVALS, mean_interval
from orchestrator.html_report.page_data import PageData
from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.number_format import plain_value, setting_text
from orchestrator.reports.tables import MAIN
from orchestrator.reports.variants import VariantColumn, mean_name, short_names

MOST = 400
OVER = "mean over the other factors"
SCATTER = 12
"""Variants from which on a factor is shown though it never differs alone."""
FIELDS = {
    "variant": "Variant",
    "x": "Value",
    "series": "Series",
    "mean": "Mean",
    "low": "95 % low",
    "high": "95 % high",
    "n": "n (seeds)",
    "marks": "Marks",
}


def factor_charts(evidence: PageData) -> ChartGroup:
    """One chart for each factor and metric.

    A factor that never differs alone is left out: its chart would show what all factors together do. Over many variants, as of
    random draws, it is shown, and its note says so.
    """
    metrics = [m for m in MAIN if any(variant.values(MEAN, m) for variant in evidence.variants)]
    shown = [m for m in metrics if m != "routing_accuracy"] or metrics
    compared = evidence.comparison.compared
    if not compared:
        return ChartGroup("", (), "No factor differs between the variants.")
    drawn = [key for key in compared if len(evidence.variants) >= SCATTER or _differs_alone(evidence, key)]
    left_out = ", ".join(f"`{key}`" for key in compared if key not in drawn)
    missing = f"No chart against {left_out}: no two variants differ in one of these factors alone." if left_out else ""
    return ChartGroup("", tuple(_chart(evidence, key, metric) for key in drawn for metric in shown), missing)


def _rest(variant: VariantColumn, compared: Sequence[str], key: str) -> tuple[str, ...]:
    return tuple(setting_text(variant.factors[other]) for other in compared if other != key)


def _differs_alone(evidence: PageData, key: str) -> bool:
    rests = [_rest(variant, evidence.comparison.compared, key) for variant in evidence.variants]
    return len(set(rests)) < len(rests)


def _marginal(evidence: PageData, key: str, metric: str) -> MarginalMean:
    def value(variant: VariantColumn) -> object:
        return setting_text(variant.factors[key])

    means = marginal_means(
        evidence.variants, value, lambda variant: _rest(variant, evidence.comparison.compared, key), metric
    )
    plain_of = {value(variant): plain_value(variant.factors[key]) for variant in evidence.variants}
    return MarginalMean(tuple((plain_of[x], of) for x, of in means.means), means.settings)


def _chart(evidence: PageData, key: str, metric: str) -> Chart:
    compared, places = evidence.comparison.compared, evidence.spread(MOST)
    names = short_names(compared)
    others = [other for other in compared if other != key]
    values = {k: plain_value(evidence.variants[k].factors[key]) for k in places}
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.values())
    rows: list[tuple[object, ...]] = []
    for k in places:
        variant = evidence.variants[k]
        of = mean_interval(variant.values(MEAN, metric))
        rest = ", ".join(f"{names[other]}={setting_text(variant.factors[other])}" for other in others)
        x = values[k] if numeric else setting_text(values[k])
        marks = "; ".join(evidence.marks[k])
        rows.append((k, x, rest, of.mean, of.low, of.high, of.n, marks))
    told_apart = len({row[2] for row in rows}) <= SERIES
    over = MarginalMean() if told_apart else _marginal(evidence, key, metric)
    angle = -35 if len(set(map(setting_text, values.values()))) > 6 else 0
    axis: Spec = nominal("x", names[key], axis={"labelAngle": angle, "labelLimit": 90})
    if numeric:
        decades = spans_decades([float(str(value)) for value in values.values()])
        scale: Spec = {"type": "log", "nice": False} if decades else {}
        axis = quantitative("x", names[key], scale={**scale, "padding": 12}) | (
            {"axis": {"grid": False}} if decades else {}
        )
    name = mean_name(evidence.variants, metric, MAIN[metric])
    left_out = f" {len(places)} of {len(evidence.variants)} variants, evenly over their ranking." * (
        len(places) < len(evidence.variants)
    )
    note = f"{INTERVALS}{evidence.hollow}{left_out}"
    if over.means:
        note += f" Band: the mean over the {over.settings} settings of the other factors that every value has; points: the variants."
    elif not told_apart:
        note += (
            " The other factors differ from point to point, so this is no effect of one factor; the numbers name them."
        )
    labels = [str(row[2]) for row in rows] if told_apart and others else []
    if not told_apart:  # A variant's name says it already.
        rows = [(*row[:2], "", *row[3:]) for row in rows]
        means = [(x if numeric else setting_text(x), of) for x, of in over.means]
        rows = [(None, x, OVER, of.mean, of.low, of.high, of.n, "") for x, of in means] + rows
    spec = _spec(axis, f"mean {name}", numeric, told_apart, labels, any(evidence.marks))
    if over.means:
        spec["layer"] = _over(f"mean {name}", numeric, any(evidence.marks))
    return Chart(f"{name} against {names[key]}", note, FIELDS, rows, spec)


def _spec(axis: Spec, title: str, numeric: bool, told_apart: bool, labels: list[str], marked: bool) -> Spec:
    y = quantitative("mean", title)
    encoding: Spec = {"x": axis, "y": y}
    coloured: Spec = series(labels, "color") if labels else {}
    if not numeric and labels:
        encoding["xOffset"] = nominal("series", None)
    bounds = {"y": quantitative("low", title), "y2": {"field": "high"}}
    layers: list[Spec] = []
    if numeric and told_apart:
        layers.append({"transform": [VALID], "mark": {"type": "area", "opacity": 0.15}, "encoding": bounds | coloured})
        layers.append({"mark": {"type": "line", "strokeWidth": 1.5}, "encoding": coloured})
    layers.append({"transform": [VALID], "mark": {"type": "rule", "strokeWidth": 1.5}, "encoding": bounds | coloured})
    told = {"tooltip": tooltip(FIELDS)} | (series(labels, "color", "shape") if labels else {})
    layers += points(told, marked)
    return {"width": "container", "height": 240, "encoding": encoding, "layer": layers}


def _over(title: str, numeric: bool, marked: bool) -> list[Spec]:
    """The variants as points behind the marginal means, whose intervals alone are drawn: those of so many points would cover each other."""
    bounds = {"y": quantitative("low", title), "y2": {"field": "high"}}
    means = {"filter": "datum.series !== ''"}
    variants: Spec = {
        "transform": [{"filter": "datum.series === ''"}],
        "layer": points({"tooltip": tooltip(FIELDS), "opacity": {"value": 0.3}}, marked),
    }
    mean: Spec = {"type": "point", "filled": True, "shape": "diamond", "size": 90, "color": ACCENT, "opacity": 1}
    found = [
        variants,
        {"transform": [means, VALID], "mark": {"type": "rule", "strokeWidth": 2, "color": ACCENT}, "encoding": bounds},
        {"transform": [means], "mark": mean, "encoding": {"tooltip": tooltip(FIELDS)}},
    ]
    if numeric:
        area = {"type": "area", "opacity": 0.25, "color": ACCENT}
        found.insert(1, {"transform": [means], "mark": {"type": "line", "strokeWidth": 2, "color": ACCENT}})
        found.insert(1, {"transform": [means, VALID], "mark": area, "encoding": bounds})
    return found
