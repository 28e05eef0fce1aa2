"""The command retry."""

from __future__ import annotations

import contextlib
import itertools
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moleflow.errors import InvalidInput
from orchestrator.cli.app import Folder, Notify
from orchestrator.cli.manage import scheduler_jobs
from orchestrator.cli.others_folder import explain_damage, show
from orchestrator.host.command_line import (
    COMMAND_VARIABLE,
    PROGRAM,
    command_to_repeat,
    holds_hidden_secret,
    program_name,
)
from orchestrator.host.environment_variables import set_variables

if TYPE_CHECKING:
    from orchestrator.records.sweep_folder import SweepFolder


def retry(
    context: typer.Context,
    place: Folder,
    yes: Annotated[bool, typer.Option("--yes", help="Run the command without asking.")] = False,
    notify: Notify = None,
) -> None:
    """Run a sweep's own command again, in the folder where it was typed.

    It shows the command and asks first: whoever made the folder chose that command.
    It runs the trials that failed, were cancelled or interrupted, or never started.
    Set MOLEFLOW_DATA and MOLEFLOW_CACHE as they were, if the command used them.

    For instance:

      moleflow-sweep retry results/NAME            asks
      moleflow-sweep retry results/NAME --yes      for scripts
    """
    sweep = _unfinished_sweep(place=place)
    if sweep is None:
        show("nothing to retry: all of them have finished")
        return
    show(f"command:  {shlex.join([PROGRAM, *sweep.command])}  (in {sweep.typed_in})")
    if not (yes or _confirmed(place)):
        show("nothing was run")
        return
    told = () if notify is None else ("--notify", notify)
    with contextlib.chdir(sweep.typed_in), _arguments([*sweep.command, *told]):
        context.obj()  # The entry point. It imports this module, so it is passed in and not imported.


@explain_damage("place")
def _unfinished_sweep(place: Path) -> SweepFolder | None:
    """Show the states of a sweep's trials; None if all have finished.

    Raises:
        InvalidInput: the folder holds no sweep whose command can be run again.

    """
    from orchestrator.monitor.status import StatusReader
    from orchestrator.monitor.status_view import status_counts
    from orchestrator.records import sweep_folder

    sweep = sweep_folder.read_sweep_folder(place)
    _check_command(sweep, place)
    status = StatusReader(place, scheduler_jobs(place)).look()
    show(f"trials:   {status_counts(status)}")
    # Of a search, only the search itself knows if it is over.
    return None if status.counts["finished"] == len(status.trials) and sweep.tabled is None else sweep


def _confirmed(place: Path) -> bool:
    """Ask on the terminal if the command that was shown may run.

    Raises:
        InvalidInput: there is no terminal to ask on.

    """
    if not sys.stdin.isatty():
        raise InvalidInput(f"{place}: no terminal to ask on if its command may run; check the command, then add --yes")
    return input("run it? [y/N] ").strip().lower() in ("y", "yes")


def _check_command(sweep: SweepFolder, place: Path) -> None:
    """Refuse a sweep whose command cannot be run again, or would write to another folder.

    Raises:
        InvalidInput: one of these.

    """
    if not sweep.command:
        raise InvalidInput(f"{place}: does not say which command made it; run that command again yourself")
    if holds_hidden_secret(sweep.command):
        raise InvalidInput(
            f"{place}: its command had a password, which is not stored; run it yourself, with the password: "
            f"{program_name()} {shlex.join(sweep.command)}"
        )
    # Of an option that is given twice, the last one counts.
    by_hand = f"run it yourself: {program_name()} {shlex.join([*sweep.command, '--out', str(place)])}"
    here = Path(sweep.typed_in)
    if not here.is_dir():
        raise InvalidInput(f"{place}: its command was typed in {here}, which does not exist any more; {by_hand}")
    given = [
        after if word == "--out" else word.partition("=")[2]
        for word, after in itertools.pairwise([*sweep.command, ""])
        if word.partition("=")[0] == "--out"
    ]
    goal = here / (given[-1] if given else Path("results") / sweep.name)
    if goal.resolve() != place.resolve():
        raise InvalidInput(f"{place}: its command writes to {goal}: the folder was moved or copied; {by_hand}")


@contextlib.contextmanager
def _arguments(words: Sequence[str]) -> Iterator[None]:
    """Replace the program's arguments: the run stores them, so that it can be retried again.

    A message that names the command to continue still names `retry`, as the user typed it.
    """
    before = sys.argv
    with set_variables({COMMAND_VARIABLE: command_to_repeat()}):
        sys.argv = [before[0], *words]
        try:
            yield
        finally:
            sys.argv = before
