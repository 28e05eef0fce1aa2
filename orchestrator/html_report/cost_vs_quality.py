"""The charts of quality against cost, with the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from orchestrator.host.durations import axis_unit
from orchestrator.html_report.chart import (
    ACCENT,
    SERIES,
    Chart,
    Spec,
    intervals,
    layered,
    left_out,
    points,
    quantitative,
    series,
    spans_decades,
    tooltip,
)
from orchestrator.html_report.mean_interval import INTERVALS, MEAN_FIELDS, share_interval
from orchestrator.html_report.page_data import QUALITY, PageData
from orchestrator.reports.final_metrics import MAIN, MEAN
from orchestrator.reports.finished_trials import FinishedTrial
from orchestrator.reports.number_format import summarise

MOST_VARIANTS = 400
OTHERS = "#4A96D0"
MOST_NAMES = 160
"""Characters up to which a chart's note names the variants on the front."""
PARAMETERS = "parameters"
TIME = "compute time of a trial"
COSTS: dict[str, tuple[str, Callable[[FinishedTrial], float | None]]] = {
    TIME: (
        "Time that a trial took, that of reused stages included; means over the seeds. Machines and their load may differ.",
        lambda trial: trial.seconds_spent + trial.seconds_reused,
    ),
    PARAMETERS: ("Parameters of flow, experts and adapters after the last task.", lambda trial: trial.parameters_total),
}


def cost_charts(page: PageData) -> tuple[Chart, ...]:
    """One chart for each cost; none if fewer than two variants have quality and different costs."""
    charts = (_chart(page, name, note, cost) for name, (note, cost) in COSTS.items())
    return tuple(chart for chart in charts if chart is not None)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each (cost, quality) whether it is on the Pareto front.

    A point is off the front if a different point costs no more and is at least as good.
    """
    best, on_front = float("-inf"), set()
    # From cheap to expensive, a point is on the front if it is better than all before it.
    for cost, quality in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if quality > best:
            best = quality
            on_front.add((cost, quality))
    return [point in on_front for point in points]


def _chart(page: PageData, name: str, cost_note: str, cost: Callable[[FinishedTrial], float | None]) -> Chart | None:
    measured = []
    for k, variant in enumerate(page.variants):
        costs = [value for trial in variant.trials if (value := cost(trial)) is not None]
        mean, quality = summarise(costs).mean, share_interval(variant.values(MEAN, QUALITY))
        if mean is not None and quality.mean is not None:
            measured.append((k, mean, quality.mean, quality))
    if len({mean for _, mean, _, _ in measured}) < 2:
        return None
    title = f"{MAIN[QUALITY]} against {name}"
    if name == TIME:
        unit, size = axis_unit(max(mean for _, mean, _, _ in measured))
        name = f"{name} ({unit})"
        measured = [(k, mean / size, value, interval) for k, mean, value, interval in measured]
    on_front = pareto_front([(mean, quality) for _, mean, quality, _ in measured])
    shown = set(page.spread_over_ranking(MOST_VARIANTS))
    few = len(measured) <= SERIES
    rows = [
        (page.variants[k].label if few else k, mean, *quality, "yes" if best else "no", "; ".join(page.caveats[k]))
        for (k, mean, _, quality), best in zip(measured, on_front, strict=True)
        if best or k in shown
    ]
    others = left_out(len(rows), len(measured), "variants: the front, and others evenly over the ranking")
    y_title = f"mean {MAIN[QUALITY]}"
    scale: Spec = {"type": "log"} if spans_decades([row[1] for row in rows]) else {"padding": 12}
    labels = [str(row[0]) for row in rows] if few else []
    fields = {
        "series" if few else "variant": "Variant",
        "cost": name,
        **MEAN_FIELDS,
        "mean": y_title,
        "front": "Pareto front",
        "caveats": "Caveats",
    }
    x = quantitative("cost", name, scale=scale) | ({"axis": {"format": "~s"}} if name == PARAMETERS else {})
    layers = _layers(y_title, fields, labels, any(page.caveats))
    spec = layered(260, {"x": x, "y": quantitative("mean", y_title)}, layers)
    names = ", ".join(page.variants[k].label for (k, *_), best in zip(measured, on_front, strict=True) if best)
    front_note = (
        f" On the front{' (ringed)' * few}: {names}." if len(names) <= MOST_NAMES else " Ringed: on the front." * few
    )
    note = f"{cost_note} {INTERVALS}{front_note} The front compares means alone.{page.hollow_points_note}{others}"
    return Chart(title, note, fields, rows, spec)


def _layers(y_title: str, fields: Mapping[str, str], labels: Sequence[str], any_caveat: bool) -> list[Spec]:
    """Layers of intervals, front and points; without labels, colour shows the front alone."""
    on_front = {"transform": [{"filter": "datum.front === 'yes'"}]}
    # A step line: between two points of the front, the cheaper one is the best that can be had.
    line = {"type": "line", "interpolate": "step-after", "strokeDash": [4, 3], "color": ACCENT}
    ring = {"type": "point", "filled": False, "size": 260, "strokeWidth": 1.5, "color": ACCENT}
    style: Spec = (
        series(labels, "color", "shape")
        if labels
        else {"color": _sides(ACCENT, OTHERS), "shape": _sides("diamond", "circle")}
    )
    layers: list[Spec] = [
        intervals({"type": "rule", "opacity": 0.5}, y_title, series(labels, "color") if labels else None),
        on_front | {"mark": line, "encoding": {"order": {"field": "cost", "type": "quantitative"}}},
        *points(style | {"tooltip": tooltip(fields)}, any_caveat),
    ]
    return [*layers, on_front | {"mark": ring}] if labels else layers


def _sides(on: str, off: str) -> Spec:
    scale = {"domain": ["yes", "no"], "range": [on, off]}
    return {"field": "front", "type": "nominal", "title": "on the Pareto front", "scale": scale}
