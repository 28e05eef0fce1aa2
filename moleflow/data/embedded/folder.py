"""The folder of the embedded images in a cache: complete or not there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from moleflow.data.embedded.rendering import DEFECTS, EMBEDDED_CLASSES, EMBEDDED_VERSION, TEST_GOOD, TRAIN_GOOD, render


def complete(folder: Path) -> bool:
    """True if `folder` holds every image and every mask."""
    defective = sum(count for kinds in DEFECTS.values() for count in kinds.values())
    expected = len(EMBEDDED_CLASSES) * (TRAIN_GOOD + TEST_GOOD) + 2 * defective
    return sum(1 for _ in folder.rglob("*.png")) == expected


def publish(whole: Path, target: Path) -> None:
    """Rename the finished folder `whole` to `target`, unless another process was first."""
    if target.is_dir() and not complete(target):  # files in it were deleted
        with contextlib.suppress(FileNotFoundError):  # another process moved it away
            os.rename(target, whole.with_name("incomplete"))
    try:
        os.rename(whole, target)
    except OSError:
        if not complete(target):  # not another process, but an error of the disk
            raise


def ensure_embedded(cache: Path, drawing: Callable[[], None] = lambda: None) -> Path:
    """The folder of the embedded images below `cache`, rendered on the first call (seconds).

    Images are rendered into a temporary folder, which is then renamed. Of two processes that render
    at once, the later one discards its copy. A folder with files missing is rendered again.

    Args:
        cache: the folder of the cache.
        drawing: called before the images are rendered.

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
