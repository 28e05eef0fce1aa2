"""Per-class dots: each class's metric after the final task, variant beside variant."""

from __future__ import annotations

from orchestrator.page.chart import SERIES, VALID, Chart, Spec, category, number, points, series, tooltip
from orchestrator.page.estimate import INTERVALS, estimate
from orchestrator.page.evidence import Evidence
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


def class_charts(evidence: Evidence) -> tuple[Chart, ...]:
    """One chart for each metric that any class has."""
    return tuple(chart for metric in MAIN if metric != "routing_accuracy" and (chart := _chart(evidence, metric)))


def _chart(evidence: Evidence, metric: str) -> Chart | None:
    places = evidence.chosen(SERIES)
    rows = []
    for name in evidence.classes:
        for k in places:
            of = estimate(evidence.variants[k].values(name, metric))
            if of.mean is not None:
                label, marks = evidence.variants[k].label, "; ".join(evidence.marks[k])
                rows.append((name, label, of.mean, of.low, of.high, of.n, marks))
    if not rows:
        return None
    left_out = f" {len(places)} of {len(evidence.variants)} variants: baseline, best and worst." * (
        len(places) < len(evidence.variants)
    )
    y: Spec = category("class", None, axis={"labelLimit": 110}) | {"scale": {"paddingInner": 0.3}}
    labels = [evidence.variants[k].label for k in places]
    colour = series(labels, "color")
    bounds = {"x": number("low", MAIN[metric]), "x2": {"field": "high"}} | colour
    spec: Spec = {
        "width": "container",
        "height": len({row[0] for row in rows}) * (12 + len(places) * max(6, min(14, 60 // len(places)))),
        "encoding": {"y": y, "x": number("mean", MAIN[metric])},
        "layer": [
            {"transform": [VALID], "mark": {"type": "rule", "strokeWidth": 1.5}, "encoding": bounds},
            *points(
                series(labels, "color", "shape") | {"tooltip": tooltip(FIELDS)}, any(evidence.marks[k] for k in places)
            ),
        ],
    }
    if len(places) > 1:
        spec["encoding"]["yOffset"] = category("series", None)
    return Chart(f"{MAIN[metric]} of each class", f"{INTERVALS}{evidence.hollow}{left_out}", FIELDS, rows, spec)
