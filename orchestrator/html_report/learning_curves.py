"""The learning curves: the negative log-likelihood of each epoch, task by task."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from orchestrator.html_report.best_and_worst import extreme_trials
from orchestrator.html_report.chart import (
    SERIES,
    Chart,
    Spec,
    intervals,
    layered,
    left_out,
    quantitative,
    series,
    tooltip,
)
from orchestrator.html_report.mean_interval import MEAN_FIELDS, mean_interval
from orchestrator.html_report.page_data import PageData
from orchestrator.reports.number_format import grouped
from orchestrator.results.schema import FINISHED

MOST_EPOCHS = 60
"""Epochs of a curve that are shown; longer curves are thinned evenly."""
FEW_EPOCHS = 6
"""Epochs up to which each gets a tick; Vega would put ticks at half epochs."""
FIELDS = {"epoch": "Epoch", "series": "Curve", **MEAN_FIELDS, "mean": "Mean NLL per patch, nats"}


@dataclass(frozen=True)
class Curve:
    """The mean NLL per patch, in nats, of each epoch of one trial's task."""

    trial_id: str
    task: int
    task_name: str
    nll: tuple[float, ...]


def read_curves(page: PageData, trial_ids: Collection[str]) -> tuple[Curve, ...]:
    """Read the curves of finished trials, in order of trials and tasks."""
    columns = ["trial_id", "status", "task", "task_name", "epoch", "nll"]
    wanted = set(trial_ids)
    by_task = grouped(
        ((row["trial_id"], row["task"], row["task_name"]), (row["epoch"], row["nll"]))
        for row in page.store.read("curves", columns).to_pylist()
        if row["trial_id"] in wanted and row["status"] == FINISHED
    )
    return tuple(Curve(*key, tuple(nll for _, nll in sorted(epochs))) for key, epochs in sorted(by_task.items()))


def curve_charts(page: PageData, curves: Sequence[Curve]) -> tuple[Chart, ...]:
    """One chart for each task: a curve for each variant, or for two trials of a large sweep."""
    if page.is_large:
        groups = {f"{one.trial.trial_id}, {one.role}": [one.trial.trial_id] for one in extreme_trials(page)}
        note = "The best and the worst trial of the sweep, one seed each and so without a band."
    else:
        variants = page.baselines_and_extremes(SERIES)
        groups = {page.variants[k].label: [t.trial_id for t in page.variants[k].trials] for k in variants}
        note = "Means over seeds; bands: 95 % t intervals over seeds, from three seeds on."
        note += left_out(len(variants), len(page.variants), "variants: baseline, best and worst")
    tasks = sorted({(curve.task, curve.task_name) for curve in curves})
    charts = (_chart(name, note, groups, [curve for curve in curves if curve.task == task]) for task, name in tasks)
    return tuple(chart for chart in charts if chart.rows)


def _chart(task: str, note: str, groups: dict[str, list[str]], curves: Sequence[Curve]) -> Chart:
    rows = []
    thinned = ""
    for label, ids in groups.items():
        members = [curve.nll for curve in curves if curve.trial_id in ids]
        length = max((len(nll) for nll in members), default=0)
        step = max(1, -(-length // MOST_EPOCHS))
        if step > 1:
            thinned = f" Every {step}th epoch is shown."
        for epoch in range(0, length, step):
            # A curve may be shorter than the longest one of its variant.
            mean = mean_interval([nll[epoch] for nll in members if epoch < len(nll)])
            rows.append((epoch + 1, label, *mean))
    y_title = "NLL per patch, nats"
    labels = list(groups)
    longest = max((row[0] for row in rows), default=0)
    ticks: Spec = {"format": "d"} | ({"values": list(range(1, longest + 1))} if longest <= FEW_EPOCHS else {})
    strokes: Spec = {"symbolType": "stroke", "symbolStrokeWidth": 2}
    x = quantitative("epoch", "epoch", scale={"nice": False}) | {"axis": ticks}
    means = {"y": quantitative("mean", y_title), "tooltip": tooltip(FIELDS)} | series(labels, "strokeDash", **strokes)
    layers: list[Spec] = [
        intervals({"type": "area", "opacity": 0.18}, y_title),
        {"mark": {"type": "line", "strokeWidth": 1.5}, "encoding": means},
    ]
    spec = layered(200, {"x": x} | series(labels, "color", **strokes), layers)
    return Chart(f"Learning {task}", note + thinned, FIELDS, rows, spec)
