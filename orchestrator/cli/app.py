"""Options and checks that several commands share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from moleflow.errors import InvalidInput
from moleflow.suggestions import hint_at
from orchestrator.cli import completion
from orchestrator.cli.usage_errors import option_that_takes
from orchestrator.exit_codes import INTERRUPTED
from orchestrator.host.command_line import command_to_repeat
from orchestrator.host.lost_output import lost_output_ignored

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.driver.prepare import Options
    from orchestrator.sweep.sweep import Sweep

BACKENDS: tuple[Literal["inline", "local", "slurm", "ray"], ...] = ("inline", "local", "slurm", "ray")
DEVICES: tuple[Literal["auto", "cpu", "cuda"], ...] = ("auto", "cpu", "cuda")
FORMATS: tuple[Literal["markdown", "csv", "latex"], ...] = ("markdown", "csv", "latex")
SPLITS: tuple[Literal["test", "validation"], ...] = ("test", "validation")
Word = TypeVar("Word", bound=str)


def choice(name: str, words: Sequence[str], text: str = "", callback: Callable[..., Any] | None = None) -> Any:
    """An option that takes one of `words`, which its help lists unless `text` replaces the list."""
    completed = completion.words_of(*words)
    return typer.Option(name, help=text or " | ".join(words), autocompletion=completed, callback=callback)


def base_option(text: str) -> Any:
    """The option --base."""
    return typer.Option("--base", help=text, autocompletion=completion.base_words)


def set_option(text: str) -> Any:
    """The option --set."""
    return typer.Option("--set", help=text, autocompletion=completion.setting_words, callback=_refuse_options)


def _refuse_options(context: typer.Context, texts: list[str] | None) -> list[str] | None:
    """Refuse a `--set out=DIR` where `--out DIR` is meant."""
    options = {option for parameter in context.command.params for option in parameter.opts}
    for name, _, value in (text.partition("=") for text in texts or ()):
        if f"--{name}" in options:
            raise InvalidInput(f"--set {name}={value}: '{name}' is an option, no knob; give --{name} {value}")
    return texts


File = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="The sweep file (YAML), such as sweeps/v7_gamma.yaml.", show_default=False),
]
DIR = typer.Argument(metavar="DIR", help="A results folder, such as results/v7_gamma.", show_default=False)
Folder = Annotated[Path, DIR]
_IMAGES = "Folder of images, in a layout of docs/data.md. Default: {}MOLEFLOW_DATA, else embedded images."
Data = Annotated[Path | None, typer.Option("--data", help=_IMAGES.format("the sweep file's, else "))]
DataOfTrial = Annotated[Path | None, typer.Option("--data", help=_IMAGES.format(""))]
Base = Annotated[
    str | None, base_option("Base settings by name or .yaml path, in place of the file's own; `demo` takes minutes.")
]
Sets = Annotated[
    list[str] | None, set_option("knob=value for every trial, such as --set epochs=5; may be given often.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Results folder. Default: results/<sweep name>.")]
CacheDir = Annotated[
    Path | None, typer.Option("--cache", help="Cache folder. Default: MOLEFLOW_CACHE, else ~/.cache/moleflow-sweep.")
]
BackendName = Annotated[
    str,
    choice(
        "--backend",
        BACKENDS,
        "inline (this process) | local (worker processes on this machine) | slurm (job arrays) | ray (Ray Tune).",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        max=1024,
        help="Trials at the same time, local and ray. Default: one per GPU, else as many as cores and memory allow.",
    ),
]
Threads = Annotated[
    int, typer.Option("--threads", min=1, max=1024, help="CPU threads per trial; part of the numeric environment.")
]
Device = Annotated[str, choice("--device", DEVICES)]
Yes = Annotated[bool, typer.Option("--yes", help="Continue with more than 10,000 trials.")]
RerunStale = Annotated[
    bool, typer.Option("--rerun-stale", help="Run finished trials again if other code made their results.")
]
Profile = Annotated[
    Path | None,
    typer.Option(
        "--profile", help="A site's partition, account and limits; see slurm/profiles/example.yaml for the keys."
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="Where a search stores its study: any URL that Optuna takes. "
        "Default: study.journal in the results folder.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, only the outcome.")]
Full = Annotated[bool, typer.Option("--full", help="Print every table at the end, not only the answer.")]
Notify = Annotated[
    str | None,
    typer.Option(
        "--notify",
        metavar="COMMAND|URL",
        help="A command, or a webhook, that hears of the first failed trial and of the end; stored nowhere.",
        show_default=False,
    ),
]
ShowAll = Annotated[bool, typer.Option("--all", help="Every stored trial, not only those of the latest plan.")]
Split = Annotated[
    str | None,
    choice(
        "--split",
        SPLITS,
        "test | validation. Default: test, or validation where no trial scored test images.",
        callback=lambda given: None if given is None else check_choice("--split", given, SPLITS),
    ),
]
Format = Annotated[str, choice("--format", FORMATS)]


def check_choice(option: str, given: str, allowed: Sequence[Word]) -> Word:
    """Return the one of `allowed` that was given.

    Raises:
        InvalidInput: it is none of them.

    """
    for word in allowed:
        if given == word:
            return word
    hint = option_that_takes(given) or hint_at(given, allowed)
    raise InvalidInput(f"{option}: given '{given}', allowed: {' | '.join(allowed)}{hint}")


def load_sweep_file(file: Path, data: Path | None, base: str | None, sets: list[str] | None) -> Sweep:
    """Read a sweep file with the changes that options make to it.

    Raises:
        InvalidInput: any mistake in the file or in the options.

    """
    from orchestrator.sweep.sweep import load_sweep

    return load_sweep(file, sets=sets or (), base=base, data_root=data, environment=os.environ)


def check_profile(profile: Path | None, backend: str) -> None:
    """Check that a site profile is there, and that its backend is.

    Raises:
        InvalidInput: it is not, or the backend is another one.

    """
    if profile and backend != "slurm":
        raise InvalidInput("--profile: needs --backend slurm; give that too, or leave --profile out")
    if profile and not profile.is_file():
        raise InvalidInput(f"--profile: {profile}: no such file; slurm/profiles/example.yaml explains how to write one")


def run_options(*, backend: str = "local", device: str = "auto", **others: Any) -> Options:
    """Options of a run from those of a command.

    Raises:
        InvalidInput: no such backend or device.

    """
    from orchestrator.driver.prepare import Options

    return Options(
        backend=check_choice("--backend", backend, BACKENDS),
        device=check_choice("--device", device, DEVICES),
        **others,
    )


@contextlib.contextmanager
def naming_the_command(console: Console) -> Iterator[None]:
    """Print the command to repeat if Ctrl-C comes before a run or after it, which handles its own.

    Preparing a sweep may take a minute: it scans images and builds backbones. Within the block a
    print succeeds even if its terminal was closed.
    """
    with lost_output_ignored():
        try:
            yield
        except KeyboardInterrupt:
            console.print(f"interrupted; to continue, run: {command_to_repeat()}")
            raise typer.Exit(INTERRUPTED) from None


def open_console(stderr: bool = False) -> Console:
    """A console that prints text as it is, but for control characters."""
    from orchestrator.monitor import terminal

    return terminal.printable_console(stderr)
