"""The report over the published rows: the runs, and the steps from one run to the next."""

from __future__ import annotations

from orchestrator.reports.final_metrics import MAIN, MEAN
from orchestrator.reports.number_format import change_text, code_list, grouped, setting_text
from orchestrator.reports.published import (
    NOT_RECORDED,
    SEED,
    ClaimedChanges,
    Published,
    PublishedRows,
    change_follows,
    confound_marks,
    published_change,
    run_records,
    step_notes,
    step_verdict,
)
from orchestrator.reports.render import ABSENT, Cell, Table
from orchestrator.reports.tables import Report

_CONTEXT = {"backbone.model": "Backbone", "patch_grid": "Patch grid"}


def build_published_report(published: Published) -> Report:
    """Return the published rows with their confounds. Nothing in the report was measured here."""
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
    """Return every run of a file as a row. Nothing is bold, since the runs are confounded."""
    places = [(c, m) for m in MAIN for c in (*rows.classes, MEAN) if any(run.figure(c, m) for run in rows.runs)]
    routing = {run.figure(c, m) for run in rows.runs for c, m in places if m == "routing_accuracy"} - {None}
    shown = [(c, m) for c, m in places if m != "routing_accuracy" or len(routing) > 1]
    notes = [f"Routing accuracy: {routing.pop()} wherever it is published."] if len(routing) == 1 else []
    seeds = {setting_text(run.settings.get(SEED)) for run in rows.runs}
    if len(seeds) == 1 and seeds != {NOT_RECORDED}:
        notes.append(f"Seeds: {seeds.pop()} (n = 1 in every row), so neither a spread nor a test can be given.")
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
    runs = grouped((inference, run.name) for run in rows.runs for inference in run.inferred.items())
    return [f"Inferred, not recorded: `{path}` of {code_list(of)}: {why}." for (path, why), of in runs.items()]


def steps_table(rows: PublishedRows) -> Table:
    """Return the change of the means from each run to the ones that build on it."""
    metrics = [m for m in MAIN if m != "routing_accuracy"]
    body = []
    for run in rows.runs:
        if run.against is not None:
            before = rows.run(run.against)
            changes = [
                Cell(change_text(published_change(before.figure(MEAN, m), run.figure(MEAN, m)))) for m in metrics
            ]
            name = " ".join([f"{before.name} -> {run.name}", *confound_marks(rows, run)])
            verdict = Cell(step_verdict(before, run))
            body.append((name, (*changes, verdict, Cell(code_list(run.compares)))))
    header = ("Step", *(f"{MEAN} {MAIN[m]}" for m in metrics), "Verdict", "Compared")
    notes = (
        "Change is (b-a)/a of the printed means, from the run that is built on to the run that builds on it.",
        "† Confounded, as listed under the first table.",
        "Verdict: by the printed image means. Without values seed by seed, a step is identical or undecided.",
    )
    return Table("Published: each run against the one that it builds on", header, tuple(body), notes)


def changes_table(rows: PublishedRows, claim: ClaimedChanges) -> Table:
    """Return a Change column computed from printed digits; ‡ marks what is printed otherwise."""
    before, after = rows.run(claim.before), rows.run(claim.after)
    body, notes = [], step_notes(rows, after)
    for class_name in (*rows.classes, MEAN):
        for metric, name in (("image_auroc", "Image"), ("pixel_auroc", "Pixel")):
            row = f"{class_name} {name}"
            a, b = before.figure(class_name, metric), after.figure(class_name, metric)
            printed = claim.printed.get(class_name, {}).get(metric)
            shown = change_text(published_change(a, b))
            if printed is not None and not change_follows(printed, a, b):
                notes.append(f"‡ {row}: the notes print {printed}, but their own digits, {a} and {b}, give {shown}.")
                shown += " ‡"
            body.append((row, (Cell(a or ABSENT), Cell(b or ABSENT), Cell(shown, row not in claim.plain))))
    notes.append(f"Source: {claim.source}")
    title = f"Published: {before.name} -> {after.name}, changes recomputed from the printed digits"
    return Table(title, ("Metric", before.name, after.name, "Change"), tuple(body), tuple(notes))
