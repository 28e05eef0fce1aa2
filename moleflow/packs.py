"""Arrays of several images in one immutable file, and how they are written and read so that damage is noticed.

    <bucket>-<digest>.npy     (n, ...) one row an image, memory-mapped when read
    <bucket>-<digest>.json    image digests, shape, dtype and one CRC-32 a row

The JSON is written last: an array without it is not an entry. A bucket is the first hex digit of an image's digest.

Where a node has a disk of its own, arrays are copied there once and read from there; see `NodeCopies`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moleflow.claim import try_claim, wait_for

_LOG = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32 | np.float16]


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
            beside = here.with_name(f".{here.name}.{uuid.uuid4().hex}.tmp")
            try:
                shutil.copyfile(source, beside)
                if not _is_sound(beside, pack):
                    return False  # As the array itself is, most likely; reading it tells.
                os.replace(beside, here)
            except FileNotFoundError:
                return False  # Another worker found the array damaged and took it away.
            finally:
                beside.unlink(missing_ok=True)
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
            The array and no names; or None where an image is not stored, with the names of packs found damaged.
        """
        index = self.index()
        if any(image not in index for image in images):
            return None, set()
        places: dict[str, list[tuple[int, int]]] = {}
        for position, image in enumerate(images):
            name, row = index[image]
            places.setdefault(name, []).append((position, row))
        shape = self._packs[next(iter(places))].shape[1:]
        out = np.empty((len(images), *shape), dtype=np.float32)
        damaged = {name for name, rows in places.items() if not self._copy(name, rows, out)}
        return (None if damaged else out), damaged

    def check(self, images: Sequence[str]) -> tuple[bool, set[str]]:
        """Whether all of `images` are stored and sound, and the names of packs found damaged; copies are not looked at."""
        index = self.index()
        names = {index[image][0] for image in images if image in index}
        damaged = {name for name in names if not self.sound(name)}
        return not damaged and all(image in index for image in images), damaged

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
        header = BytesIO()
        np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(rows))
        # Written as plain bytes: numpy's own writer loses the error number of a full disk.
        self._place(f"{name}.npy", header.getvalue(), rows.data)
        self._place(f"{name}.json", json.dumps(asdict(pack)).encode())

    def discard(self, name: str) -> None:
        """Take a pack away."""
        self._packs.pop(name, None)
        for suffix in (".json", ".npy"):
            (self.folder / f"{name}{suffix}").unlink(missing_ok=True)

    def sweep(self, of: str) -> None:
        """Remove what a writer of bucket `of` left when it died; only for the holder of the bucket's claim."""
        for path in self.folder.glob(f".{of}-*.tmp"):
            path.unlink(missing_ok=True)
        self.index()
        for path in self.folder.glob(f"{of}-*"):
            if path.stem not in self._packs:
                self.discard(path.stem)

    def _describe(self, name: str) -> Pack | None:
        try:
            facts: Any = json.loads((self.folder / f"{name}.json").read_bytes())
            pack = Pack(tuple(facts["images"]), tuple(facts["shape"]), str(facts["dtype"]), tuple(facts["crc32"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return pack if pack.shape[:1] == (len(pack.images),) == (len(pack.crc32),) else None

    def _copy(self, name: str, rows: Sequence[tuple[int, int]], out: npt.NDArray[np.float32]) -> bool:
        """Copy (position in `out`, row of the pack) pairs; False at the first damage."""
        pack, path = self._packs[name], self.folder / f"{name}.npy"
        if self._copies and self._copies.read(path, pack, rows, out):
            return True
        return _read(path, pack, rows, out)

    def _place(self, name: str, *content: bytes | memoryview) -> None:
        """Write a file beside its place, to the disk, then rename it."""
        beside = self.folder / f".{name}.{uuid.uuid4().hex}.tmp"
        try:
            with beside.open("wb") as file:
                for part in content:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self.folder / name)
        finally:
            beside.unlink(missing_ok=True)


def _crc32(row: npt.NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(row).view(np.uint8).data)


def _open(path: Path, pack: Pack) -> npt.NDArray[Any] | None:
    """The array in a file, memory-mapped; None if it is not the one that was described."""
    try:
        stored: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return stored if (stored.shape, str(stored.dtype)) == (pack.shape, pack.dtype) else None


def _read(path: Path, pack: Pack, rows: Sequence[tuple[int, int]], out: npt.NDArray[np.float32]) -> bool:
    """Copy (position in `out`, row of the file) pairs; False at the first damage."""
    stored = _open(path, pack)
    if stored is None or stored.shape[1:] != out.shape[1:]:
        return False
    for position, row in rows:
        out[position] = stored[row]
        if _crc32(stored[row]) != pack.crc32[row]:
            return False
    return True


def _is_sound(path: Path, pack: Pack) -> bool:
    """Whether every row in a file matches its checksum."""
    stored = _open(path, pack)
    return stored is not None and all(_crc32(row) == known for row, known in zip(stored, pack.crc32, strict=True))
