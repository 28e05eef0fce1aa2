"""The charts of each class's metric after the final task, for all variants."""

from __future__ import annotations

from orchestrator.html_report.chart import (
    SERIES,
    Chart,
    intervals,
    layered,
    left_out,
    nominal,
    points,
    quantitative,
    series,
    tooltip,
)
from orchestrator.html_report.mean_interval import INTERVALS, MEAN_FIELDS, share_interval
from orchestrator.html_report.page_data import PageData
from orchestrator.reports.final_metrics import MAIN

FIELDS = {"class": "Class", "series": "Variant", **MEAN_FIELDS, "caveats": "Caveats"}


def class_charts(page: PageData) -> tuple[Chart, ...]:
    """One chart for each metric that any class has; routing accuracy has none."""
    return tuple(chart for metric in MAIN if metric != "routing_accuracy" and (chart := _chart(page, metric)))


def _chart(page: PageData, metric: str) -> Chart | None:
    variants = page.baselines_and_extremes(SERIES)
    rows = []
    for name in page.classes:
        for k in variants:
            mean = share_interval(page.variants[k].values(name, metric))
            if mean.mean is not None:
                rows.append((name, page.variants[k].label, *mean, "; ".join(page.caveats[k])))
    if not rows:
        return None
    note = INTERVALS + page.hollow_points_note
    note += left_out(len(variants), len(page.variants), "variants: baseline, best and worst")
    y = nominal("class", None, axis={"labelLimit": 110}, scale={"paddingInner": 0.3})
    encoding = {"y": y, "x": quantitative("mean", MAIN[metric])}
    if len(variants) > 1:
        encoding["yOffset"] = nominal("series", None)
    labels = [page.variants[k].label for k in variants]
    style = series(labels, "color", "shape") | {"tooltip": tooltip(FIELDS)}
    layers = [
        intervals({"type": "rule", "strokeWidth": 1.5}, MAIN[metric], series(labels, "color"), axis="x"),
        *points(style, any(page.caveats[k] for k in variants)),
    ]
    height = len({row[0] for row in rows}) * (12 + len(variants) * max(6, min(14, 60 // len(variants))))
    return Chart(f"{MAIN[metric]} of each class", note, FIELDS, rows, layered(height, encoding, layers))
