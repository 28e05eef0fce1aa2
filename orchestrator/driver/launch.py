"""What a command does with a prepared sweep: run it, rehearse it, show its scripts."""

from __future__ import annotations

from rich.console import Console

from moleflow.errors import InvalidInput
from orchestrator.driver.backend_choice import slurm_backend
from orchestrator.driver.driver import prepare_folder, print_outcome, report_at_end, run_backend, trial_source_of_plan
from orchestrator.driver.preflight import check_slurm, check_start
from orchestrator.driver.prepare import Options, Prepared, worker_config
from orchestrator.execution.trial_source import TrialSource
from orchestrator.exit_codes import INTERRUPTED
from orchestrator.sweep.trial import counted


def run_sweep(prepared: Prepared, options: Options, console: Console) -> int:
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
        from orchestrator.driver.search_run import run_search as search

        return search(prepared, options, console)
    check_start(prepared, options)
    todo = prepared.plan.of("to run")
    prepare_folder(prepared, options, console)
    if options.detach:
        return _submit_and_leave(prepared, options, trial_source_of_plan(prepared, options, todo), console)
    work = trial_source_of_plan(prepared, options, todo)
    interrupted = run_backend(prepared, options, work, prepared.labels, len(todo), console, todo)
    code = print_outcome(work.tally, prepared.labels, len(todo), interrupted, console)
    try:
        report_at_end(prepared, code, console, None if todo else prepared.store)
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _submit_and_leave(prepared: Prepared, options: Options, source: TrialSource, console: Console) -> int:
    made = slurm_backend(worker_config(prepared, options), options).submit(source)
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
    work = trial_source_of_plan(prepared, options, prepared.plan.of("to run"))
    for text in slurm_backend(worker_config(prepared, options), options).scripts(work):
        console.print(text)
    return 0
