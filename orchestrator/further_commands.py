"""The commands beside sweeps: compare, export and doctor."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from orchestrator import completion

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILED = 1
Word = TypeVar("Word", bound=str)

Everything = Annotated[bool, typer.Option("--all", help="Every stored trial, not only those of the latest plan.")]
Split = Annotated[
    str,
    typer.Option(
        "--split",
        help="test | validation: which images the tables are about.",
        autocompletion=completion.of("test", "validation"),
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line, once however often it is called."""
    known = {command.callback for command in app.registered_commands}
    for command in (compare, export, doctor):
        if command not in known:
            app.command()(command)


def compare(
    places: Annotated[
        list[Path], typer.Argument(metavar="DIR", help="Results folders, two or more.", show_default=False)
    ],
    form: Annotated[
        str,
        typer.Option(
            "--format", help="markdown | csv | latex", autocompletion=completion.of("markdown", "csv", "latex")
        ),
    ] = "markdown",
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            help="knob=value, or sweep=NAME; given often they have to hold together. "
            "Default: the sweeps' own baseline where they have the same.",
        ),
    ] = None,
    split: Split = "test",
    everything: Everything = False,
) -> None:
    """Print the tables of several sweeps side by side: a column for each variant of each of them. Writes nothing.

    Sweeps on other images stand in tables of their own, and other code or another environment is said first and marked.

    For instance:

      moleflow-sweep compare results/v7_gamma results/v3_ablation
      moleflow-sweep compare results/a results/b --baseline version=v3
    """
    from orchestrator.comparing import compared
    from orchestrator.exporting import FORMATS, rendered

    chosen = _one_of("--format", form, FORMATS)
    _one_of("--split", split, ("test", "validation"))
    print(rendered(compared(places, baseline or (), split, everything), chosen), end="")


def export(
    place: Annotated[
        Path, typer.Argument(metavar="DIR", help="A results folder, such as results/v7_gamma.", show_default=False)
    ],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="csv | latex | markdown; stored tables are CSV.",
            autocompletion=completion.of("csv", "latex", "markdown"),
        ),
    ] = "csv",
    to: Annotated[
        Path | None, typer.Option("--to", help="A file, replaced as a whole. Default: stdout.", show_default=False)
    ] = None,
    what: Annotated[
        str,
        typer.Option(
            "--what",
            help="tables (the comparison) | metrics | scores | curves | attempts (as stored).",
            autocompletion=completion.of("tables", "metrics", "scores", "curves", "attempts"),
        ),
    ] = "tables",
    split: Split = "test",
    everything: Everything = False,
    document: Annotated[
        bool,
        typer.Option(
            "--document", help="With --format latex: a whole document that compiles, not tables to put into one."
        ),
    ] = False,
    one: Annotated[
        str | None,
        typer.Option(
            "--table",
            help="With LaTeX or Markdown: one table alone, by its number or the beginning of its title.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Give out the comparison tables, or a stored table, for other programs and papers; results/README.md explains the columns.

    LaTeX tables need the package booktabs.

    For instance:

      moleflow-sweep export results/v7_gamma --format latex --table 1 --to gamma.tex
      moleflow-sweep export results/v7_gamma --what scores --to scores.csv
    """
    from orchestrator import exporting

    chosen, table = _one_of("--format", form, exporting.FORMATS), _one_of("--what", what, exporting.WHAT)
    _one_of("--split", split, ("test", "validation"))
    pieces = exporting.export(place, chosen, table, split, everything, document, one)
    if to is None:
        sys.stdout.writelines(pieces)
    else:
        exporting.write(pieces, to)
        print(f"written: {to}", file=sys.stderr)


def doctor(
    data: Annotated[
        Path | None, typer.Option("--data", help="A folder of classes to look at. Default: MOLEFLOW_DATA.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", help="Weights to look for: pretrained | a package | a file, as backbone.weights."),
    ] = None,
    base: Annotated[
        str,
        typer.Option(
            "--base", help="The base whose backbone and classes are looked for.", autocompletion=completion.bases
        ),
    ] = "vit_b16",
    out: Annotated[Path, typer.Option("--out", help="Where results would go.")] = Path("results"),
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="Cache folder. Default: MOLEFLOW_CACHE, else ~/.cache/moleflow-sweep."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="What was found, as one JSON document.")] = False,
) -> None:
    """Say what is there and what is not: Python, torch, GPUs, SLURM, Ray, images, weights, disk; and what each backend lacks.

    Exit code 0 when sweeps can run on this machine (--backend local), 1 when not. It downloads and writes nothing.

    For instance:

      moleflow-sweep doctor
      moleflow-sweep doctor --data ~/mvtec --json
    """
    from orchestrator.doctor.report import as_document, as_lines, runs_here
    from orchestrator.doctor.visit import visit

    found = visit(data, weights, base, out, cache)
    print(json.dumps(as_document(found), indent=1, ensure_ascii=False) if as_json else "\n".join(as_lines(found)))
    raise typer.Exit(0 if runs_here(found) else FAILED)


def _one_of(option: str, given: str, allowed: Sequence[Word]) -> Word:
    """The word of a closed list that was given."""
    from moleflow.errors import InvalidInput, did_you_mean

    for word in allowed:
        if given == word:
            return word
    raise InvalidInput(f"{option}: given '{given}', allowed: {' | '.join(allowed)}{did_you_mean(given, allowed)}")
