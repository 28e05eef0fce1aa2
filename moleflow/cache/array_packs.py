"""Arrays of several images in one immutable file, and how they are written and read so that damage is noticed.

    <bucket>-<digest>.npy     (n, ...) one row an image
    <bucket>-<digest>.json    image digests, shape, dtype and one CRC-32 a row; its time is that of the last use

The JSON is written last: an array without it is not an entry. A bucket is the first hex digit of an image's digest. A pack may be taken
away at any moment, also while it is read: arrays are read and not memory-mapped, because a mapped file that another machine removes on
a network filesystem kills whoever looks at it.

Where a node has a disk of its own, arrays are copied there once and read from there; see `NodeCopies`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moleflow.cache.claim import try_claim, wait_for
from moleflow.cache.entries import mark_used
from moleflow.files import temporary_file, write_atomically

_LOG = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32 | np.float16]

_DTYPES = ("float32", "float16")
_GONE = (errno.ENOENT, errno.ESTALE)  # Stale: removed by another machine on a network filesystem.


def bucket(image: str) -> str:
    """The bucket of an image digest."""
    return image[0]


@dataclass(frozen=True)
class Pack:
    """What the JSON says of the array beside it."""

    images: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    crc32: tuple[int, ...]

    def header(self) -> bytes:
        """The first bytes of the array's file."""
        header = BytesIO()
        facts = {"descr": np.dtype(self.dtype).str, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(header, facts)
        return header.getvalue()


class NodeCopies:
    """Copies of arrays on the disk of the node that reads them, `<folder>/<feature key>/<pack>.npy`; descriptions are not copied.

    Workers of a node share them, and each array is copied once. Whatever goes wrong here, the array itself is read instead.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._takes_more = True

    def read(self, source: Path, pack: Pack, rows: Sequence[tuple[int, int]], out: npt.NDArray[np.float32]) -> bool:
        """Copy (position in `out`, row) pairs of the array `source` from this node's copy of it, which is made if need be.

        A copy is compared with its checksums when it is made, and every row again when it is read; a damaged one is made anew, once.

        Returns:
            False where there is no good copy: `source` itself is to be read.
        """
        here = self.folder / source.parent.name / source.name
        try:
            for _ in range(2):
                if not here.exists() and not (self._takes_more and self._fetch(source, here, pack)):
                    return False
                if _read(here, pack, rows, out):
                    return True
                here.unlink(missing_ok=True)
        except OSError as error:
            if self._takes_more:
                _LOG.warning("%s: %s; what is not there yet is read from the shared cache", self.folder, error)
            self._takes_more = False  # The next copy would fail as well, after as much writing.
        return False

    def _fetch(self, source: Path, here: Path, pack: Pack) -> bool:
        waiting = here.with_suffix(".claim")
        claim = try_claim(waiting)
        if claim is None:
            wait_for(here.exists, waiting)
            return here.exists()
        with claim:
            if here.exists():
                return True
            for left in here.parent.glob(f".{here.name}.*.tmp"):  # A worker died in the middle of it.
                left.unlink(missing_ok=True)
            with temporary_file(here) as copy:
                try:
                    shutil.copyfile(source, copy)
                    if not _is_sound(copy, pack):
                        return False  # The array itself is damaged too, most likely; reading it will tell.
                    os.replace(copy, here)
                except FileNotFoundError:
                    return False  # Another worker found the array damaged and took it away.
            return True


def node_copies(place: str | None) -> NodeCopies | None:
    """Copies in the folder `place`, whose $VARIABLES are those of this process; None where no place is given or a variable is not set."""
    if place is None:
        return None
    folder = Path(os.path.expandvars(place)).expanduser()
    if "$" in str(folder) or not folder.is_absolute():
        _LOG.warning("%s: is no folder on this node; features are read from the shared cache", folder)
        return None
    return NodeCopies(folder)


class PackFolder:
    """The packs in one folder. Its files appear by renaming only and never change afterwards.

    Args:
        copies: where this node keeps copies to read from, if it does.
    """

    def __init__(self, folder: Path, copies: NodeCopies | None = None) -> None:
        self.folder = folder
        self._copies = copies
        self._packs: dict[str, Pack] = {}

    def claim(self, name: str) -> Path:
        """Where the claim of a bucket stands."""
        return self.folder / f"{name}.claim"

    def index(self) -> dict[str, tuple[str, int]]:
        """{image digest: (pack, row)} of everything stored now; nothing of the arrays is read yet."""
        names = {path.stem for path in self.folder.glob("*.json")} & {path.stem for path in self.folder.glob("*.npy")}
        self._packs = {name: pack for name in sorted(names) if (pack := self._packs.get(name) or self._describe(name))}
        return {image: (name, row) for name, pack in self._packs.items() for row, image in enumerate(pack.images)}

    def read(self, images: Sequence[str]) -> tuple[npt.NDArray[np.float32] | None, set[str]]:
        """Rows of images as (N, ...) float32, every row compared with its checksum.

        Returns:
            The array and no names; or None where an image is not stored (any more), with the names of packs found damaged.
        """
        index = self.index()
        if any(image not in index for image in images):
            return None, set()
        places: dict[str, list[tuple[int, int]]] = {}
        for position, image in enumerate(images):
            name, row = index[image]
            places.setdefault(name, []).append((position, row))
        self._touch(places)
        first = next(iter(places))
        try:
            out = np.empty((len(images), *self._packs[first].shape[1:]), dtype=np.float32)
        except (MemoryError, ValueError):
            if self.sound(first):
                raise
            return None, self._still_there(
                {first}
            )  # Its description is damaged: that shape takes more room than there is.
        bad = {name for name, rows in places.items() if not self._copy(name, rows, out)}
        return (None if bad else out), self._still_there(bad)

    def check(self, images: Sequence[str]) -> tuple[bool, set[str]]:
        """Whether all of `images` are stored and sound, and the names of packs found damaged; copies are not looked at."""
        index = self.index()
        names = {index[image][0] for image in images if image in index}
        self._touch(names)
        bad = {name for name in names if not self.sound(name)}
        return not bad and all(image in index for image in images), self._still_there(bad)

    def sound(self, name: str) -> bool:
        """Whether every row of a pack matches its checksum."""
        pack = self._describe(name)
        return pack is not None and _is_sound(self.folder / f"{name}.npy", pack)

    def write(self, images: Sequence[str], rows: FloatArray) -> None:
        """Store a pack; all of `images` are of one bucket.

        Raises:
            OSError: the disk is full, or the folder cannot be written; nothing is left behind.
        """
        name = f"{bucket(images[0])}-{hashlib.sha256(' '.join(images).encode()).hexdigest()[:32]}"
        rows = np.ascontiguousarray(rows)
        pack = Pack(tuple(images), rows.shape, str(rows.dtype), tuple(_crc32(row) for row in rows))
        # Written as plain bytes: numpy's own writer loses the error number of a full disk.
        self._place(f"{name}.npy", pack.header(), rows.data)
        self._place(f"{name}.json", json.dumps(asdict(pack)).encode())

    def discard(self, name: str) -> None:
        """Take a pack away."""
        self._packs.pop(name, None)
        for suffix in (".json", ".npy"):
            (self.folder / f"{name}{suffix}").unlink(missing_ok=True)

    def sweep_unfinished(self, of: str = "*") -> None:
        """Remove half-written files of bucket `of`, or of all; one that another writer is at costs it what it was writing."""
        for path in self.folder.glob(f".{of}-*.tmp"):
            path.unlink(missing_ok=True)

    def sweep(self, of: str) -> None:
        """Remove what a writer of bucket `of` left when it died; only for the holder of the bucket's claim."""
        self.sweep_unfinished(of)
        self.index()
        for path in self.folder.glob(f"{of}-*"):
            if path.stem not in self._packs:
                self.discard(path.stem)

    def _describe(self, name: str) -> Pack | None:
        try:
            facts: Any = json.loads((self.folder / f"{name}.json").read_bytes())
            pack = Pack(tuple(facts["images"]), tuple(facts["shape"]), str(facts["dtype"]), tuple(facts["crc32"]))
        except (ValueError, KeyError, TypeError):
            return None
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise
        numbers = all(type(size) is int and size > 0 for size in pack.shape) and pack.dtype in _DTYPES
        named = all(isinstance(image, str) for image in pack.images)
        return pack if numbers and named and pack.shape[:1] == (len(pack.images),) == (len(pack.crc32),) else None

    def _touch(self, names: Iterable[str]) -> None:
        for name in names:
            mark_used(self.folder / f"{name}.json")

    def _still_there(self, names: set[str]) -> set[str]:
        """Those that were not taken away meanwhile: they are damaged."""
        return {name for name in names if (self.folder / f"{name}.npy").exists()}

    def _copy(self, name: str, rows: Sequence[tuple[int, int]], out: npt.NDArray[np.float32]) -> bool:
        """Copy (position in `out`, row of the pack) pairs; False at the first damage."""
        pack, path = self._packs[name], self.folder / f"{name}.npy"
        if self._copies and self._copies.read(path, pack, rows, out):
            return True
        return _read(path, pack, rows, out)

    def _place(self, name: str, *content: bytes | memoryview) -> None:
        write_atomically(self.folder / name, *content)


def _crc32(row: npt.NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(row).view(np.uint8).data)


def _rows(path: Path, pack: Pack, wanted: Iterable[int]) -> Iterator[npt.NDArray[Any]]:
    """Rows of the array in a file up to the first damage, each in the same memory; none where it is gone."""
    try:
        with path.open("rb") as file:
            header = pack.header()
            if (
                file.read(len(header)) != header
            ):  # Another shape or type, or damage: numpy's reader would trip over some.
                return
            row = np.empty(pack.shape[1:], dtype=pack.dtype)
            content = row.reshape(-1).view(np.uint8).data
            for number in wanted:
                file.seek(len(header) + number * row.nbytes)
                if file.readinto(content) != row.nbytes or zlib.crc32(content) != pack.crc32[number]:
                    return
                yield row
    except OSError as error:
        if error.errno not in _GONE:
            raise


def _read(path: Path, pack: Pack, rows: Sequence[tuple[int, int]], out: npt.NDArray[np.float32]) -> bool:
    """Copy (position in `out`, row of the file) pairs; False at the first damage."""
    if pack.shape[1:] != out.shape[1:]:
        return False
    found = _rows(path, pack, [row for _, row in rows])
    done = 0
    for (position, _), row in zip(rows, found, strict=False):
        out[position] = row
        done += 1
    return done == len(rows)


def _is_sound(path: Path, pack: Pack) -> bool:
    """Whether every row in a file matches its checksum."""
    return sum(1 for _ in _rows(path, pack, range(len(pack.images)))) == len(pack.images)
