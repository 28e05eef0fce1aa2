"""The command retry."""

from __future__ import annotations

import contextlib
import itertools
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.cli.manage import Folder, _jobs


def retry(context: typer.Context, place: Folder) -> None:
    """Run a sweep's own command again, where it was typed: what failed, was cancelled or interrupted, and what never began.

    Folders that the command takes from the environment (MOLEFLOW_DATA, MOLEFLOW_CACHE) have to be set as they were.

    For instance:

      moleflow-sweep retry results/NAME
    """
    from orchestrator.monitor.status import StatusReader
    from orchestrator.monitor.status_view import status_counts
    from orchestrator.records import sweep_folder

    sweep = sweep_folder.read_sweep_folder(place)
    _check_command(sweep, place)
    found = StatusReader(place, _jobs(place)).look()
    print(f"trials:   {status_counts(found)}")
    if (
        found.counts["finished"] == len(found.trials) and sweep.tabled is None
    ):  # A search knows alone whether it is over.
        print("nothing to retry: all of them have finished")
        return
    print(f"command:  {_typed(sweep)}  (in {sweep.typed_in})", flush=True)
    with contextlib.chdir(sweep.typed_in), _arguments(sweep.command):
        context.obj()


def _check_command(sweep: SweepFolder, place: Path) -> None:
    """See that a sweep's command can be run again and leads to `place`."""
    from moleflow.errors import InvalidInput

    if not sweep.command:
        raise InvalidInput(f"{place}: does not say which command made it; run that command again yourself")
    here = Path(sweep.typed_in)
    if not here.is_dir():
        raise InvalidInput(
            f"{place}: its command was typed in {here}, which is not there any more; run it yourself, with --out {place}: {_typed(sweep)}"
        )
    words = [*sweep.command, ""]
    given = [
        after if word == "--out" else word.partition("=")[2]
        for word, after in itertools.pairwise(words)
        if word.partition("=")[0] == "--out"
    ]
    goal = here / (given[-1] if given else Path("results") / sweep.name)
    if goal.resolve() != place.resolve():
        raise InvalidInput(
            f"{place}: its command writes to {goal}: the folder was moved or copied; run it yourself, with --out {place}: {_typed(sweep)}"
        )


def _typed(sweep: SweepFolder) -> str:
    return shlex.join(["moleflow-sweep", *sweep.command])


@contextlib.contextmanager
def _arguments(words: Sequence[str]) -> Iterator[None]:
    """The command line as if it had been typed so: runs store it as their own."""
    before = sys.argv
    sys.argv = [before[0], *words]
    try:
        yield
    finally:
        sys.argv = before
