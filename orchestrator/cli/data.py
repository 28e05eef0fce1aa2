"""The command data."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from moleflow.errors import InvalidInput
from orchestrator.cli.app import CacheDir, set_option
from orchestrator.cli.others_folder import show
from orchestrator.host.command_line import program_name

READING = ("data.layout", "data.normal_names", "data.value_range")
"""The knobs that decide how images are read."""


def data(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER",
            help="The folder of classes, or a manifest. Default: MOLEFLOW_DATA.",
            show_default=False,
        ),
    ] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Classes to look at: bolt,nut. Default: all.")
    ] = None,
    near: Annotated[
        bool,
        typer.Option("--near/--no-near", help="Look for near copies, too. That decodes each image once."),
    ] = True,
    sets: Annotated[
        list[str] | None,
        set_option("layout=..., normal_names=... or value_range=..., as in a sweep; may be given often."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page with thumbnails of suspicious images to this file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The look as one JSON document.")] = False,
    cache: CacheDir = None,
) -> None:
    """Look at a folder of images before anything runs.

    First one line a class: images by kind, masks, sizes, modes and bits.
    Then the findings: copies, suspicious masks, undefined metrics, files
    that are not read. Findings are warnings, and the exit code is 0.
    It is 2 if a class cannot be read.

    For instance:

      moleflow-sweep data ~/mvtec
      moleflow-sweep data ~/mvtec --classes bolt,nut --html look.html
      moleflow-sweep data ~/visa --set layout=visa --no-near --json
    """
    from moleflow.data.survey import survey
    from moleflow.settings.knobs import Layer, resolve
    from orchestrator.doctor.data_lines import checks_left_out, data_document, data_lines
    from orchestrator.host.cache_folder import check_folder, default_cache
    from orchestrator.host.hardware import available_cores
    from orchestrator.html_report.data_page import write_data_page
    from orchestrator.sweep.overrides import parse_sets

    given = os.environ.get("MOLEFLOW_DATA")
    root = folder or (Path(given).expanduser() if given else None)
    if root is None:
        raise InvalidInput(f"data: no folder given; {program_name()} data FOLDER, or export MOLEFLOW_DATA=FOLDER")
    settings = parse_sets(sets or ())
    other = next((path for path in settings if path not in READING), None)
    if other is not None:
        raise InvalidInput(f"--set {other}: does not decide how images are read; allowed: {', '.join(READING)}")
    if cache is not None:
        check_folder(cache)
    found = survey(
        root,
        resolve([Layer("--set", settings)]).data,
        cache or default_cache(),
        only=[name for name in map(str.strip, (classes or "").split(",")) if name],
        near=near,
        workers=available_cores(),
        decoding=_say_decoding,
    )
    if html is not None:
        write_data_page(found, html, checks_left_out(found))
    if as_json:
        print(json.dumps(data_document(found), indent=1, ensure_ascii=False))
    else:
        show("\n".join(data_lines(found)))
        if html is not None:
            show(f"written: {html}", error=True)
    if found.unreadable:
        name, reason = next(iter(found.unreadable.items()))
        raise InvalidInput(f"{len(found.unreadable)} of the classes cannot be read, such as {name}: {reason}")


def _say_decoding(images: int) -> None:
    print(f"decoding {images:,} images to look for near copies (once; --no-near leaves it out)", file=sys.stderr)
