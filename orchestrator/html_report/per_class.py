"""The charts of each class's metric after the final task, for all variants."""

from __future__ import annotations

from orchestrator.html_report.chart import (
    HAS_INTERVAL,
    SERIES,
    Chart,
    Spec,
    nominal,
    points,
    quantitative,
    series,
    tooltip,
)
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
    "caveats": "Caveats",
}


def class_charts(page: PageData) -> tuple[Chart, ...]:
    """One chart for each metric that any class has; routing accuracy has none."""
    return tuple(chart for metric in MAIN if metric != "routing_accuracy" and (chart := _chart(page, metric)))


def _chart(page: PageData, metric: str) -> Chart | None:
    variants = page.baselines_and_extremes(SERIES)
    rows = []
    for name in page.classes:
        for k in variants:
            mean = mean_interval(page.variants[k].values(name, metric))
            if mean.mean is not None:
                label, caveats = page.variants[k].label, "; ".join(page.caveats[k])
                rows.append((name, label, mean.mean, mean.low, mean.high, mean.n, caveats))
    if not rows:
        return None
    left_out = f" {len(variants)} of {len(page.variants)} variants: baseline, best and worst." * (
        len(variants) < len(page.variants)
    )
    y: Spec = nominal("class", None, axis={"labelLimit": 110}) | {"scale": {"paddingInner": 0.3}}
    labels = [page.variants[k].label for k in variants]
    colour = series(labels, "color")
    bounds = {"x": quantitative("low", MAIN[metric]), "x2": {"field": "high"}} | colour
    spec: Spec = {
        "width": "container",
        "height": len({row[0] for row in rows}) * (12 + len(variants) * max(6, min(14, 60 // len(variants)))),
        "encoding": {"y": y, "x": quantitative("mean", MAIN[metric])},
        "layer": [
            {"transform": [HAS_INTERVAL], "mark": {"type": "rule", "strokeWidth": 1.5}, "encoding": bounds},
            *points(
                series(labels, "color", "shape") | {"tooltip": tooltip(FIELDS)}, any(page.caveats[k] for k in variants)
            ),
        ],
    }
    if len(variants) > 1:
        spec["encoding"]["yOffset"] = nominal("series", None)
    return Chart(f"{MAIN[metric]} of each class", f"{INTERVALS}{page.hollow_points_note}{left_out}", FIELDS, rows, spec)
