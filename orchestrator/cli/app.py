"""Options and checks that commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from moleflow.errors import InvalidInput, did_you_mean
from orchestrator.cli import completion

if TYPE_CHECKING:
    from collections.abc import Sequence


File = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="The sweep file (YAML), such as sweeps/v7_gamma.yaml.", show_default=False),
]


Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Folder of classes in the MVTec AD layout. Default: the sweep file's, else MOLEFLOW_DATA, else embedded images.",
    ),
]


Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        help="Base settings by name or .yaml path, in place of the file's own; `demo` is minutes of work.",
        autocompletion=completion.base_words,
    ),
]


Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="knob=value for every trial, such as --set epochs=5; may be given often.",
        autocompletion=completion.setting_words,
    ),
]


Out = Annotated[Path | None, typer.Option("--out", help="Results folder. Default: results/<sweep name>.")]


CacheDir = Annotated[
    Path | None, typer.Option("--cache", help="Cache folder. Default: MOLEFLOW_CACHE, else ~/.cache/moleflow-sweep.")
]


BackendName = Annotated[
    str,
    typer.Option(
        "--backend",
        help="inline (this process) | local (worker processes on this machine) | slurm (job arrays) | ray (Ray Tune).",
        autocompletion=completion.words_of("inline", "local", "slurm", "ray"),
    ),
]


Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        max=1024,
        help="Trials at once, local and ray. Default: one a GPU, else as many as cores and memory hold.",
    ),
]


Threads = Annotated[
    int, typer.Option("--threads", min=1, max=1024, help="CPU threads a trial; a part of the numeric environment.")
]


Device = Annotated[
    str, typer.Option("--device", help="auto | cpu | cuda", autocompletion=completion.words_of("auto", "cpu", "cuda"))
]


Yes = Annotated[bool, typer.Option("--yes", help="Go on with more than 10,000 trials.")]


RerunStale = Annotated[
    bool, typer.Option("--rerun-stale", help="Run finished trials again whose results other code made.")
]


Profile = Annotated[
    Path | None,
    typer.Option("--profile", help="A site's partition, account, limits: slurm/profiles/example.yaml explains them."),
]


Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="Where a search keeps its study: any URL that Optuna takes. Default: study.journal in the results folder.",
    ),
]


Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, only the outcome.")]


def load_sweep_file(file: Path, data: Path | None, base: str | None, sets: list[str] | None) -> Any:
    from orchestrator.sweep.sweep import load_sweep

    return load_sweep(file, sets=sets or (), base=base, data_root=data, environment=os.environ)


def run_options(**given: Any) -> Any:
    from orchestrator.driver.prepare import Options

    _allowed("--backend", given.get("backend", "local"), ("inline", "local", "slurm", "ray"))
    _allowed("--device", given.get("device", "auto"), ("auto", "cpu", "cuda"))
    return Options(**given)


def _allowed(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        meant = {"gpu": "cuda"}.get(value.lower(), value)
        raise InvalidInput(f"{option}: given '{value}', allowed: {' | '.join(allowed)}{did_you_mean(meant, allowed)}")


def open_console(stderr: bool = False) -> Any:
    from rich.console import Console

    # Labels and messages are shown as they are: "[...]" in them is no markup, and ":x:" no picture.
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True, stderr=stderr)


Word = TypeVar("Word", bound=str)


ShowAll = Annotated[bool, typer.Option("--all", help="Every stored trial, not only those of the latest plan.")]


Split = Annotated[
    str,
    typer.Option(
        "--split",
        help="test | validation: which images the tables are about.",
        autocompletion=completion.words_of("test", "validation"),
    ),
]


def check_choice(option: str, given: str, allowed: Sequence[Word]) -> Word:
    """The word of a closed list that was given."""
    from moleflow.errors import InvalidInput, did_you_mean

    for word in allowed:
        if given == word:
            return word
    raise InvalidInput(f"{option}: given '{given}', allowed: {' | '.join(allowed)}{did_you_mean(given, allowed)}")
