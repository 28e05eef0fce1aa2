"""The second table of a report: the other means over the classes, and the cost of each column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import TypeVar

from orchestrator.host.durations import duration_text
from orchestrator.reports.differences import Comparison
from orchestrator.reports.final_metrics import BY_TASK, CONTINUAL, MAIN, MEAN, MEASURES, METRICS
from orchestrator.reports.notes import mean_notes, same_columns
from orchestrator.reports.number_format import summary_text
from orchestrator.reports.render import ABSENT, Cell, Table, columns_as_rows, fit_side_by_side
from orchestrator.reports.variants import VariantColumn, mean_name

FURTHER = {
    "image_ap": "Image AP",
    "image_f1_max": "Image F1-max",
    "pixel_ap": "Pixel AP",
    "pixel_f1_max": "Pixel F1-max",
    "aupro": "AUPRO",
    "oracle_image_auroc": "Image AUROC, oracle task",
    "normal_latent_norm": "Latent norm of normal patches",
    **{
        f"{measure}_{metric}": f"{measure.upper()} ({name})"
        for metric, name in zip(CONTINUAL, ("Image AUROC", "Pixel AUROC"), strict=True)
        for measure in MEASURES
    },
}
"""The metrics of this table with their names in rows."""
_BY_TASK = {metric: f"{FURTHER[metric.removeprefix('task_')]}, by task" for metric in BY_TASK}
COST_NOTE = (
    "Compute time spent: the first trial that needs features or a stage pays for it, and the others reuse it. So these "
    "times do not compare the methods."
)
CONTINUAL_NOTE = (
    "ACC: mean over the tasks after the final task. FM (forgetting): best value before the final task minus the final "
    "value; above 0, something was forgotten. BWT (backward transfer): final value minus the value right after the task "
    "was learned; below 0, something was forgotten. FM and BWT are means over all tasks but the last. If a class lacks "
    "the metric, none of the three is given."
)
JOINT_NOTE = (
    "Some tasks have several classes. Rows are per class; routing accuracy counts images that reach the expert of their "
    "class's task. ACC, FM and BWT are means over classes, where the classes of the last task count as last. `By task`, "
    "the mean over the classes of a task comes first, then the mean over tasks: a task counts once, however many classes "
    "it has."
)
TITLE = "Means over the classes after the final task, and cost"
_GROUPS = ("Further image metrics", "Further pixel metrics", "Means over the tasks", "Cost")
"""The titles of the tables into which the rows of this one go if variants are rows."""
T = TypeVar("T")


def further_metrics(variants: Sequence[VariantColumn]) -> dict[str, str]:
    """Return the metrics of the table, {metric: name}; those by task if some task is joint."""
    if not _some_joint_task(variants):
        return FURTHER
    return FURTHER | _BY_TASK


def _all_zero(variants: Sequence[VariantColumn]) -> dict[str, str]:
    """Return FM and BWT, {metric: name}, that are 0 for every seed of each of several columns."""
    measures = {
        metric: name for metric, name in further_metrics(variants).items() if "fm_" in metric or "bwt_" in metric
    }
    values = {metric: [v.values(MEAN, metric) for v in variants] for metric in measures}
    return {
        metric: name
        for metric, name in measures.items()
        if len(variants) > 1 and all(of and set(of) == {0.0} for of in values[metric])
    }


def _some_joint_task(variants: Sequence[VariantColumn]) -> bool:
    return any(trial.values.has_joint_task for variant in variants for trial in variant.trials)


def means_and_cost_tables(comparison: Comparison, names: Sequence[str]) -> list[Table]:
    """Return the table of the columns of these names; one of each kind if variants are rows.

    Metrics that are 0, absent or as in the first table in every column are notes in place of rows.
    """
    variants = comparison.variants
    rows, groups = [], []
    zero = _all_zero(variants)
    known = {_mean_cells(variants, metric): f"{MEAN} {MAIN[metric]}" for metric in ("pixel_auroc", "image_auroc")}
    equal: dict[str, list[str]] = {}
    for metric, name in further_metrics(variants).items():
        cells = _mean_cells(variants, metric)
        if metric in zero or all(cell.text == ABSENT for cell in cells):
            continue
        if len(variants) > 1 and cells in known:
            equal.setdefault(known[cells], []).append(name)
            continue
        rows.append((mean_name(variants, metric, name), cells))
        groups.append((_group(metric), rows[-1][0]))
    costs: dict[str, Callable[[VariantColumn], str]] = {
        "LoRA scaling": lambda v: _distinct((t.lora_scaling for t in v.trials), lambda x: f"{x:.6g}"),
        "Parameters": lambda v: _distinct((t.parameters_total for t in v.trials), lambda x: f"{x:,}"),
        "Parameters per task": lambda v: _distinct((t.parameters_per_task for t in v.trials), _by_task_text),
        "Compute time spent": lambda v: duration_text(sum(t.seconds_spent for t in v.trials)),
        "Compute time reused": lambda v: duration_text(sum(t.seconds_reused for t in v.trials)),
    }
    first_cost = len(rows)
    rows += [(name, tuple(Cell(text(v)) for v in variants)) for name, text in costs.items()]
    of_classes = {metric: name for metric, name in FURTHER.items() if metric in METRICS}
    joint = [JOINT_NOTE] if _some_joint_task(variants) else []
    forgot = [f"0 for every seed of every variant: {', '.join(zero.values())}."] if zero else []
    forgot += [f"As {name} in every variant: {'; '.join(metrics)}." for name, metrics in equal.items()]
    cost = [COST_NOTE] * (len(variants) > 1)
    notes = (*same_columns(comparison), *forgot, *mean_notes(variants, of_classes), CONTINUAL_NOTE, *joint, *cost)
    table = Table(TITLE, ("", *names), tuple(rows), notes, frozenset({first_cost}))
    if fit_side_by_side(names):
        return [table]
    return columns_as_rows(table, "Variant", [*groups, *((_GROUPS[3], name) for name in costs)])


def _mean_cells(variants: Sequence[VariantColumn], metric: str) -> tuple[Cell, ...]:
    return tuple(Cell(summary_text(v.summary(MEAN, metric), len(v.seeds))) for v in variants)


def _group(metric: str) -> str:
    if metric not in METRICS:
        return _GROUPS[2]
    return _GROUPS[1] if metric in ("pixel_ap", "pixel_f1_max", "aupro") else _GROUPS[0]


def _by_task_text(numbers: Sequence[int]) -> str:
    """Return a number for each task; equal ones in a row once, with their count."""
    runs = ((n, len(list(of))) for n, of in groupby(numbers))
    return " / ".join(f"{count} x {n:,}" if count > 1 else f"{n:,}" for n, count in runs)


def _distinct(values: Iterable[T | None], text: Callable[[T], str]) -> str:
    """Return the value that all seeds share, or each distinct one."""
    return ", ".join(dict.fromkeys(ABSENT if value is None else text(value) for value in values))
