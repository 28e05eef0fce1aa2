"""The commands run and trial: run a prepared sweep, submit it to SLURM or print its scripts."""

from __future__ import annotations

import shlex
import sys

from rich.console import Console

from moleflow.errors import InvalidInput, counted
from orchestrator.backends.slurm.site_profile import load_profile
from orchestrator.driver.backend_choice import slurm_backend
from orchestrator.driver.driver import run_backend, trial_source_of_plan
from orchestrator.driver.notify import notifying, say_end
from orchestrator.driver.outcome import print_outcome, report_at_end
from orchestrator.driver.preflight import check_start
from orchestrator.driver.prepare import Options, Prepared, worker_config
from orchestrator.driver.results_folder import prepare_folder
from orchestrator.driver.slurm_needs import decide_on_slurm, needs_on_slurm
from orchestrator.execution.trial_source import TrialSource
from orchestrator.exit_codes import INTERRUPTED
from orchestrator.host.command_line import program_name


def run_prepared(prepared: Prepared, options: Options, console: Console) -> int:
    """Run the unfinished trials, write and print the report; return the exit code.

    Raises:
        InvalidInput: the backend cannot start, or the results folder cannot be written.
        OSError: the disk is full before the first trial.

    """
    if prepared.sweep.early_stopping is not None and options.backend != "ray":
        raise InvalidInput(
            f"{prepared.sweep.source}: early_stopping: needs Ray Tune; give --backend ray, or remove it "
            "(a search stops trials by search.pruner on every backend)"
        )
    if prepared.sweep.search is not None:
        from orchestrator.driver.search_run import run_search

        return run_search(prepared, options, console)
    check_start(prepared, options)
    prepared = decide_on_slurm(prepared, options, console)
    todo = prepared.plan.of("to run")
    prepare_folder(prepared, options, console)
    source = trial_source_of_plan(prepared, options, todo)
    if options.detach:
        return _submit_and_leave(prepared, options, source, console)
    with notifying(options.notify, prepared.sweep.name, prepared.folder, console) as notifier:
        interrupted = run_backend(prepared, options, source, prepared.labels, len(todo), console, todo, notifier)
        before = len(prepared.plan.of("done"))
        code = print_outcome(source.tally, prepared.labels, len(todo), interrupted, console, before)
        try:
            report_at_end(prepared, code, console, None if todo else prepared.store, options.full)
        except KeyboardInterrupt:
            code = INTERRUPTED
        say_end(notifier, code, console)
    return code


def _submit_and_leave(prepared: Prepared, options: Options, source: TrialSource, console: Console) -> int:
    profile = load_profile(options.profile)
    arrays = slurm_backend(worker_config(prepared, options), profile).submit(source)
    for array in arrays:
        trials, elements = sum(len(ids) for ids in array.elements), len(array.elements)
        what = f"{counted(trials, 'trial')} as SLURM job {array.job_id}, {counted(elements, 'array task')}"
        console.print(f"submitted: {what}")
    left = len(prepared.plan.of("to run")) - sum(len(ids) for array in arrays for ids in array.elements)
    if left:
        console.print(f"not submitted: {counted(left, 'trial')} that another job or driver already has")
    status = f"{program_name()} status {shlex.quote(str(prepared.folder))}"
    console.print(f"to see them: {status}; the same command without --detach follows them")
    return 0


def print_scripts(prepared: Prepared, options: Options, console: Console) -> int:
    """Print the sbatch scripts that a run would submit; write nothing. Queued jobs are ignored.

    Where SLURM does not answer, stderr names the limits that are assumed instead.

    Raises:
        InvalidInput: the profile is not valid, or does not fit the sweep.

    """
    needs = needs_on_slurm(prepared, options, assume=True)
    for line in needs.lines():
        print(line, file=sys.stderr)
    prepared = needs.prepared
    source = trial_source_of_plan(prepared, options, prepared.plan.of("to run"))
    for text in slurm_backend(worker_config(prepared, options), needs.profile).scripts(source):
        console.print(text)
    return 0
