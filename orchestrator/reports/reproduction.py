"""Published rows next to our own runs of them: within the stated tolerance, outside, or neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.number_format import code_list
from orchestrator.reports.published import NOT_RECORDED, PublishedRows, PublishedRun, figure_value
from orchestrator.reports.render import ABSENT, Cell, Table

COMPARED = {"image_auroc": "Image AUROC", "pixel_auroc": "Pixel AUROC", "pixel_ap": "Pixel AP"}
"""The metrics that are compared, with their names."""


@dataclass(frozen=True)
class RepeatedRun:
    """A published run, and what our own runs with its settings gave.

    Attributes:
        run: the published run.
        values: {(class name or MEAN, metric): mean over the seeds that finished}; empty = none did.
        seeds: the seeds that finished.
        planned: the number of seeds that were asked for.
        not_run: the reason why it cannot be run; None = it can.
    """

    run: PublishedRun
    values: Mapping[tuple[str, str], float] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    planned: int = 1
    not_run: str | None = None


def unknown_settings(run: PublishedRun) -> list[str]:
    """Return the settings of a run that no source gives."""
    return sorted(path for path, value in run.settings.items() if value == NOT_RECORDED)


def compare_with_published(rows: PublishedRows, repeated: RepeatedRun) -> str:
    """Return the verdict on a repeated run.

    It is `within` or `outside` the tolerance of the file for the mean over classes of each metric,
    or `not run`, `not finished` or `not comparable` with the reason.
    """
    run = repeated.run
    if repeated.not_run is not None:
        return f"not run: {repeated.not_run}"
    if len(repeated.seeds) < repeated.planned:
        return f"not finished: {len(repeated.seeds)} of {repeated.planned} seeds"
    unknown = unknown_settings(run)
    if unknown:
        return f"not comparable: {code_list(unknown)} not recorded"
    if not rows.tolerance:
        return "not comparable: the file states no tolerance"
    apart = {m: difference(repeated, MEAN, m) for m in rows.tolerance}
    known = {metric: value for metric, value in apart.items() if value is not None}
    if not known:
        return f"not comparable: no mean {' or '.join(COMPARED[m] for m in rows.tolerance)} is published and measured"
    outside = [m for m, value in known.items() if abs(value) > rows.tolerance[m]]
    return f"outside: {', '.join(COMPARED[m] for m in outside)}" if outside else "within"


def difference(repeated: RepeatedRun, class_name: str, metric: str) -> float | None:
    """Return measured minus published, or None if one of them is missing."""
    figure, value = repeated.run.figure(class_name, metric), repeated.values.get((class_name, metric))
    return None if figure is None or value is None else value - float(figure_value(figure))


def reproduction_tables(rows: PublishedRows, repeated: Sequence[RepeatedRun]) -> tuple[Table, Table]:
    """Return the table of means with the verdicts, and the table of single classes."""
    shown = [m for m in COMPARED if m != "pixel_ap" or any(one.run.means.pixel_ap for one in repeated)]
    names = [f"{COMPARED[m]} {kind}" for m in shown for kind in ("published", "ours", "difference")]
    body = []
    for one in repeated:
        cells = [cell for m in shown for cell in _cells(one, MEAN, m)]
        body.append((one.run.name, (*cells, Cell(compare_with_published(rows, one)))))
    notes = [f"Data: published on {rows.dataset}. The verdict is about the means over {_classes(rows)}."]
    if rows.tolerance:
        each = ", ".join(f"{COMPARED[m]} {value:g}" for m, value in rows.tolerance.items())
        notes.append(f"Tolerance of a mean: {each}. {rows.tolerance_reason}".rstrip())
        if "pixel_ap" in shown:
            notes.append("Pixel AP has no tolerance and is not judged.")
    notes.append("Our draws are not those of the notes' code, so equal seeds give other weights and orders of images.")
    means = Table(f"Repeated: {rows.about}", ("Row", *names, "Verdict"), tuple(body), tuple(notes))
    single = tuple(
        (f"{one.run.name}, {class_name} {COMPARED[m]}", tuple(_cells(one, class_name, m)))
        for one in repeated
        for class_name in rows.classes
        for m in COMPARED
        if one.run.figure(class_name, m) is not None
    )
    return means, Table("Repeated: single classes", ("Figure", "published", "ours", "difference"), single)


def _cells(repeated: RepeatedRun, class_name: str, metric: str) -> list[Cell]:
    apart, value = difference(repeated, class_name, metric), repeated.values.get((class_name, metric))
    texts = (
        repeated.run.figure(class_name, metric) or ABSENT,
        ABSENT if value is None else f"{value:.4f}",
        ABSENT if apart is None else f"{apart:+.4f}",
    )
    return [Cell(text) for text in texts]


def _classes(rows: PublishedRows) -> str:
    return ", ".join(rows.classes) or str(rows.tasks)
