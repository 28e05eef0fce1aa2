"""Remembered digests and sizes of image files, so that a start does not read gigabytes again."""

from __future__ import annotations

import json
import os
import time
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from moleflow.data.image_facts import ImageFacts, examine
from moleflow.data.images import read_bytes
from moleflow.files import make_folder, write_atomically
from moleflow.passing_errors import of_present_file, read

# A file that is younger than this could change again without a new time stamp: filesystems stamp in
# steps of up to two seconds.
_SETTLED_NS = 2_000_000_000
_MASK = "mask "

Stamp = tuple[int, int, int, int]
"""Fields that change with a file: size, modification and change time in ns, inode."""
_FIELDS = 4 + len(fields(ImageFacts))


class DigestCache:
    """Remembers the facts of intact image files by path, size, times and inode, in one JSON file.

    A file whose modification time was set back has another change time. A file that was renamed
    into its place has another inode. A damaged JSON file is ignored and replaced. So is an entry of
    an earlier version, which lacks facts: its file is read once more.

    Args:
        path: the JSON file; None = remember within this process only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known = self._read()
        self._new: dict[str, tuple[Stamp, ImageFacts]] = {}

    def facts(self, path: Path, is_mask: bool = False) -> ImageFacts:
        """Facts of the image at `path`, which is read and checked only if it is new or changed.

        Args:
            path: the file.
            is_mask: True for a defect mask, which is decoded to count its defective pixels.

        Raises:
            InvalidInput: the file cannot be read, or is broken.
        """
        name = _entry_name(path, is_mask)
        try:
            state = of_present_file(path, path.stat)
        except OSError:
            read_bytes(path)  # Raises InvalidInput with the reason.
            raise
        stamp = _stamp(state)
        known = self._new.get(name) or self._known.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        data = read_bytes(path)
        facts = examine(data, path, is_mask)
        if abs(time.time_ns() - state.st_mtime_ns) > _SETTLED_NS and len(data) == state.st_size:
            self._new[name] = stamp, facts
        return facts

    def knows(self, path: Path, is_mask: bool = False) -> bool:
        """True if `facts` would not have to read the file.

        Args:
            path: the file.
            is_mask: True for a defect mask.
        """
        name = _entry_name(path, is_mask)
        known = self._new.get(name) or self._known.get(name)
        try:
            return known is not None and known[0] == _stamp(path.stat())
        except OSError:
            return False

    def save(self) -> None:
        """Add new facts to the file, together with those that other processes added meanwhile."""
        if self._path is None or not self._new:
            return
        self._known = self._read() | self._new
        self._new = {}
        rows = {name: [*stamp, *astuple(facts)] for name, (stamp, facts) in self._known.items()}
        make_folder(self._path.parent)
        write_atomically(self._path, json.dumps(rows).encode(), durable=False)

    def _read(self) -> dict[str, tuple[Stamp, ImageFacts]]:
        if self._path is None:
            return {}
        try:
            rows = json.loads(read(self._path))
            return {name: _entry(*row) for name, row in rows.items() if len(row) == _FIELDS}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}


def _entry_name(path: Path, is_mask: bool) -> str:
    # No absolute path begins so. A file may serve as an image and as a mask.
    return f"{_MASK if is_mask else ''}{path.absolute()}"


def _stamp(state: os.stat_result) -> Stamp:
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def _entry(size: int, mtime: int, ctime: int, inode: int, *facts: Any) -> tuple[Stamp, ImageFacts]:
    int(facts[0], 16)  # Raises ValueError if the file is damaged.
    sha256, width, height, decoding, mode, bits, largest, defective = facts
    counted = None if largest is None else int(largest)
    share = None if defective is None else float(defective)
    found = ImageFacts(sha256, int(width), int(height), str(decoding), str(mode), int(bits), counted, share)
    return (int(size), int(mtime), int(ctime), int(inode)), found
