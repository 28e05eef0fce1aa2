"""Cost against quality, with the variants that no other one beats in both marked: the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.page.chart import HOLLOW, VALID, Chart, Spec, number, spans_decades, tooltip
from orchestrator.page.estimate import INTERVALS, estimate
from orchestrator.page.evidence import QUALITY, Evidence
from orchestrator.reports.cells import summarise
from orchestrator.reports.final import MEAN
from orchestrator.reports.tables import MAIN
from orchestrator.reports.variants import FinishedTrial

MOST = 400
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


def cost_charts(evidence: Evidence) -> tuple[Chart, ...]:
    """One chart for each cost; nothing where only one variant has quality and cost."""
    charts = (_chart(evidence, name, said, cost) for name, (said, cost) in COSTS.items())
    return tuple(chart for chart in charts if chart is not None)


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For each (cost, quality) whether no other point costs at most as much, is at least as good, and differs."""
    best, on_front = float("-inf"), set()
    for cost, quality in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if quality > best:
            best = quality
            on_front.add((cost, quality))
    return [point in on_front for point in points]


def _chart(evidence: Evidence, name: str, said: str, cost: Callable[[FinishedTrial], float | None]) -> Chart | None:
    fields = {
        "variant": "Variant",
        "cost": name,
        "mean": f"mean {MAIN[QUALITY]}",
        "low": "95 % low",
        "high": "95 % high",
        "n": "n (seeds)",
        "front": "Pareto front",
        "marks": "Marks",
    }
    found = []
    for k, variant in enumerate(evidence.variants):
        costs = [value for trial in variant.trials if (value := cost(trial)) is not None]
        mean, of = summarise(costs).mean, estimate(variant.values(MEAN, QUALITY))
        if mean is not None and of.mean is not None:
            found.append((k, mean, of.mean, of))
    if len(found) < 2 or len({mean for _, mean, _, _ in found}) < 2:
        return None
    on_front = front([(mean, quality) for _, mean, quality, _ in found])
    shown = set(evidence.spread(MOST))
    rows = [
        (
            k,
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
    layers: list[Spec] = [
        {
            "transform": [VALID],
            "mark": {"type": "rule", "opacity": 0.5},
            "encoding": {"y": number("low", y_title), "y2": {"field": "high"}},
        },
        {
            "transform": [{"filter": "datum.front === 'yes'"}],
            "mark": {"type": "line", "interpolate": "step-after", "strokeDash": [4, 3], "color": "#D55E00"},
            "encoding": {"order": {"field": "cost", "type": "quantitative"}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 60, "strokeOpacity": 1, "strokeWidth": 1.5},
            "encoding": HOLLOW
            | {
                "color": {
                    "field": "front",
                    "type": "nominal",
                    "title": "on the Pareto front",
                    "scale": {"domain": ["yes", "no"], "range": ["#D55E00", "#4A96D0"]},
                },
                "shape": {
                    "field": "front",
                    "type": "nominal",
                    "title": "on the Pareto front",
                    "scale": {"domain": ["yes", "no"], "range": ["diamond", "circle"]},
                },
                "tooltip": tooltip(fields),
            },
        },
    ]
    spec: Spec = {
        "width": "container",
        "height": 260,
        "encoding": {
            "x": number("cost", name, scale=scale) | ({"axis": {"format": "~s"}} if name == PARAMETERS else {}),
            "y": number("mean", y_title),
        },
        "layer": layers,
    }
    names = ", ".join(evidence.variants[k].label for (k, *_), best in zip(found, on_front, strict=True) if best)
    on_it = f" On the front: {names}." if len(names) <= LONGEST else ""
    note = f"{said} {INTERVALS}{on_it} The front is one of means and says nothing of significance.{evidence.hollow}{left_out}"
    return Chart(title, note, fields, rows, spec)
