"""Learning curves: the negative log-likelihood of each epoch, task by task."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from orchestrator.html_report.best_and_worst import extremes
from orchestrator.html_report.chart import SERIES, VALID, Chart, Spec, quantitative, series, tooltip
from orchestrator.html_report.mean_interval import mean_interval
from orchestrator.html_report.page_data import PageData
from orchestrator.results.schema import FINISHED

EPOCHS = 60
"""Epochs of a curve that are shown; of more, these are taken evenly."""
FEW = 6
"""Epochs up to which each has its tick: of so few, an axis would have halves."""
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
    """One trial's training of one task: the mean NLL per patch of each epoch, in nats."""

    trial_id: str
    task: int
    task_name: str
    nll: tuple[float, ...]


def read_curves(evidence: PageData, trial_ids: Collection[str]) -> tuple[Curve, ...]:
    """The curves of these trials, in order of trials and tasks."""
    columns = ["trial_id", "status", "task", "task_name", "epoch", "nll"]
    wanted = set(trial_ids)
    found: dict[tuple[str, int, str], list[tuple[int, float]]] = {}
    for row in evidence.store.read("curves", columns).to_pylist():
        if row["trial_id"] in wanted and row["status"] == FINISHED:
            found.setdefault((row["trial_id"], row["task"], row["task_name"]), []).append((row["epoch"], row["nll"]))
    return tuple(Curve(*key, tuple(nll for _, nll in sorted(epochs))) for key, epochs in sorted(found.items()))


def curve_charts(evidence: PageData, curves: Sequence[Curve]) -> tuple[Chart, ...]:
    """One chart for each task: a curve a variant, or of the best and the worst trial where there are many."""
    if evidence.many:
        groups = {f"{one.trial.trial_id}, {one.role}": [one.trial.trial_id] for one in extremes(evidence)}
        said = "The best and the worst trial of the sweep, one seed each and so without a band."
    else:
        places = evidence.chosen(SERIES)
        groups = {evidence.variants[k].label: [t.trial_id for t in evidence.variants[k].trials] for k in places}
        said = "Means over seeds; bands: 95 % t intervals over seeds, from three seeds on."
        if len(places) < len(evidence.variants):
            said += f" {len(places)} of {len(evidence.variants)} variants: baseline, best and worst."
    tasks = sorted({(curve.task, curve.task_name) for curve in curves})
    charts = (_chart(name, said, groups, [curve for curve in curves if curve.task == task]) for task, name in tasks)
    return tuple(chart for chart in charts if chart.rows)


def _chart(task: str, said: str, groups: dict[str, list[str]], curves: Sequence[Curve]) -> Chart:
    rows = []
    thinned = ""
    for label, ids in groups.items():
        members = [curve.nll for curve in curves if curve.trial_id in ids]
        length = max((len(nll) for nll in members), default=0)
        shown = range(length)
        if length > EPOCHS:
            shown = range(0, length, -(-length // EPOCHS))
            thinned = f" Every {-(-length // EPOCHS)}th epoch is shown."
        for epoch in shown:
            of = mean_interval([nll[epoch] for nll in members if epoch < len(nll)])
            rows.append((epoch + 1, label, of.mean, of.low, of.high, of.n))
    y_title = "NLL per patch, nats"
    labels = list(groups)
    longest = max((row[0] for row in rows), default=0)
    ticks: Spec = {"format": "d"} | ({"values": list(range(1, longest + 1))} if longest <= FEW else {})
    strokes: Spec = {"symbolType": "stroke", "symbolStrokeWidth": 2}
    spec: Spec = {
        "width": "container",
        "height": 200,
        "encoding": {"x": quantitative("epoch", "epoch", scale={"nice": False}) | {"axis": ticks}}
        | series(labels, "color", **strokes),
        "layer": [
            {
                "transform": [VALID],
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
    return Chart(f"Learning {task}", said + thinned, FIELDS, rows, spec)
