"""The second table of a report: the other means over the classes, and the cost of each column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from orchestrator.reports.differences import Comparison
from orchestrator.reports.final_metrics import BY_TASK, CONTINUAL, MEAN, MEASURES, METRICS
from orchestrator.reports.notes import mean_notes, same_columns
from orchestrator.reports.number_format import summary_text
from orchestrator.reports.render import ABSENT, WIDEST, Cell, Table
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


def means_and_cost_table(comparison: Comparison, names: Sequence[str]) -> Table:
    """Return the table of the columns of these names."""
    variants = comparison.variants
    rows = []
    zero = _all_zero(variants)
    for metric, name in further_metrics(variants).items():
        if metric in zero:
            continue
        cells = tuple(Cell(summary_text(v.summary(MEAN, metric), len(v.seeds))) for v in variants)
        rows.append((mean_name(variants, metric, name), cells))
    costs: dict[str, Callable[[VariantColumn], str]] = {
        "LoRA scaling": lambda v: _distinct((t.lora_scaling for t in v.trials), lambda x: f"{x:.6g}"),
        "Parameters": lambda v: _distinct((t.parameters_total for t in v.trials), lambda x: f"{x:,}"),
        "Parameters per task": lambda v: _distinct(
            (t.parameters_per_task for t in v.trials), lambda x: " / ".join(f"{n:,}" for n in x)
        ),
        "Compute-hours spent": lambda v: f"{sum(t.seconds_spent for t in v.trials) / 3600:.3g}",
        "Compute-hours reused": lambda v: f"{sum(t.seconds_reused for t in v.trials) / 3600:.3g}",
    }
    first_cost = len(rows)
    rows += [(name, tuple(Cell(text(v)) for v in variants)) for name, text in costs.items()]
    of_classes = {metric: name for metric, name in FURTHER.items() if metric in METRICS}
    joint = [JOINT_NOTE] if _some_joint_task(variants) else []
    forgot = [f"0 for every seed of every column: {', '.join(zero.values())}."] if zero else []
    notes = (*same_columns(comparison), *forgot, *mean_notes(variants, of_classes), CONTINUAL_NOTE, *joint)
    title = "Means over the classes after the final task, and cost"
    table = Table(title, ("", *names), tuple(rows), notes, frozenset({first_cost}))
    return table.transposed("Variant") if len(names) > WIDEST else table


def _distinct(values: Iterable[T | None], text: Callable[[T], str]) -> str:
    """Return the value that all seeds share, or each distinct one."""
    return ", ".join(dict.fromkeys(ABSENT if value is None else text(value) for value in values))
