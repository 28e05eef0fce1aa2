"""The commands status, logs, cancel and dashboard; they work the same on every backend."""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moleflow.errors import InvalidInput, counted
from moleflow.suggestions import hint_at
from orchestrator.cli import completion
from orchestrator.cli.app import Folder
from orchestrator.cli.others_folder import explain_damage, show
from orchestrator.host.command_line import program_name
from orchestrator.records.named_trials import named_trials, refuse_several

if TYPE_CHECKING:
    from orchestrator.monitor.status import SweepStatus
    from orchestrator.records.sweep_folder import SweepFolder
    from orchestrator.records.trial_state import Jobs, State

FOLLOW_EVERY_S = 1.0
_AFTER_CANCEL: Mapping[State, str] = {
    "running": "stop at their next epoch",
    "unknown": "stop at their next epoch, if they are alive",
    "queued": "do not begin",
    "failed": "are not retried",
    "interrupted": "are not resumed",
    "cancelled": "were cancelled before",
    "waiting": "do not begin",
    "pruned": "stay pruned",
    "finished": "keep their results",
}


@explain_damage("place")
def status(
    place: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="Counts and every trial, as one JSON document.")] = False,
    follow: Annotated[
        bool, typer.Option("--watch", help="Refresh every two seconds until nothing runs or is queued.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Every trial, not only the first 40 lines.")] = False,
) -> None:
    """Show the state of every trial of a sweep. Any machine that sees its folder can ask.

    running: a live worker trains it. queued: a scheduler has it. waiting: not started yet.
    finished: its results are stored. failed, interrupted, cancelled: the end of its last attempt.
    unknown: the state cannot be determined; the reason is shown next to it.

    For instance:

      moleflow-sweep status results/NAME             one line per trial
      moleflow-sweep status results/NAME --watch     while it runs
      moleflow-sweep status results/NAME --json      for programs
    """
    from orchestrator.monitor import status_view
    from orchestrator.monitor.status import StatusReader
    from orchestrator.monitor.terminal import printable_console

    if as_json and follow:
        raise InvalidInput("--json: prints one document and --watch refreshes a screen; give one of them")
    reader = StatusReader(place, scheduler_jobs(place))
    console = printable_console(soft_wrap=False)
    most = None if everything else status_view.MOST_LINES
    if as_json:
        show(json.dumps(status_view.status_json(reader.look()), indent=1, ensure_ascii=False))
    elif follow:
        with contextlib.suppress(KeyboardInterrupt):
            status_view.watch_status(reader.look, console, everything)
    elif console.is_terminal:
        console.print(status_view.status_picture(reader.look(), most))
    else:
        show("\n".join(status_view.status_lines(reader.look(), most)))


@explain_damage("place")
def logs(
    place: Folder,
    trial: Annotated[
        str | None,
        typer.Argument(
            metavar="TRIAL",
            help="Its id, the first digits of it, or its name in quotes. Without it, the trials are listed.",
            show_default=False,
            autocompletion=completion.trial_words,
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new lines until the trial ends.")] = False,
) -> None:
    """Print the log of a trial over all attempts: tasks, epochs, losses, errors and tracebacks.

    For instance:

      moleflow-sweep logs results/NAME                         the trials
      moleflow-sweep logs results/NAME 3f2a                    id 3f2a…
      moleflow-sweep logs results/NAME "focal_gamma=2 seed=0" -f
    """
    from orchestrator.monitor import status_view
    from orchestrator.monitor.status import StatusReader
    from orchestrator.monitor.trial_log import TrialLog
    from orchestrator.records import sweep_folder

    sweep = sweep_folder.read_sweep_folder(place)
    if trial is None:
        listed = "\n".join(status_view.status_lines(StatusReader(place, scheduler_jobs(place)).look(), None))
        show(f"{listed}\n\nthe log of one: {program_name()} logs {shlex.quote(str(place))} TRIAL")
        return
    trial_id = resolve_trial_id(sweep, place, trial)
    log, reader = TrialLog(place, trial_id), StatusReader(place, scheduler_jobs(place))
    if not follow:
        lines = log.read_new()
        show("\n".join(lines) if lines else _silent(reader.look([trial_id])))
        return
    with contextlib.suppress(KeyboardInterrupt):
        for lines in _followed(log.read_new, lambda: reader.look([trial_id])):
            if lines:
                show("\n".join(lines))


@explain_damage("place")
def cancel(
    place: Folder,
    trials: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TRIAL",
            help="Ids, first digits of ids, or names in quotes. Default: all trials that are not finished.",
            autocompletion=completion.trial_words,
        ),
    ] = None,
) -> None:
    """Cancel trials: queued ones leave the queue, running ones stop at their next epoch.

    Results are kept, and nothing is retried. The sweep's own command, or `retry`,
    runs cancelled trials again.

    For instance:

      moleflow-sweep cancel results/NAME                 all unfinished trials
      moleflow-sweep cancel results/NAME 3f2a 90bc       two trials
    """
    from orchestrator.monitor.status import StatusReader
    from orchestrator.records import stop_requests, sweep_folder

    sweep, jobs = sweep_folder.read_sweep_folder(place), scheduler_jobs(place)
    chosen = [resolve_trial_id(sweep, place, word) for word in trials or ()]
    status = StatusReader(place, jobs).look(dict.fromkeys(chosen) if chosen else None)
    unfinished = [trial.trial_id for trial in status.trials if trial.state != "finished"]
    if not unfinished:
        show(f"nothing to cancel: {status.counts['finished']} of {len(status.trials)} trials have finished")
        return
    # Requests first, jobs second: a trial that leaves the queue meanwhile then finds its request.
    stop_requests.cancel_requests(place).add(unfinished if chosen else None)
    withdrawn = jobs.cancel([trial.trial_id for trial in status.trials if trial.state == "queued"])
    show(f"cancelled: {len(unfinished)} of {counted(len(sweep.trial_ids), 'trial')}")
    for state, count in status.counts.items():
        if count:
            show(f"  {count} {state}: {_AFTER_CANCEL[state]}")
    if withdrawn:
        show(f"withdrawn from the queue: {withdrawn}")
    show(f"to run them again: {program_name()} retry {shlex.quote(str(place))}")


@explain_damage("place")
def dashboard(
    place: Folder,
    storage: Annotated[
        str | None, typer.Option("--storage", help="The URL that the search was started with, if any.")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 = any free port.")] = 8080,
) -> None:
    """Serve optuna-dashboard for a search until Ctrl-C, to this machine only.

    For instance:

      moleflow-sweep dashboard results/search_v3
    """
    from orchestrator.records import sweep_folder

    sweep_folder.require_folder(place)  # Before the import of Optuna, which takes seconds.
    from orchestrator.search.dashboard import serve_dashboard

    serve_dashboard(place, storage, port, lambda url: show(f"dashboard: {url} (Ctrl-C ends it)"))


def resolve_trial_id(sweep: SweepFolder, place: Path, given: str) -> str:
    """Return the id of the trial that `given` names: an id, its first digits, or a name.

    Raises:
        InvalidInput: it names none of the sweep's trials, or several.

    """
    matches = named_trials(given, {trial_id: sweep.labels.get(trial_id, trial_id) for trial_id in sweep.trial_ids})
    refuse_several(given, matches)
    if not matches:
        near = hint_at(given, [*sweep.labels.values(), *sweep.trial_ids])
        shown = f"{program_name()} status {shlex.quote(str(place))} --all"
        hint = f"give an id, its first digits, or a name, as `{shown}` shows them"
        raise InvalidInput(f"'{given}': is no trial of the sweep '{sweep.name}'; {hint}{near}")
    return matches[0]


def scheduler_jobs(place: Path) -> Jobs:
    """Return the scheduler's jobs of a sweep; none if the sweep never used a scheduler."""
    from orchestrator.backends.slurm.job_states import SlurmJobs
    from orchestrator.backends.slurm.submissions import job_folder
    from orchestrator.records.trial_state import NoJobs

    return SlurmJobs(place) if job_folder(place).all() else NoJobs()


def _followed(look: Callable[[bool], list[str]], read_status: Callable[[], SweepStatus]) -> Iterator[list[str]]:
    """Yield new lines of a log until its trial is seen ended twice in a row."""
    ended, silent = 0, True
    # Once is not enough: between two attempts a failed trial looks ended, yet its retry follows.
    while ended < 2:
        status = read_status()
        ended = ended + 1 if not status.is_active and not status.counts["waiting"] else 0
        lines = look(ended == 2)
        yield lines or ([_silent(status)] if silent else [])
        silent = False
        if ended < 2:
            time.sleep(FOLLOW_EVERY_S)


def _silent(status: SweepStatus) -> str:
    trial = status.trials[0]
    return f"nothing logged yet: {trial.label} is {trial.state}" + (f" ({trial.reason})" if trial.reason else "")
