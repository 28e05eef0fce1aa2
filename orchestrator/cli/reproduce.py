"""The command reproduce."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moleflow.errors import InvalidInput
from moleflow.suggestions import hint_at
from orchestrator.cli.app import (
    BackendName,
    CacheDir,
    Device,
    Notify,
    Profile,
    Quiet,
    RerunStale,
    Threads,
    Workers,
    check_profile,
    naming_the_command,
    open_console,
    run_options,
)

if TYPE_CHECKING:
    from orchestrator.driver.rows_to_run import RowsOfFile


Data = Annotated[
    Path | None, typer.Option("--data", help="The rows' images in the MVTec AD layout. Default: MOLEFLOW_DATA.")
]
Rows = Annotated[
    list[Path] | None,
    typer.Option(
        "--rows",
        help="A file of published rows; may be given often. Default: the files in results/published.",
    ),
]
Only = Annotated[
    list[str] | None, typer.Option("--only", help="A row by its name, such as v3@224; may be given often.")
]
Estimate = Annotated[bool, typer.Option("--estimate", help="Tell the rows, hours and GPU memory, and run nothing.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", help="Where the results folders are made, one for each file of rows and its seeds. Default: results."
    ),
]
Gpus = Annotated[
    int | None,
    typer.Option(
        "--gpus",
        min=0,
        max=1000,
        help="GPUs of one trial on SLURM or Ray; elsewhere --device decides. Default: one where there are any.",
    ),
]


def reproduce(
    data: Data = None,
    rows: Rows = None,
    only: Only = None,
    estimate: Estimate = False,
    out: Out = None,
    cache: CacheDir = None,
    backend: BackendName = "local",
    profile: Profile = None,
    gpus: Gpus = None,
    workers: Workers = None,
    threads: Threads = 1,
    device: Device = "auto",
    rerun_stale: RerunStale = False,
    quiet: Quiet = False,
    notify: Notify = None,
) -> None:
    """Run the published rows with their own settings and seeds, and compare the figures.

    It tells hours and GPU memory first. The same command continues where the last
    one stopped. Each row is within the tolerance that its file states, outside,
    or not comparable, with the reason. reproduction.md keeps the latest verdicts.

    For instance:

      moleflow-sweep reproduce --data ~/mvtec --estimate
      moleflow-sweep reproduce --data ~/mvtec --only v3@224 --only v4
      moleflow-sweep reproduce --data ~/mvtec
    """
    from orchestrator.driver.notify import check_notify
    from orchestrator.driver.reproduce import reproduce_rows

    if notify is not None:
        check_notify(notify)
        if estimate:
            raise InvalidInput("--notify: hears of a run, and --estimate runs nothing; give one of them")
    check_profile(profile, backend)
    files = _chosen_rows(rows, only or (), data, gpus)
    options = run_options(
        out=out,
        cache=cache,
        backend=backend,
        profile=profile,
        workers=workers,
        threads=threads,
        device=device,
        rerun_stale=rerun_stale,
        quiet=quiet,
        notify=notify,
    )
    console = open_console()
    with naming_the_command(console):
        raise typer.Exit(reproduce_rows(files, options, console, estimate))


def _chosen_rows(rows: list[Path] | None, only: Sequence[str], data: Path | None, gpus: int | None) -> list[RowsOfFile]:
    """Return the rows of the files; of `only` these names, if any are given."""
    from orchestrator.driver.rows_to_run import rows_to_run
    from orchestrator.reports.published import FOLDER, read_rows

    files = [(path.stem, read_rows(path)) for path in rows or sorted(FOLDER.glob("*.yaml"))]
    named = [run.name for _, of in files for run in of.runs]
    for name in only:
        if name not in named:
            hint = hint_at(name, named) or "; `report --published` lists the rows"
            raise InvalidInput(f"--only: given '{name}', but no row has that name{hint}")
    return [
        rows_to_run(of, f"published-{stem}", data, os.environ, gpus, only or None)
        for stem, of in files
        if not only or not {run.name for run in of.runs}.isdisjoint(only)
    ]
