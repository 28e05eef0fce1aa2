"""Remembered digests and sizes of image files, so that a start does not read gigabytes again."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import astuple, dataclass
from pathlib import Path

from moleflow.data.images import check_image, read_bytes
from moleflow.files import make_folder, write_atomically
from moleflow.passing_errors import of_present_file, read

# A file that is younger than this could change again without a new time stamp: filesystems stamp in
# steps of up to two seconds.
_SETTLED_NS = 2_000_000_000

Stamp = tuple[int, int, int, int]
"""Fields that change with a file: size, modification and change time in ns, inode."""


@dataclass(frozen=True)
class ImageFacts:
    """Facts of an image file that was read in full and is intact."""

    sha256: str
    width: int
    height: int


class DigestCache:
    """Remembers the facts of intact image files by path, size, times and inode, in one JSON file.

    A file whose modification time was set back has another change time. A file that was renamed
    into its place has another inode. A damaged JSON file is ignored and replaced.

    Args:
        path: the JSON file; None = remember within this process only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known = self._read()
        self._new: dict[str, tuple[Stamp, ImageFacts]] = {}

    def facts(self, path: Path) -> ImageFacts:
        """Digest and size of the image at `path`; read and checked only if it is new or changed.

        Raises:
            InvalidInput: the file cannot be read, or is broken.
        """
        name = str(path.absolute())
        try:
            state = of_present_file(path, path.stat)
        except OSError:
            read_bytes(path)  # Raises InvalidInput with the reason.
            raise
        stamp = state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino
        known = self._new.get(name) or self._known.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        data = read_bytes(path)
        width, height = check_image(data, path)
        facts = ImageFacts(hashlib.sha256(data).hexdigest(), width, height)
        if abs(time.time_ns() - state.st_mtime_ns) > _SETTLED_NS and len(data) == state.st_size:
            self._new[name] = stamp, facts
        return facts

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
            return {name: _entry(*row) for name, row in rows.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}


def _entry(
    size: int, mtime: int, ctime: int, inode: int, sha256: str, width: int, height: int
) -> tuple[Stamp, ImageFacts]:
    int(sha256, 16)  # Raises ValueError if the file is damaged.
    return (int(size), int(mtime), int(ctime), int(inode)), ImageFacts(sha256, int(width), int(height))
