"""The table of measured columns next to the yardstick, a memory bank in the same features.

A memory bank is no version: it is in no comparison, no family of tests, no ranking and no ledger.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.reports.final_metrics import MAIN, MEAN, METRICS
from orchestrator.reports.finished_trials import FinishedTrial
from orchestrator.reports.number_format import difference_text, setting_text, summary_text
from orchestrator.reports.render import ABSENT, MOST_ROWS, Cell, Table, columns_as_rows, fit_side_by_side
from orchestrator.reports.variants import (
    VariantColumn,
    comparable_means,
    group_variants,
    mean_name,
    short_factor_names,
    varying_factors,
)
from orchestrator.sweep.footing import FOOTING, YARDSTICK

TITLE = "Measured beside the yardstick"
LABEL = "memory bank (yardstick)"
_STALE = " (stale)"
_NOT_SHARED = frozenset({"scoring.log_det"})
"""Settings of the footing's groups that a bank does not have: it has no likelihood."""


def set_apart(trials: Sequence[FinishedTrial]) -> tuple[list[FinishedTrial], list[FinishedTrial]]:
    """Return the trials of versions, and those of memory banks."""
    versions = [trial for trial in trials if trial.version != YARDSTICK]
    return versions, [trial for trial in trials if trial.version == YARDSTICK]


def yardstick_columns(trials: Sequence[FinishedTrial], current_code: str | None) -> list[VariantColumn]:
    """Return the columns of memory banks, named by what differs between them, stale ones marked."""
    columns = group_variants(comparable_means(trials))
    factors = [{key: value for key, value in column.factors.items() if key != "version"} for column in columns]
    differing = varying_factors(factors)
    short = short_factor_names(differing)
    named = []
    for column, of in zip(columns, factors, strict=True):
        which = ", ".join(f"{short[key]}={setting_text(of[key])}" for key in differing)
        is_stale = current_code is not None and any(t.code_digest != current_code for t in column.trials)
        label = (f"{LABEL}, {which}" if which else LABEL) + _STALE * is_stale
        named.append(VariantColumn(label, column.factors, column.trials))
    return named


def yardstick_tables(
    variants: Sequence[VariantColumn],
    names: Sequence[str],
    yardsticks: Sequence[VariantColumn],
    classes: Sequence[str],
) -> list[Table]:
    """Return a table of the measured columns, of these names, followed by the memory banks.

    Its last rows are the difference of each measured column from the bank on its footing. If its
    columns do not fit, there is one table for each metric, and they are rows.
    """
    columns = (*variants, *yardsticks)
    body, groups = [], []
    for class_name in (*classes, MEAN) if len(columns) <= MOST_ROWS else (MEAN,):
        for metric, name in MAIN.items():
            cells = [
                Cell(summary_text(column.summary(class_name, metric), len(column.seeds), metric == "routing_accuracy"))
                for column in columns
            ]
            row = f"{class_name} {name}"
            body.append((mean_name(columns, metric, row) if class_name == MEAN else row, tuple(cells)))
            groups.append((f"{TITLE}: {name}", class_name))
    for metric, name in MAIN.items():
        if metric != "routing_accuracy":
            differences = [_difference(variant, _on_its_footing(variant, yardsticks), metric) for variant in variants]
            cells = [Cell(difference_text(value)) for value in differences] + [Cell(ABSENT)] * len(yardsticks)
            body.append((f"{MEAN} {name}, minus the yardstick", tuple(cells)))
            groups.append((f"{TITLE}: {name}", f"{MEAN}, minus the yardstick"))
    header = ("Metric", *names, *(column.label for column in yardsticks))
    table = Table(TITLE, header, tuple(body), _notes(yardsticks))
    return [table] if fit_side_by_side(header[1:]) else columns_as_rows(table, "Column", groups)


def yardstick_records(yardsticks: Sequence[VariantColumn], classes: Sequence[str]) -> tuple[tuple[object, ...], ...]:
    """Return the rows of memory banks for the report's CSV, marked `yardstick`."""
    records: list[tuple[object, ...]] = []
    for column in yardsticks:
        dataset = " + ".join(sorted({trial.dataset for trial in column.trials}))
        for class_name in (*classes, MEAN):
            for metric in METRICS:
                s = column.summary(class_name, metric)
                records.append((dataset, column.label, class_name, metric, s.mean, s.sd, s.n, None, "yardstick", None))
    return tuple(records)


def _on_its_footing(variant: VariantColumn, yardsticks: Sequence[VariantColumn]) -> VariantColumn | None:
    """Return the only memory bank with the images, backbone, scoring and router of a variant."""
    own = _footing(variant)
    fitting = [column for column in yardsticks if _footing(column) == own]
    return fitting[0] if len(fitting) == 1 else None


def _footing(column: VariantColumn) -> dict[str, str]:
    groups = (*FOOTING, "data_digests")
    return {
        path: setting_text(value)
        for path, value in column.settings.items()
        if path.partition(".")[0] in groups and path not in _NOT_SHARED
    }


def _difference(variant: VariantColumn, yardstick: VariantColumn | None, metric: str) -> float | None:
    """Return the difference of the means over the seeds that both have; None without any."""
    if yardstick is None:
        return None
    of_variant, of_bank = (
        {trial.seed: value for trial in column.trials if (value := trial.values[MEAN, metric]) is not None}
        for column in (variant, yardstick)
    )
    common = of_variant.keys() & of_bank.keys()
    return sum(of_variant[seed] - of_bank[seed] for seed in sorted(common)) / len(common) if common else None


def _notes(yardsticks: Sequence[VariantColumn]) -> tuple[str, ...]:
    sizes = dict.fromkeys(setting_text(column.settings["bank.patches"]) for column in yardsticks)
    picks = dict.fromkeys(setting_text(column.settings["bank.pick"]) for column in yardsticks)
    is_joint = any(trial.values.has_joint_task for column in yardsticks for trial in column.trials)
    size = f"at most {' or '.join(sizes)} training patches a {'task' if is_joint else 'class'}"
    seeds = dict.fromkeys(", ".join(map(str, column.seeds)) for column in yardsticks)
    stale = any(column.label.endswith(_STALE) for column in yardsticks)
    return (
        f"Columns headed `{LABEL}` are no version: a patch scores its distance to the nearest of {size} "
        f"(pick: {' or '.join(picks)}), in the features as the backbone gives them. Nothing is trained. Router, image "
        "score, smoothing and metrics are those of the other columns.",
        "They show what the features hold. They are in no comparison with a baseline, no family of tests and no "
        "ranking; nothing is bold. Below zero, `minus the yardstick` is what training loses. It is a mean over the "
        "seeds that both have, without a test.",
        f"Seeds of the yardstick: {'; '.join(seeds)}.",
        *["`--rerun-stale` runs stale trials again."] * stale,
    )
