"""Cost against quality, with the variants that no other one beats in both marked: the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from orchestrator.html_report.chart import (
    ACCENT,
    SERIES,
    VALID,
    Chart,
    Spec,
    points,
    quantitative,
    series,
    spans_decades,
    tooltip,
)
from orchestrator.html_report.mean_interval import INTERVALS, mean_interval
from orchestrator.html_report.page_data import QUALITY, PageData
from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.finished_trials import FinishedTrial
from orchestrator.reports.number_format import summarise
from orchestrator.reports.tables import MAIN

MOST = 400
OTHERS = "#4A96D0"
LONGEST = 160
"""Characters of names up to which a note holds them; else the numbers do."""
PARAMETERS = "parameters"
COSTS: dict[str, tuple[str, Callable[[FinishedTrial], float | None]]] = {
    "compute-hours a trial": (
        "Hours that a trial took, with what it took from earlier work counted at its first cost; means over the seeds, on "
        "whatever machine and beside whatever load they ran.",
        lambda trial: (trial.seconds_spent + trial.seconds_reused) / 3600,
    ),
    PARAMETERS: ("Parameters of flow, experts and adapters after the last task.", lambda trial: trial.parameters_total),
}


def cost_charts(evidence: PageData) -> tuple[Chart, ...]:
    """One chart for each cost; nothing where only one variant has quality and cost."""
    charts = (_chart(evidence, name, said, cost) for name, (said, cost) in COSTS.items())
    return tuple(chart for chart in charts if chart is not None)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For each (cost, quality) whether no other point costs at most as much, is at least as good, and differs."""
    best, on_front = float("-inf"), set()
    for cost, quality in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if quality > best:
            best = quality
            on_front.add((cost, quality))
    return [point in on_front for point in points]


def _chart(evidence: PageData, name: str, said: str, cost: Callable[[FinishedTrial], float | None]) -> Chart | None:
    found = []
    for k, variant in enumerate(evidence.variants):
        costs = [value for trial in variant.trials if (value := cost(trial)) is not None]
        mean, of = summarise(costs).mean, mean_interval(variant.values(MEAN, QUALITY))
        if mean is not None and of.mean is not None:
            found.append((k, mean, of.mean, of))
    if len(found) < 2 or len({mean for _, mean, _, _ in found}) < 2:
        return None
    on_front = pareto_front([(mean, quality) for _, mean, quality, _ in found])
    shown = set(evidence.spread(MOST))
    few = len(found) <= SERIES
    rows = [
        (
            evidence.variants[k].label if few else k,
            mean,
            of.mean,
            of.low,
            of.high,
            of.n,
            "yes" if best else "no",
            "; ".join(evidence.marks[k]),
        )
        for (k, mean, _, of), best in zip(found, on_front, strict=True)
        if best or k in shown
    ]
    left_out = f" {len(rows)} of {len(found)} variants: the front, and others evenly over the ranking." * (
        len(rows) < len(found)
    )
    title, y_title = f"{MAIN[QUALITY]} against {name}", f"mean {MAIN[QUALITY]}"
    scale: Spec = {"type": "log"} if spans_decades([row[1] for row in rows]) else {"padding": 12}
    labels = [str(row[0]) for row in rows] if few else []
    fields = {
        "series" if few else "variant": "Variant",
        "cost": name,
        "mean": y_title,
        "low": "95 % low",
        "high": "95 % high",
        "n": "n (seeds)",
        "front": "Pareto front",
        "marks": "Marks",
    }
    spec: Spec = {
        "width": "container",
        "height": 260,
        "encoding": {
            "x": quantitative("cost", name, scale=scale) | ({"axis": {"format": "~s"}} if name == PARAMETERS else {}),
            "y": quantitative("mean", y_title),
        },
        "layer": _layers(y_title, fields, labels, any(evidence.marks)),
    }
    names = ", ".join(evidence.variants[k].label for (k, *_), best in zip(found, on_front, strict=True) if best)
    on_it = f" On the front{' (ringed)' * few}: {names}." if len(names) <= LONGEST else " Ringed: on the front." * few
    note = f"{said} {INTERVALS}{on_it} The front is one of means and says nothing of significance.{evidence.hollow}{left_out}"
    return Chart(title, note, fields, rows, spec)


def _layers(y_title: str, fields: Mapping[str, str], labels: Sequence[str], marked: bool) -> list[Spec]:
    """Intervals, the front and the points: as other charts draw the variants where they are few, else on the front or not."""
    on_front = {"transform": [{"filter": "datum.front === 'yes'"}]}
    rule = {"type": "rule", "opacity": 0.5}
    bounds: Spec = {"y": quantitative("low", y_title), "y2": {"field": "high"}}
    line = {"type": "line", "interpolate": "step-after", "strokeDash": [4, 3], "color": ACCENT}
    ring = {"type": "point", "filled": False, "size": 260, "strokeWidth": 1.5, "color": ACCENT}
    told: Spec = (
        series(labels, "color", "shape")
        if labels
        else {"color": _sides(ACCENT, OTHERS), "shape": _sides("diamond", "circle")}
    )
    layers: list[Spec] = [
        {"transform": [VALID], "mark": rule, "encoding": bounds | (series(labels, "color") if labels else {})},
        on_front | {"mark": line, "encoding": {"order": {"field": "cost", "type": "quantitative"}}},
        *points(told | {"tooltip": tooltip(fields)}, marked),
    ]
    return [*layers, on_front | {"mark": ring}] if labels else layers


def _sides(on: str, off: str) -> Spec:
    scale = {"domain": ["yes", "no"], "range": [on, off]}
    return {"field": "front", "type": "nominal", "title": "on the Pareto front", "scale": scale}
