"""The commands for sweeps that were started: status, logs, cancel and retry, the same on every backend."""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import completion

if TYPE_CHECKING:
    from orchestrator.monitor.status import SweepStatus
    from orchestrator.records.sweep_folder import SweepFolder
    from orchestrator.records.trial_state import Jobs, State

LOOK_EVERY_S = 1.0
_OUTCOMES: Mapping[State, str] = {
    "running": "stop at their next epoch",
    "unknown": "stop at their next epoch, if they are alive",
    "queued": "do not begin",
    "failed": "are not tried again",
    "interrupted": "are not taken up again",
    "cancelled": "were cancelled before",
    "waiting": "do not begin",
    "pruned": "stay as they are",
    "finished": "keep their results",
}

Folder = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="A results folder, such as results/v7_gamma.", show_default=False),
]


def status(
    place: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="Counts and every trial, as one JSON document.")] = False,
    follow: Annotated[
        bool, typer.Option("--watch", help="Look again every two seconds until nothing runs or is queued.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Every trial, not only the first 40 lines.")] = False,
) -> None:
    """Show what every trial of a sweep is doing. Writes nothing, and any machine that sees the folder may ask.

    running: a live worker is at it. queued: a scheduler has it. waiting: nobody has it yet. finished: its results are stored.
    failed, interrupted, cancelled: how its last attempt ended. unknown: nobody can tell, and the reason stands beside it.

    For instance:

      moleflow-sweep status results/NAME             a line a trial
      moleflow-sweep status results/NAME --watch     while it runs
      moleflow-sweep status results/NAME --json      for programs
    """
    from rich.console import Console

    from moleflow.errors import InvalidInput
    from orchestrator.monitor import status_view
    from orchestrator.monitor.status import StatusReader

    if as_json and follow:
        raise InvalidInput("--json: gives one document; --watch renews a picture: give one of them")
    reader = StatusReader(place, _jobs(place))
    console = Console(markup=False, emoji=False, highlight=False)
    most = None if everything else status_view.MOST_LINES
    if as_json:
        print(json.dumps(status_view.status_json(reader.look()), indent=1, ensure_ascii=False))
    elif follow:
        with contextlib.suppress(KeyboardInterrupt):
            status_view.watch_status(reader.look, console, everything)
    elif console.is_terminal:
        console.print(status_view.status_picture(reader.look(), most))
    else:
        print("\n".join(status_view.status_lines(reader.look(), most)))


def logs(
    place: Folder,
    trial: Annotated[
        str,
        typer.Argument(
            metavar="TRIAL",
            help="Its id, the beginning of it, or its label in quotes.",
            show_default=False,
            autocompletion=completion.trial_words,
        ),
    ],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the trial ends.")] = False,
) -> None:
    """Print what a trial's workers told, over all attempts: tasks, epochs, losses, and errors with their tracebacks.

    For instance:

      moleflow-sweep logs results/NAME 3f2a                    id 3f2a…
      moleflow-sweep logs results/NAME "focal_gamma=2 seed=0" -f
    """
    from orchestrator.monitor.status import StatusReader
    from orchestrator.monitor.trial_log import TrialLog
    from orchestrator.records import sweep_folder

    trial_id = resolve_trial_id(sweep_folder.read_sweep_folder(place), place, trial)
    log, reader = TrialLog(place, trial_id), StatusReader(place, _jobs(place))
    if not follow:
        lines = log.look()
        print("\n".join(lines) if lines else _silent(reader.look([trial_id])))
        return
    with contextlib.suppress(KeyboardInterrupt):
        for lines in _followed(log.look, lambda: reader.look([trial_id])):
            if lines:
                print("\n".join(lines), flush=True)


def cancel(
    place: Folder,
    trials: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TRIAL",
            help="Ids, beginnings of ids, or labels. Default: all that is not finished.",
            autocompletion=completion.trial_words,
        ),
    ] = None,
) -> None:
    """Take trials back: queued ones are withdrawn, running ones stop at their next epoch, and none of them is tried again.

    Results are kept. The sweep's own command, or `retry`, runs cancelled trials after all.

    For instance:

      moleflow-sweep cancel results/NAME                 whatever is left
      moleflow-sweep cancel results/NAME 3f2a 90bc       two trials
    """
    from orchestrator.monitor.status import StatusReader
    from orchestrator.records import stop_requests, sweep_folder
    from orchestrator.sweep.trial import counted

    sweep, jobs = sweep_folder.read_sweep_folder(place), _jobs(place)
    chosen = [resolve_trial_id(sweep, place, word) for word in trials or ()]
    found = StatusReader(place, jobs).look(dict.fromkeys(chosen) if chosen else None)
    open_ids = [trial.trial_id for trial in found.trials if trial.state != "finished"]
    if not open_ids:
        print(f"nothing to cancel: {found.counts['finished']} of {len(found.trials)} trials have finished")
        return
    stop_requests.cancel_requests(place).add(open_ids if chosen else None)
    withdrawn = jobs.cancel([trial.trial_id for trial in found.trials if trial.state == "queued"])
    print(f"cancelled: {len(open_ids)} of {counted(len(sweep.trial_ids), 'trial')}")
    for state, count in found.counts.items():
        if count:
            print(f"  {count} {state}: {_OUTCOMES[state]}")
    if withdrawn:
        print(f"withdrawn from the queue: {withdrawn}")
    print(f"to run them after all: moleflow-sweep retry {shlex.quote(str(place))}")


def dashboard(
    place: Folder,
    storage: Annotated[
        str | None, typer.Option("--storage", help="The URL that the search was given, if it was given one.")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 = any free one.")] = 8080,
) -> None:
    """Open optuna-dashboard over a search, on this machine alone, until Ctrl-C; it may run while the search does.

    For instance:

      moleflow-sweep dashboard results/search_v3
    """
    from orchestrator.records import sweep_folder

    sweep_folder.require_folder(place)  # Before what takes seconds to import.
    from orchestrator.search.dashboard import serve_dashboard

    serve_dashboard(place, storage, port, lambda url: print(f"dashboard: {url} (Ctrl-C ends it)", flush=True))


def resolve_trial_id(sweep: SweepFolder, place: Path, given: str) -> str:
    """The id of the trial that `given` names: an id, the beginning of one, or a label.

    Raises:
        InvalidInput: it names none of the sweep's trials, or several.

    """
    from moleflow.errors import InvalidInput, did_you_mean

    found = [trial_id for trial_id in sweep.trial_ids if given in (trial_id, sweep.labels.get(trial_id))]
    found = found or [trial_id for trial_id in sweep.trial_ids if given and trial_id.startswith(given)]
    if len(found) > 1:
        some = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
        raise InvalidInput(f"'{given}': names {len(found)} trials ({some}); give more of the id")
    if not found:
        near = did_you_mean(given, [*sweep.labels.values(), *sweep.trial_ids])
        hint = f"give an id, the beginning of one, or a label, as `moleflow-sweep status {place} --all` shows them"
        raise InvalidInput(f"'{given}': is no trial of the sweep '{sweep.name}'; {hint}{near}")
    return found[0]


def _jobs(place: Path) -> Jobs:
    """The scheduler's jobs of a sweep; none where it never met one."""
    from orchestrator.backends.slurm.job_states import SlurmJobs
    from orchestrator.backends.slurm.submissions import job_folder
    from orchestrator.records.trial_state import NoJobs

    return SlurmJobs(place) if job_folder(place).all() else NoJobs()


def _followed(look: Callable[[bool], list[str]], status: Callable[[], SweepStatus]) -> Iterator[list[str]]:
    """New lines until the trial has ended at two looks in a row; a trial that fails may be tried again at once."""
    over, said = 0, False
    while over < 2:
        found = status()
        over = over + 1 if not found.going and not found.counts["waiting"] else 0
        lines = look(over == 2)
        if not lines and not said:
            lines = [_silent(found)]
        said = True
        yield lines
        if over < 2:
            time.sleep(LOOK_EVERY_S)


def _silent(found: SweepStatus) -> str:
    trial = found.trials[0]
    return f"nothing told yet: {trial.label} is {trial.state}" + (f" ({trial.reason})" if trial.reason else "")
