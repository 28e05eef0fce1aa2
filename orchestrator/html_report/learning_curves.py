"""The learning curves: the negative log-likelihood of each epoch, task by task."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from orchestrator.html_report.best_and_worst import extreme_trials
from orchestrator.html_report.chart import HAS_INTERVAL, SERIES, Chart, Spec, quantitative, series, tooltip
from orchestrator.html_report.mean_interval import mean_interval
from orchestrator.html_report.page_data import PageData
from orchestrator.results.schema import FINISHED

MOST_EPOCHS = 60
"""Epochs of a curve that are shown; longer curves are thinned evenly."""
FEW_EPOCHS = 6
"""Epochs up to which each gets a tick; Vega would put ticks at half epochs."""
FIELDS = {
    "epoch": "Epoch",
    "series": "Curve",
    "mean": "Mean NLL per patch, nats",
    "low": "95 % low",
    "high": "95 % high",
    "n": "n (seeds)",
}


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
    by_task: dict[tuple[str, int, str], list[tuple[int, float]]] = {}
    for row in page.store.read("curves", columns).to_pylist():
        if row["trial_id"] in wanted and row["status"] == FINISHED:
            by_task.setdefault((row["trial_id"], row["task"], row["task_name"]), []).append((row["epoch"], row["nll"]))
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
        if len(variants) < len(page.variants):
            note += f" {len(variants)} of {len(page.variants)} variants: baseline, best and worst."
    tasks = sorted({(curve.task, curve.task_name) for curve in curves})
    charts = (_chart(name, note, groups, [curve for curve in curves if curve.task == task]) for task, name in tasks)
    return tuple(chart for chart in charts if chart.rows)


def _chart(task: str, note: str, groups: dict[str, list[str]], curves: Sequence[Curve]) -> Chart:
    rows = []
    thinned = ""
    for label, ids in groups.items():
        members = [curve.nll for curve in curves if curve.trial_id in ids]
        length = max((len(nll) for nll in members), default=0)
        shown = range(length)
        if length > MOST_EPOCHS:
            shown = range(0, length, -(-length // MOST_EPOCHS))
            thinned = f" Every {-(-length // MOST_EPOCHS)}th epoch is shown."
        for epoch in shown:
            # A curve may be shorter than the longest one of its variant.
            mean = mean_interval([nll[epoch] for nll in members if epoch < len(nll)])
            rows.append((epoch + 1, label, mean.mean, mean.low, mean.high, mean.n))
    y_title = "NLL per patch, nats"
    labels = list(groups)
    longest = max((row[0] for row in rows), default=0)
    ticks: Spec = {"format": "d"} | ({"values": list(range(1, longest + 1))} if longest <= FEW_EPOCHS else {})
    strokes: Spec = {"symbolType": "stroke", "symbolStrokeWidth": 2}
    spec: Spec = {
        "width": "container",
        "height": 200,
        "encoding": {"x": quantitative("epoch", "epoch", scale={"nice": False}) | {"axis": ticks}}
        | series(labels, "color", **strokes),
        "layer": [
            {
                "transform": [HAS_INTERVAL],
                "mark": {"type": "area", "opacity": 0.18},
                "encoding": {"y": quantitative("low", y_title), "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "line", "strokeWidth": 1.5},
                "encoding": {
                    "y": quantitative("mean", y_title),
                    "tooltip": tooltip(FIELDS),
                }
                | series(labels, "strokeDash", **strokes),
            },
        ],
    }
    return Chart(f"Learning {task}", note + thinned, FIELDS, rows, spec)
