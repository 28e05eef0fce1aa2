"""The commands beside sweeps: compare, export and doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import completion
from orchestrator.exit_codes import FAILED

if TYPE_CHECKING:
    pass


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
            "--base", help="The base whose backbone and classes are looked for.", autocompletion=completion.base_words
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
    from orchestrator.doctor.report import doctor_document, doctor_lines, runs_here
    from orchestrator.doctor.run_checks import run_checks

    found = run_checks(data, weights, base, out, cache)
    print(
        json.dumps(doctor_document(found), indent=1, ensure_ascii=False) if as_json else "\n".join(doctor_lines(found))
    )
    raise typer.Exit(0 if runs_here(found) else FAILED)
