"""Atomic writes: a file is whole or not there, whenever a process dies or the power fails."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

Content = bytes | memoryview


def write_atomically(path: Path, *content: Content, folder: Path | None = None, durable: bool = True) -> None:
    """Make a file hold `content`: write a temporary file, then rename it into place.

    Args:
        path: the file; its folder must exist.
        content: pieces, written one after the other.
        folder: the folder of the temporary file, on the same filesystem; None = that of `path`.
        durable: sync the file before the rename, so that a power cut leaves the old content or the
            new one. False only for what can be made again.

    Raises:
        OSError: the disk is full or not writable; `path` keeps what it held, and nothing else
            stays.
    """
    with temporary_file(path, folder) as temporary:
        write_file(temporary, *content, durable=durable)
        os.replace(temporary, path)


@contextlib.contextmanager
def temporary_file(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """A unique path for a temporary file beside `path`, or in `folder`; removed at the end.

    The name begins with a dot and ends in `.tmp`. Readers skip it, and those who clean up after a
    dead writer find it.
    """
    temporary = (folder or path.parent) / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        yield temporary
    finally:
        # Usually it is gone, since it was renamed. A broken disk refuses to remove it; then the
        # error that led here counts, not this one.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_file(path: Path, *content: Content, durable: bool = True) -> None:
    """Write pieces to a file, synced if `durable`. Not atomic: for files that are renamed later.

    Raises:
        OSError: the disk is full or not writable.
    """
    with path.open("wb") as file:
        for piece in content:
            file.write(piece)
        if durable:
            # Without it a power cut after the rename can leave the new name without its content.
            file.flush()
            os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames into `folder` last through a power cut, where the filesystem can."""
    # Some network filesystems cannot sync a folder and answer with an error. Nothing more can be
    # done.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
