"""The second table of a report: the other means over the classes, and what each column cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from orchestrator.reports.differences import Comparison
from orchestrator.reports.final_metrics import CONTINUAL, MEAN, METRICS
from orchestrator.reports.notes import mean_notes, same_columns
from orchestrator.reports.number_format import summary_text
from orchestrator.reports.render import ABSENT, Cell, Table
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
        for measure in ("acc", "fm", "bwt")
    },
}
CONTINUAL_NOTE = (
    "ACC: mean over the tasks after the final task. FM (forgetting): best value before the final task minus the final "
    "value; above 0, something was forgotten. BWT (backward transfer): final value minus the value right after the task "
    "was learned; below 0, something was forgotten. FM and BWT are means over all tasks but the last. Where a class lacks "
    "the metric, none of the three is given."
)
T = TypeVar("T")


def means_and_cost_table(comparison: Comparison, names: Sequence[str], widest: int) -> Table:
    """The other means, and what each column cost; more than `widest` columns become rows."""
    rows = []
    for metric, name in FURTHER.items():
        cells = tuple(Cell(summary_text(v.summary(MEAN, metric), len(v.seeds))) for v in comparison.variants)
        rows.append((mean_name(comparison.variants, metric, name), cells))
    costs: dict[str, Callable[[VariantColumn], str]] = {
        "LoRA scaling": lambda v: _each((t.lora_scaling for t in v.trials), lambda x: f"{x:.6g}"),
        "Parameters": lambda v: _each((t.parameters_total for t in v.trials), lambda x: f"{x:,}"),
        "Parameters per task": lambda v: _each(
            (t.parameters_per_task for t in v.trials), lambda x: " / ".join(f"{n:,}" for n in x)
        ),
        "Compute-hours spent": lambda v: f"{sum(t.seconds_spent for t in v.trials) / 3600:.3g}",
        "Compute-hours reused": lambda v: f"{sum(t.seconds_reused for t in v.trials) / 3600:.3g}",
    }
    first_cost = len(rows)
    rows += [(name, tuple(Cell(show(v)) for v in comparison.variants)) for name, show in costs.items()]
    title = "Means over the classes after the final task, and cost"
    of_classes = {metric: name for metric, name in FURTHER.items() if metric in METRICS}
    notes = (*same_columns(comparison), *mean_notes(comparison.variants, of_classes), CONTINUAL_NOTE)
    table = Table(title, ("", *names), tuple(rows), notes, frozenset({first_cost}))
    return table.turned("Variant") if len(names) > widest else table


def _each(values: Iterable[T | None], show: Callable[[T], str]) -> str:
    """The value that the seeds of a column share, or all of theirs."""
    return ", ".join(dict.fromkeys(ABSENT if value is None else show(value) for value in values))
