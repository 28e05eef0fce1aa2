"""The report over the published rows: what was printed, what builds on what, and how far that can be compared."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.number_format import change_text, setting_text
from orchestrator.reports.published import (
    ClaimedChanges,
    Published,
    PublishedRows,
    PublishedRun,
    before_of,
    confound_marks,
    follows,
    relative_change,
    run_records,
    step_notes,
)
from orchestrator.reports.render import ABSENT, Cell, Table
from orchestrator.reports.tables import MAIN, Report

NOTES_NAMES = {"routing_accuracy": "Routing Acc", "image_auroc": "Image AUC", "pixel_auroc": "Pixel AUC"}
_CONTEXT = {"backbone.model": "Backbone", "patch_grid": "Patch grid"}


def build_published_report(published: Published) -> Report:
    """The published rows with their confounds; nothing in it was measured here."""
    tables, records = [], []
    for rows in published.files:
        tables.append(runs_table(rows))
        if any(run.against for run in rows.runs):
            tables.append(steps_table(rows))
        for claim in rows.changes:
            tables.append(changes_table(rows, claim))
        records += [record for run in rows.runs for record in run_records(rows, run)]
    header = (
        "dataset: " + ", ".join(dict.fromkeys(rows.dataset for rows in published.files)),
        "published figures as printed; nothing in this report was measured here",
    )
    return Report("Published rows", header, tuple(tables), (), tuple(records))


def runs_table(rows: PublishedRows) -> Table:
    """Every run of a file as a row. Nothing is bold: the runs do not stand on one footing."""
    places = [(c, m) for m in MAIN for c in (*rows.classes, MEAN) if any(run.figure(c, m) for run in rows.runs)]
    routing = {run.figure(c, m) for run in rows.runs for c, m in places if m == "routing_accuracy"} - {None}
    shown = [(c, m) for c, m in places if m != "routing_accuracy" or len(routing) > 1]
    notes = [f"Routing accuracy: {routing.pop()} wherever it is published."] if len(routing) == 1 else []
    seeds = {setting_text(run.settings.get("seed")) for run in rows.runs}
    if len(seeds) == 1 and seeds != {"not recorded"}:
        notes.append(f"Seeds: {seeds.pop()} (n = 1 in every row): no spread, and no test, can be given.")
    notes += [line for run in rows.runs for line in step_notes(rows, run)]
    notes += _inferences(rows)
    notes += [f"Source of `{run.name}`: {run.source}" for run in rows.runs]
    body = []
    for run in rows.runs:
        context = [Cell(run.setting(path)) for path in _CONTEXT]
        figures = [Cell(run.figure(c, m) or ABSENT) for c, m in shown]
        body.append((" ".join([run.name, *confound_marks(rows, run)]), (*context, *figures)))
    header = ("Run", *_CONTEXT.values(), *(f"{c} {MAIN[m]}" for c, m in shown))
    sequence = " -> ".join(rows.classes) or str(rows.tasks)
    return Table(f"Published: {sequence} ({rows.dataset})", header, tuple(body), tuple(notes))


def _inferences(rows: PublishedRows) -> list[str]:
    found: dict[tuple[str, str], list[str]] = {}
    for run in rows.runs:
        for inference in run.inferred.items():
            found.setdefault(inference, []).append(run.name)
    each = [(path, why, ", ".join(f"`{name}`" for name in names)) for (path, why), names in found.items()]
    return [f"Inferred, not recorded: `{path}` of {names}: {why}." for path, why, names in each]


def steps_table(rows: PublishedRows) -> Table:
    """The change of the means from each run to the ones that build on it."""
    metrics = [m for m in MAIN if m != "routing_accuracy"]
    body = []
    for run in rows.runs:
        before = before_of(rows, run)
        if before is not None:
            changes = [Cell(change_text(relative_change(before.figure(MEAN, m), run.figure(MEAN, m)))) for m in metrics]
            name = " ".join([f"{before.name} -> {run.name}", *confound_marks(rows, run)])
            body.append((name, (*changes, Cell(", ".join(f"`{path}`" for path in run.compares)))))
    header = ("Step", *(f"{MEAN} {MAIN[m]}" for m in metrics), "Compared")
    notes = (
        "Change is (b-a)/a of the printed means; each run against the one that it builds on.",
        "† confounded, as listed under the first table.",
    )
    return Table("Published: each run against the one that it builds on", header, tuple(body), notes)


def results_table(rows: PublishedRows, run: PublishedRun, beside: PublishedRun) -> Table:
    """A run's own table as the notes print it: in bold what is better than in `beside`."""

    def cell(class_name: str, metric: str) -> Cell:
        mine, other = run.figure(class_name, metric), beside.figure(class_name, metric)
        change = relative_change(other, mine)
        return Cell(mine or ABSENT, change is not None and change > 0)

    body = tuple((c, tuple(cell(c, m) for m in NOTES_NAMES)) for c in (*rows.classes, MEAN))
    return Table(f"{run.name}, as the notes print it", ("Class", *NOTES_NAMES.values()), body)


def changes_table(rows: PublishedRows, claim: ClaimedChanges) -> Table:
    """A Change column anew from its own digits; a cell that does not follow from them is marked ‡, with what was printed."""
    before, after = rows.run(claim.before), rows.run(claim.after)
    body, notes = [], step_notes(rows, after)
    for class_name in (*rows.classes, MEAN):
        for metric, name in (("image_auroc", "Image"), ("pixel_auroc", "Pixel")):
            row = f"{class_name} {name}"
            a, b = before.figure(class_name, metric) or ABSENT, after.figure(class_name, metric) or ABSENT
            printed = claim.printed.get(class_name, {}).get(metric)
            shown = change_text(relative_change(*(None if of == ABSENT else of for of in (a, b))))
            if printed is not None and not follows(printed, a, b):
                notes.append(f"‡ {row}: the notes print {printed}, but their own digits, {a} and {b}, give {shown}.")
                shown += " ‡"
            body.append((row, (Cell(a), Cell(b), Cell(shown, row not in claim.plain))))
    notes.append(f"Source: {claim.source}")
    title = f"Published: {before.name} -> {after.name}, changes recomputed from the printed digits"
    return Table(title, ("Metric", before.name, after.name, "Change"), tuple(body), tuple(notes))


def as_the_notes_print(table: Table) -> list[str]:
    """The lines of a table in the notes' own Markdown, in which the names of rows of means are bold too."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rule = "|".join("-" * max(5, len(name) + 2) for name in table.header)
    lines = [line(table.header), f"|{rule}|"]
    for name, cells in table.rows:
        row = f"**{name}**" if name.split()[0] == MEAN else name
        lines.append(line([row, *(f"**{cell.text}**" if cell.bold else cell.text for cell in cells)]))
    return lines
