"""What a command does with a prepared sweep: run it, rehearse it, show its scripts."""

from __future__ import annotations

import math

from rich.console import Console

from moleflow.errors import InvalidInput
from orchestrator import listing
from orchestrator.backbones import check_backbones
from orchestrator.drive import (
    FAILED,
    INTERRUPTED,
    drive,
    each_of,
    open_folder,
    planned_work,
    report_after,
    slurm,
    summary,
)
from orchestrator.live import open_view
from orchestrator.prepared import Options, Prepared, default_cache, expected_work, prepare, setup
from orchestrator.runner import TrialSource
from orchestrator.search import PlannedTrials
from orchestrator.starting import check_rehearsal, check_slurm, check_start
from orchestrator.trial import counted

__all__ = [
    "Options",
    "Prepared",
    "check_backbones",
    "default_cache",
    "dry_run",
    "expected_work",
    "prepare",
    "print_scripts",
    "run",
    "setup",
]


def run(prepared: Prepared, options: Options, console: Console) -> int:
    """Run what is missing, write and print the report; the exit code.

    Raises:
        InvalidInput: the backend could not begin, or the results folder cannot be written.
        OSError: the disk is full before the first trial.

    """
    if prepared.sweep.early_stopping is not None and options.backend != "ray":
        raise InvalidInput(
            f"{prepared.sweep.source}: early_stopping: is done by Ray Tune; give --backend ray, or take it away "
            "(a search stops trials by search.pruner on every backend)"
        )
    if prepared.sweep.search is not None:
        from orchestrator.study.run import run as search

        return search(prepared, options, console)
    check_start(prepared, options)
    todo = prepared.plan.of("to run")
    open_folder(prepared, options, console)
    if options.detach:
        return _submit_and_leave(prepared, options, planned_work(prepared, options, todo), console)
    work = planned_work(prepared, options, todo)
    interrupted = drive(prepared, options, work, prepared.labels, len(todo), console, todo)
    code = summary(work.tally, prepared.labels, len(todo), interrupted, console)
    try:
        report_after(prepared, code, console, None if todo else prepared.store)
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _submit_and_leave(prepared: Prepared, options: Options, source: TrialSource, console: Console) -> int:
    made = slurm(setup(prepared, options), options).submit(source)
    for array in made:
        trials = sum(len(ids) for ids in array.elements)
        console.print(
            f"submitted: {counted(trials, 'trial')} as SLURM job {array.job_id}, {counted(len(array.elements), 'element')}"
        )
    left = len(prepared.plan.of("to run")) - sum(len(ids) for array in made for ids in array.elements)
    if left:
        console.print(f"not submitted: {counted(left, 'trial')} that a job or another driver has already")
    console.print(
        f"to see them: moleflow-sweep status {prepared.folder}; the same command without --detach follows them"
    )
    return 0


def print_scripts(prepared: Prepared, options: Options, console: Console) -> int:
    """Show the sbatch scripts that a run would submit; nothing is written, and no job is looked for.

    Raises:
        InvalidInput: the profile is not valid, or this is no SLURM login node.
        MoleflowError: the site's largest array is not in the profile, and SLURM does not tell it.

    """
    check_slurm(options)
    work = planned_work(prepared, options, prepared.plan.of("to run"))
    for text in slurm(setup(prepared, options), options).scripts(work):
        console.print(text)
    return 0


def dry_run(prepared: Prepared, options: Options, console: Console) -> int:
    """Run each distinct computation of the sweep cut to one training step a task and one scored batch; the exit code.

    Raises:
        InvalidInput: a backbone cannot be built.
        OSError: the temporary folder cannot be written.

    """
    from orchestrator.rehearsal import cut_short, distinct, rehearse

    check_rehearsal(prepared, options)
    trials = distinct(prepared.sample)
    labels = {trial.id: trial.label for trial in prepared.sample}
    if not options.quiet:
        console.print("\n".join(listing.header(prepared.sweep, prepared.plan, prepared.inputs, prepared.folder)))
    console.print(
        f"dry run:  {counted(len(trials), 'distinct computation')} of {counted(len(labels), 'trial')}, one training step a task each"
    )
    rehearsals = PlannedTrials([cut_short(trial) for trial in trials])
    source = TrialSource(rehearsals, prepared.sweep.resources, retries=0, most_identical=math.inf)
    interrupted = False
    with open_view(console, labels, len(trials), source.tally, options, None) as view:
        try:
            rehearse(source, setup(prepared, options), each_of((source.events, view.show)))
        except KeyboardInterrupt:
            interrupted = True
    tally = source.tally
    for trial_id, event in tally.failed.items():
        console.print(f"would fail: {labels[trial_id]}  ({trial_id}): {event.facts.get('error')}")
    if tally.stopped_by:
        console.print(f"stopped: {tally.stopped_by}")
    console.print(f"dry run: {len(tally.finished)} of {len(trials)} passed, nothing was kept")
    if interrupted:
        return INTERRUPTED
    return 0 if len(tally.finished) == len(trials) else FAILED
