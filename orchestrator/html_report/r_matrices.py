"""The heat maps of R[i,j]: the metric of task j after task i, mean over a variant's seeds.

A task of several classes has one column for each class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.html_report.chart import HAS_INTERVAL, Chart, ChartGroup, Spec, layered, nominal, tooltip
from orchestrator.html_report.mean_interval import MEAN_FIELDS, MeanInterval, share_interval
from orchestrator.html_report.page_data import PageData
from orchestrator.reports.final_metrics import CONTINUAL, MAIN
from orchestrator.reports.finished_trials import FinishedTrial
from orchestrator.results.schema import FINISHED

MOST_VARIANTS = 8
MOST_TASKS_WRITTEN = 6
"""Tasks up to which the squares hold their numbers."""
FIELDS = {"after": "After task", "task": "Task", **MEAN_FIELDS}
Cell = tuple[int, int, int]
"""(i, j, k): after task i, class k of task j."""


def matrix_groups(page: PageData) -> tuple[ChartGroup, ...]:
    """For each metric of R, one heat map for each variant."""
    variants = page.baselines_and_extremes(MOST_VARIANTS)
    trials = {t.trial_id: k for k in variants for t in page.variants[k].trials}
    columns = ["trial_id", "status", "split", "after_task", "task", "task_name", "after_task_name", *CONTINUAL]
    split = page.lock.recipe.split
    places = {t.trial_id: _places(t) for k in variants for t in page.variants[k].trials}
    rows = [
        row
        for row in page.store.read("metrics", columns).to_pylist()
        if row["trial_id"] in trials and row["split"] == split and row["status"] == FINISHED
    ]
    of_metrics = {metric: _charts(page, variants, trials, places, rows, metric) for metric in CONTINUAL}
    return tuple(ChartGroup(MAIN[m], of, folded=m != CONTINUAL[0]) for m, of in of_metrics.items() if of)


def _places(trial: FinishedTrial) -> dict[str, int]:
    """Return the position of each class within its task."""
    return {name: k for names in trial.tasks for k, name in enumerate(names)}


def _charts(
    page: PageData,
    variants: tuple[int, ...],
    trials: Mapping[str, int],
    places: Mapping[str, Mapping[str, int]],
    rows: list[dict[str, Any]],
    metric: str,
) -> tuple[Chart, ...]:
    values: dict[int, dict[Cell, list[float]]] = {k: {} for k in variants}
    names: dict[int, dict[Cell, tuple[str, str]]] = {k: {} for k in variants}
    for row in rows:
        if row[metric] is not None:
            k, place = trials[row["trial_id"]], places[row["trial_id"]][row["task_name"]]
            cell = row["after_task"], row["task"], place
            values[k].setdefault(cell, []).append(row[metric])
            names[k][cell] = row["after_task_name"], row["task_name"]
    estimates = {k: {cell: share_interval(v) for cell, v in by_cell.items()} for k, by_cell in values.items()}
    means = [e.mean for by_cell in estimates.values() for e in by_cell.values() if e.mean is not None]
    if not means:
        return ()
    domain = (min(means), max(1.0, *means))
    return tuple(_chart(page, k, estimates[k], names[k], domain, metric) for k in variants if estimates[k])


def _chart(
    page: PageData,
    k: int,
    estimates: Mapping[Cell, MeanInterval],
    names: Mapping[Cell, tuple[str, str]],
    domain: tuple[float, float],
    metric: str,
) -> Chart:
    rows = [(*names[p], *e) for p, e in sorted(estimates.items())]
    seeds = len(page.variants[k].seeds)
    middle = sum(domain) / 2
    colour: Spec = {
        "field": "mean",
        "type": "quantitative",
        "title": None,
        "scale": {"scheme": "cividis", "domain": list(domain)},
    }
    # Dark text on the light half of the colour scale, white text on the dark half.
    ink = {"condition": {"test": f"datum.mean > {middle:.6g}", "value": "#111"}, "value": "#fff"}
    layers: list[Spec] = [{"mark": {"type": "rect"}, "encoding": {"color": colour, "tooltip": tooltip(FIELDS)}}]
    columns = len({(j, place) for _, j, place in estimates})
    if columns <= MOST_TASKS_WRITTEN:
        colour["legend"] = None
        mean = {"text": {"field": "mean", "format": ".3f"}, "color": ink}
        bounds = {"calculate": "format(datum.low, '.3f') + '\u2013' + format(datum.high, '.3f')", "as": "bounds"}
        layers += [
            {"mark": {"type": "text", "fontSize": 11, "dy": -5}, "encoding": mean},
            {
                "transform": [HAS_INTERVAL, bounds],
                "mark": {"type": "text", "fontSize": 9, "dy": 8},
                "encoding": {"text": {"field": "bounds"}, "color": ink},
            },
        ]
    axes = {
        "x": nominal("task", "task j", axis={"labelAngle": -35, "labelLimit": 90}),
        "y": nominal("after", "after task i", axis={"labelLimit": 90}),
    }
    spec = layered(columns * max(18, min(44, 240 // columns)), axes, layers)
    note = f"n = {seeds} seed{'s' * (seeds != 1)}; below each mean its 95 % interval (three seeds or more). One colour scale for all."
    caveats = f" {'; '.join(page.caveats[k])}." if page.caveats[k] else ""
    return Chart(f"{page.variants[k].label}: R, {MAIN[metric]}", note + caveats, FIELDS, rows, spec)
