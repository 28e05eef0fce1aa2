"""The command data."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
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
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--write-manifest",
            metavar="FILE",
            help="Write a .csv manifest that splits folders <class>/ok, <class>/broken into training and test.",
            show_default=False,
        ),
    ] = None,
    test_share: Annotated[
        float,
        typer.Option("--test-share", help="With --write-manifest: the share of normal images for the test."),
    ] = 0.25,
    seed: Annotated[int, typer.Option("--seed", min=0, help="With --write-manifest: the seed of the draw.")] = 0,
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

    Photos in folders <class>/ok and <class>/broken, without training and
    test, need a split first: --write-manifest FILE writes one, looks at it,
    and leaves the photos as they are.

    For instance:

      moleflow-sweep data ~/mvtec
      moleflow-sweep data ~/mvtec --classes bolt,nut --html look.html
      moleflow-sweep data ~/photos --write-manifest photos.csv
      moleflow-sweep data ~/visa --set layout=visa --no-near --json
    """
    from moleflow.data.survey import survey
    from moleflow.settings.knobs import Layer, resolve
    from orchestrator.doctor.data_lines import checks_left_out, data_document, data_lines, unreadable_by_reason
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
    if manifest is not None:
        names = settings.pop("data.normal_names", None)  # The manifest calls them good.
        _split(root, manifest, names, test_share, seed, cache or default_cache())
        root = manifest
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
    reasons = unreadable_by_reason(found)
    if len(reasons) == 1 and not found.classes and not as_json:
        raise InvalidInput(reasons[0][0])
    if as_json:
        print(json.dumps(data_document(found), indent=1, ensure_ascii=False))
    else:
        show("\n".join(data_lines(found)))
        if html is not None:
            show(f"written: {html}", error=True)
    if reasons:
        total = len(found.unreadable) + len(found.classes)
        raise InvalidInput(f"{len(found.unreadable)} of {total} classes cannot be read: {', '.join(found.unreadable)}")


def _split(
    root: Path, manifest: Path, normal_names: Sequence[str] | None, share: float, seed: int, cache: Path
) -> None:
    """Write a manifest of folders without a split, and print how it splits them.

    Raises:
        InvalidInput: the folder holds no such classes; the file is there, or cannot be one.
    """
    from moleflow.data.digests import DigestCache
    from moleflow.data.normal_names import yaml_list
    from moleflow.data.unsplit_folders import split_images, unsplit_classes, write_manifest
    from orchestrator.reports.export import check_file

    if manifest.suffix.lower() != ".csv":
        raise InvalidInput(f"--write-manifest: given '{manifest}', allowed: a file whose name ends in .csv")
    check_file(manifest, "--write-manifest")
    if manifest.exists():
        raise InvalidInput(f"--write-manifest: {manifest} is there; give another name, or remove it")
    if not 0 < share < 1:
        raise InvalidInput(f"--test-share: given {share:g}, allowed: above 0 and below 1, such as 0.25")
    if not root.is_dir():
        raise InvalidInput(f"{root}: no such folder; give the folder of the classes")
    classes = unsplit_classes(root, normal_names)
    if not classes:
        raise InvalidInput(
            f"{root}: no class to split; looked for <class>/<normal>, such as <class>/ok, without folders train and "
            "test; another name of normal images: --set 'normal_names=[NAME]'"
        )
    digests = DigestCache(cache / "digests.json")
    split = [split_images(one, share, seed, digests) for one in classes]
    digests.save()
    write_manifest(manifest, split)
    lines = [
        f"written: {manifest}; {share:.0%} of the normal images of a class are test images (drawn with seed {seed})",
        *(f"  {one.line}" for one in split),
        *(
            f"  passed over: {place}, which seems to hold masks; add a column `mask` by hand"
            for one in classes
            for place in one.masks
        ),
        f"use it: {program_name()} FILE --data {shlex.quote(str(manifest))}, with tasks: "
        f"{yaml_list([one.name for one in split])} under base in FILE\n",
    ]
    show("\n".join(lines), error=True)


def _say_decoding(images: int) -> None:
    print(f"decoding {images:,} images to look for near copies (once; --no-near leaves it out)", file=sys.stderr)
