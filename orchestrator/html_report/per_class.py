"""Per-class dots: each class's metric after the final task, variant beside variant."""

from __future__ import annotations

from orchestrator.html_report.chart import SERIES, VALID, Chart, Spec, nominal, points, quantitative, series, tooltip
from orchestrator.html_report.mean_interval import INTERVALS, mean_interval
from orchestrator.html_report.page_data import PageData
from orchestrator.reports.tables import MAIN

FIELDS = {
    "class": "Class",
    "series": "Variant",
    "mean": "Mean",
    "low": "95 % low",
    "high": "95 % high",
    "n": "n (seeds)",
    "marks": "Marks",
}


def class_charts(evidence: PageData) -> tuple[Chart, ...]:
    """One chart for each metric that any class has."""
    return tuple(chart for metric in MAIN if metric != "routing_accuracy" and (chart := _chart(evidence, metric)))


def _chart(evidence: PageData, metric: str) -> Chart | None:
    places = evidence.chosen(SERIES)
    rows = []
    for name in evidence.classes:
        for k in places:
            of = mean_interval(evidence.variants[k].values(name, metric))
            if of.mean is not None:
                label, marks = evidence.variants[k].label, "; ".join(evidence.marks[k])
                rows.append((name, label, of.mean, of.low, of.high, of.n, marks))
    if not rows:
        return None
    left_out = f" {len(places)} of {len(evidence.variants)} variants: baseline, best and worst." * (
        len(places) < len(evidence.variants)
    )
    y: Spec = nominal("class", None, axis={"labelLimit": 110}) | {"scale": {"paddingInner": 0.3}}
    labels = [evidence.variants[k].label for k in places]
    colour = series(labels, "color")
    bounds = {"x": quantitative("low", MAIN[metric]), "x2": {"field": "high"}} | colour
    spec: Spec = {
        "width": "container",
        "height": len({row[0] for row in rows}) * (12 + len(places) * max(6, min(14, 60 // len(places)))),
        "encoding": {"y": y, "x": quantitative("mean", MAIN[metric])},
        "layer": [
            {"transform": [VALID], "mark": {"type": "rule", "strokeWidth": 1.5}, "encoding": bounds},
            *points(
                series(labels, "color", "shape") | {"tooltip": tooltip(FIELDS)}, any(evidence.marks[k] for k in places)
            ),
        ],
    }
    if len(places) > 1:
        spec["encoding"]["yOffset"] = nominal("series", None)
    return Chart(f"{MAIN[metric]} of each class", f"{INTERVALS}{evidence.hollow}{left_out}", FIELDS, rows, spec)
