"""The table of published columns next to measured ones, with all that differs between them."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.reports.differences import Comparison
from orchestrator.reports.final_metrics import MAIN, MEAN
from orchestrator.reports.notes import mean_notes
from orchestrator.reports.number_format import code_list, setting_text, summary_text
from orchestrator.reports.published import NOT_RECORDED, SEED, Published, PublishedRows, PublishedRun, step_notes
from orchestrator.reports.render import ABSENT, MOST_ROWS, Cell, Table, columns_as_rows, fit_side_by_side
from orchestrator.reports.variants import VariantColumn, mean_name, patch_grid

TITLE = "Measured beside published"


def chosen_runs(comparison: Comparison, published: Published) -> list[tuple[PublishedRows, PublishedRun]]:
    """Return the published runs of the measured versions, or all if there are none.

    Only runs with figures of single classes count.
    """
    versions = {trial.version for v in comparison.variants for trial in v.trials}
    runs = [(rows, run) for rows in published.files for run in rows.runs if rows.classes]
    return [(rows, run) for rows, run in runs if run.version in versions] or runs


def published_columns_tables(
    comparison: Comparison,
    classes: Sequence[str],
    names: Sequence[str],
    published: Published,
) -> list[Table]:
    """Return a table of the measured columns, of these names, followed by the published ones.

    If its columns do not fit, there is one table for each metric, and they are rows.
    """
    chosen = chosen_runs(comparison, published)
    union = dict.fromkeys([*classes, *(c for rows, _ in chosen for c in rows.classes)])
    body, groups = [], []
    for class_name in (*union, MEAN) if len(names) + len(chosen) <= MOST_ROWS else (MEAN,):
        for metric, name in MAIN.items():
            summaries = [v.summary(class_name, metric) for v in comparison.variants]
            pairs = zip(summaries, comparison.variants, strict=True)
            measured = [Cell(summary_text(s, len(v.seeds), metric == "routing_accuracy")) for s, v in pairs]
            # ‡ marks means over other classes than the measured ones.
            marks = [" ‡" * (class_name == MEAN and set(rows.classes) != set(classes)) for rows, _ in chosen]
            figures = [run.figure(class_name, metric) for _, run in chosen]
            printed = [Cell(of + mark if of else ABSENT) for of, mark in zip(figures, marks, strict=True)]
            if any(cell.text != ABSENT for cell in (*measured, *printed)):
                row = f"{class_name} {name}"
                row = mean_name(comparison.variants, metric, row) if class_name == MEAN else row
                body.append((row, (*measured, *printed)))
                groups.append((f"{TITLE}: {name}", class_name))
    header = ("Metric", *names, *(f"{run.label} †" for _, run in chosen))
    notes = (*_notes(comparison, classes, chosen), *mean_notes(comparison.variants, MAIN))
    table = Table(TITLE, header, tuple(body), notes)
    return [table] if fit_side_by_side(header[1:]) else columns_as_rows(table, "Column", groups)


def _notes(
    comparison: Comparison, classes: Sequence[str], chosen: Sequence[tuple[PublishedRows, PublishedRun]]
) -> list[str]:
    notes = [
        "Columns headed `published` hold printed figures of other people's runs. So nothing is bold, and no change is "
        "given between measured and published columns."
    ]
    datasets = ", ".join(sorted({trial.dataset for v in comparison.variants for trial in v.trials}))
    theirs = ", ".join(dict.fromkeys(rows.dataset for rows, _ in chosen))
    notes.append(f"† Data: measured on {datasets}; published on {theirs}, without digests of images, weights or code.")
    for sequence in dict.fromkeys(rows.classes for rows, _ in chosen):
        if set(sequence) != set(classes):
            notes.append(f"‡ Mean over other classes: published {', '.join(sequence)}; measured {', '.join(classes)}.")
    seeds = sorted({len(v.seeds) for v in comparison.variants})
    notes.append(f"† Seeds: published n = 1 in every column; measured n = {', '.join(map(str, seeds))}.")
    notes += _settings_that_differ(comparison, [run for _, run in chosen])
    both = {run.name for _, run in chosen}
    steps = [line for rows, run in chosen if run.against in both for line in step_notes(rows, run)]
    return [*notes, *(f"Among the published columns: {line}" for line in steps)]


def _settings_that_differ(comparison: Comparison, runs: Sequence[PublishedRun]) -> list[str]:
    """Note each setting that a published run shares with no measured column of its version."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for run in runs:
        own = [v for v in comparison.variants if any(trial.version == run.version for trial in v.trials)]
        for path in run.settings.keys() - {SEED}:
            here = dict.fromkeys(_measured(v, path) for v in own or comparison.variants)
            theirs = setting_text(run.settings[path])
            if theirs == NOT_RECORDED or theirs not in here:
                columns = found.setdefault((path, " or ".join(here)), {})
                columns.setdefault(run.setting(path), []).append(run.label)
    lines = []
    for (path, measured), columns in sorted(found.items()):
        each = [
            f"{theirs} in {'every published column' if len(labels) == len(runs) else code_list(labels)}"
            for theirs, labels in columns.items()
        ]
        lines.append(f"† Also different: `{path}`: measured {measured}; {'; '.join(each)}.")
    return lines


def _measured(variant: VariantColumn, path: str) -> str:
    if path == "patch_grid":
        return patch_grid(variant.settings)
    return setting_text(variant.settings[path]) if path in variant.settings else "(not stored)"
