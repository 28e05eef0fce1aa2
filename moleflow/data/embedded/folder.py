"""The folder of the embedded images in a cache: whole or not there, and what its pixels are."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from moleflow.data.embedded.rendering import DEFECTS, EMBEDDED_CLASSES, EMBEDDED_VERSION, TEST_GOOD, TRAIN_GOOD, render


def complete(folder: Path) -> bool:
    """Whether `folder` holds every image and every mask."""
    defective = sum(count for kinds in DEFECTS.values() for count in kinds.values())
    expected = len(EMBEDDED_CLASSES) * (TRAIN_GOOD + TEST_GOOD) + 2 * defective
    return sum(1 for _ in folder.rglob("*.png")) == expected


def publish(whole: Path, target: Path) -> None:
    """Make the finished folder `whole` the `target` in one step, unless another process was first."""
    if target.is_dir() and not complete(target):  # somebody deleted a part of it
        with contextlib.suppress(FileNotFoundError):
            os.rename(target, whole.with_name("incomplete"))
    try:
        os.rename(whole, target)
    except OSError:
        if not complete(target):  # not the other process, but a fault of the disk
            raise


def ensure_embedded(cache: Path, drawing: Callable[[], None] = lambda: None) -> Path:
    """The folder of the embedded images below `cache`, rendered on the first call (seconds).

    It appears whole or not at all: rendering goes into a folder beside it, which is then renamed. Of two processes that
    render at once, the later one discards its copy. Before it renders, it calls `drawing`. A folder with files missing is rendered anew.

    Raises:
        OSError: the folder cannot be written.
    """
    target = cache / f"embedded-{EMBEDDED_VERSION}"
    if complete(target):
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=f".{target.name}-") as beside:
        drawing()
        whole = Path(beside) / "whole"
        render(whole)
        publish(whole, target)
    return target


def content_digest(folder: Path) -> str:
    """SHA-256 over the sorted paths of the PNG files below `folder` and their decoded pixels, whatever encoder wrote.

    Raises:
        OSError: a file is not a readable image.
    """
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*.png"), key=lambda path: path.relative_to(folder).as_posix()):
        with Image.open(path) as image:
            pixels = hashlib.sha256(image.tobytes()).hexdigest()
            whole.update(f"{path.relative_to(folder).as_posix()} {image.mode} {image.size} {pixels}\n".encode())
    return whole.hexdigest()
