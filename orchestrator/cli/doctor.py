"""The command doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.app import CacheDir, base_option
from orchestrator.exit_codes import FAILED


def doctor(
    data: Annotated[
        Path | None, typer.Option("--data", help="A folder of classes to check. Default: MOLEFLOW_DATA.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", help="Weights to look for: pretrained | a package | a file, as backbone.weights."),
    ] = None,
    base: Annotated[str, base_option("The base whose backbone and classes are checked.")] = "vit_b16",
    out: Annotated[Path, typer.Option("--out", help="The folder for results.")] = Path("results"),
    cache: CacheDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="The findings as one JSON document.")] = False,
) -> None:
    """Check Python, torch, GPUs, SLURM, Ray, images, weights and disk for each backend.

    Exit code 0 if sweeps can run on this machine (--backend local), 1 if not.
    It downloads and writes nothing.

    For instance:

      moleflow-sweep doctor
      moleflow-sweep doctor --data ~/mvtec --json
    """
    from orchestrator.doctor.report import doctor_document, doctor_lines, runs_here
    from orchestrator.doctor.run_checks import run_checks

    findings = run_checks(data, weights, base, out, cache)
    if as_json:
        print(json.dumps(doctor_document(findings), indent=1, ensure_ascii=False))
    else:
        print("\n".join(doctor_lines(findings)))
    raise typer.Exit(0 if runs_here(findings) else FAILED)
