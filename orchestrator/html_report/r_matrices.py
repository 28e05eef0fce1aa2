"""R matrix heat maps: R[i,j], the metric of task j after task i was learned, mean over the seeds of a variant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.html_report.chart import VALID, Chart, ChartGroup, Spec, nominal, tooltip
from orchestrator.html_report.mean_interval import MeanInterval, mean_interval
from orchestrator.html_report.page_data import PageData
from orchestrator.reports.final_metrics import CONTINUAL
from orchestrator.reports.tables import MAIN
from orchestrator.results.schema import FINISHED

MOST = 8
WRITTEN_IN = 6
"""Tasks up to which the numbers stand in the squares."""
FIELDS = {
    "after": "After task",
    "task": "Task",
    "mean": "Mean",
    "low": "95 % low",
    "high": "95 % high",
    "n": "n (seeds)",
}
Place = tuple[int, int]


def matrix_groups(evidence: PageData) -> tuple[ChartGroup, ...]:
    """For each metric of R one heat map a variant."""
    places = evidence.chosen(MOST)
    trials = {t.trial_id: k for k in places for t in evidence.variants[k].trials}
    rows = _rows(evidence, trials)
    groups = []
    for metric in CONTINUAL:
        charts = _charts(evidence, places, trials, rows, metric)
        if charts:
            groups.append(ChartGroup(MAIN[metric], charts, folded=metric != CONTINUAL[0]))
    return tuple(groups)


def _rows(evidence: PageData, trials: Mapping[str, int]) -> list[dict[str, Any]]:
    columns = ["trial_id", "status", "split", "after_task", "task", "task_name", "after_task_name", *CONTINUAL]
    split = evidence.lock.recipe.split
    return [
        row
        for row in evidence.store.read("metrics", columns).to_pylist()
        if row["trial_id"] in trials and row["split"] == split and row["status"] == FINISHED
    ]


def _charts(
    evidence: PageData, places: tuple[int, ...], trials: Mapping[str, int], rows: list[dict[str, Any]], metric: str
) -> tuple[Chart, ...]:
    found: dict[int, dict[Place, list[float]]] = {k: {} for k in places}
    names: dict[int, dict[Place, tuple[str, str]]] = {k: {} for k in places}
    for row in rows:
        if row[metric] is not None:
            k, place = trials[row["trial_id"]], (row["after_task"], row["task"])
            found[k].setdefault(place, []).append(row[metric])
            names[k][place] = row["after_task_name"], row["task_name"]
    estimates = {k: {place: mean_interval(values) for place, values in of.items()} for k, of in found.items()}
    means = [e.mean for of in estimates.values() for e in of.values() if e.mean is not None]
    if not means:
        return ()
    domain = (min(means), max(1.0, *means))
    return tuple(_chart(evidence, k, estimates[k], names[k], domain, metric) for k in places if estimates[k])


def _chart(
    evidence: PageData,
    k: int,
    estimates: Mapping[Place, MeanInterval],
    names: Mapping[Place, tuple[str, str]],
    domain: tuple[float, float],
    metric: str,
) -> Chart:
    rows = [(*names[p], e.mean, e.low, e.high, e.n) for p, e in sorted(estimates.items())]
    seeds = len(evidence.variants[k].seeds)
    middle = sum(domain) / 2
    colour: Spec = {
        "field": "mean",
        "type": "quantitative",
        "title": None,
        "scale": {"scheme": "cividis", "domain": list(domain)},
    }
    ink = {"condition": {"test": f"datum.mean > {middle:.6g}", "value": "#111"}, "value": "#fff"}
    written = max(i for i, _ in estimates) < WRITTEN_IN
    if written:
        colour["legend"] = None
    layers: list[Spec] = [{"mark": {"type": "rect"}, "encoding": {"color": colour, "tooltip": tooltip(FIELDS)}}]
    if written:
        mean = {"text": {"field": "mean", "format": ".3f"}, "color": ink}
        layers.append({"mark": {"type": "text", "fontSize": 11, "dy": -5}, "encoding": mean})
        half = {"text": {"field": "half", "format": ".3f"}, "color": ink}
        spread: Spec = {
            "transform": [
                VALID,
                {"calculate": "'± ' + format((datum.high - datum.low) / 2, '.3f')", "as": "half"},
            ],
            "mark": {"type": "text", "fontSize": 9, "dy": 8},
            "encoding": half | {"text": {"field": "half"}},
        }
        layers.append(spread)
    tasks = len({i for i, _ in estimates})
    spec: Spec = {
        "width": "container",
        "height": tasks * max(18, min(44, 240 // tasks)),
        "encoding": {
            "x": nominal("task", "task j", axis={"labelAngle": -35, "labelLimit": 90}),
            "y": nominal("after", "after task i", axis={"labelLimit": 90}),
        },
        "layer": layers,
    }
    note = f"n = {seeds} seed{'s' * (seeds != 1)}; ± is half the 95 % t interval (three seeds or more). One colour scale for all."
    marked = f" {'; '.join(evidence.marks[k])}." if evidence.marks[k] else ""
    return Chart(f"{evidence.variants[k].label}: R, {MAIN[metric]}", note + marked, FIELDS, rows, spec)
