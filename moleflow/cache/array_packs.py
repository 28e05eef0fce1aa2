"""Arrays of several images in one immutable file, written and read so that damage is noticed.

    <bucket>-<digest>.npy     (n, ...) one row an image
    <bucket>-<digest>.json    image digests, shape, dtype and one CRC-32 a row

The JSON is written last: an array without it is no entry. Its modification time is the last use. A
bucket is the first hex digit of an image's digest.

A pack may be removed at any moment, also while it is read. Arrays are read and not memory-mapped: a
mapped file that another machine removes on a network filesystem kills the process that reads it.

A node with a disk of its own can copy arrays there once and read them from there; see `NodeCopies`.
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
# ESTALE: the file was open here while another machine removed it from a network filesystem.
_GONE = (errno.ENOENT, errno.ESTALE)


def bucket(image: str) -> str:
    """The bucket of an image digest."""
    return image[0]


@dataclass(frozen=True)
class Pack:
    """The description of an array: the content of its JSON file."""

    images: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    crc32: tuple[int, ...]

    def header(self) -> bytes:
        """The header that the array's file has to begin with."""
        header = BytesIO()
        facts = {"descr": np.dtype(self.dtype).str, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(header, facts)
        return header.getvalue()


class NodeCopies:
    """Copies of arrays on a node's own disk: `<folder>/<feature key>/<pack>.npy`, no descriptions.

    The workers of a node share them, and each array is copied once. After any failure here the
    shared array itself is read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._has_room = True

    def read(self, source: Path, pack: Pack, rows: Sequence[tuple[int, int]], out: npt.NDArray[np.float32]) -> bool:
        """Read rows of an array from this node's copy, which is made first if it is missing.

        A copy is compared with its checksums when it is made, and every row again when it is read.
        A damaged copy is made again once.

        Args:
            source: the shared array.
            pack: its description.
            rows: (position in `out`, row of the array) pairs.
            out: (N, ...) array that the rows are written to.

        Returns:
            False if there is no intact copy: the caller reads `source`.
        """
        copy = self.folder / source.parent.name / source.name
        try:
            for _ in range(2):
                if not copy.exists() and not (self._has_room and self._make(source, copy, pack)):
                    return False
                if _read(copy, pack, rows, out):
                    return True
                copy.unlink(missing_ok=True)
        except OSError as error:
            if self._has_room:
                _LOG.warning("%s: %s; arrays without a copy are read from the shared cache", self.folder, error)
            # The next copy would fail as well, after as much writing. Existing ones stay in use.
            self._has_room = False
        return False

    def _make(self, source: Path, copy: Path, pack: Pack) -> bool:
        claim_path = copy.with_suffix(".claim")
        claim = try_claim(claim_path)
        if claim is None:
            wait_for(copy.exists, claim_path)
            return copy.exists()
        with claim:
            if copy.exists():
                return True
            for leftover in copy.parent.glob(f".{copy.name}.*.tmp"):  # Of a worker that died meanwhile.
                leftover.unlink(missing_ok=True)
            with temporary_file(copy) as temporary:
                try:
                    shutil.copyfile(source, temporary)
                    if not _is_intact(temporary, pack):
                        return False  # Most likely the source is damaged too; reading it will show.
                    os.replace(temporary, copy)
                except FileNotFoundError:
                    return False  # Another worker found the source damaged and removed it.
            return True


def node_copies(folder_text: str | None) -> NodeCopies | None:
    """Copies in a folder of this node.

    Args:
        folder_text: an absolute path; $VARIABLES and ~ in it are those of this process.

    Returns:
        None without a folder, or with a warning if a variable is not set or the path is relative.
    """
    if folder_text is None:
        return None
    folder = Path(os.path.expandvars(folder_text)).expanduser()
    if "$" in str(folder) or not folder.is_absolute():
        _LOG.warning("%s: not an absolute path on this node; features are read from the shared cache", folder)
        return None
    return NodeCopies(folder)


class PackFolder:
    """The packs in one folder. Its files appear by renaming only and never change afterwards.

    Args:
        folder: the folder; it must exist before something is written.
        copies: copies on this node to read from.
    """

    def __init__(self, folder: Path, copies: NodeCopies | None = None) -> None:
        self.folder = folder
        self._copies = copies
        self._packs: dict[str, Pack] = {}

    def claim_path(self, name: str) -> Path:
        """The file of a bucket's claim."""
        return self.folder / f"{name}.claim"

    def index(self) -> dict[str, tuple[str, int]]:
        """{image digest: (pack, row)} of all that is stored now. No array is read."""
        names = {path.stem for path in self.folder.glob("*.json")} & {path.stem for path in self.folder.glob("*.npy")}
        self._packs = {name: pack for name in sorted(names) if (pack := self._packs.get(name) or self._describe(name))}
        return {image: (name, row) for name, pack in self._packs.items() for row, image in enumerate(pack.images)}

    def read(self, images: Sequence[str]) -> tuple[npt.NDArray[np.float32] | None, set[str]]:
        """Rows of images, every one compared with its checksum.

        Returns:
            float32 (N, ...) and no names; or None and the names of damaged packs if an image is not
            stored, not stored any more, or damaged.
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
            if self.is_intact(first):
                raise
            # Its description is damaged: that shape takes more memory than there is.
            return None, self._still_stored({first})
        bad = {name for name, rows in places.items() if not self._copy(name, rows, out)}
        return (None if bad else out), self._still_stored(bad)

    def check(self, images: Sequence[str]) -> tuple[bool, set[str]]:
        """Compare the packs of images with their checksums. Copies are left out.

        Returns:
            True if all of `images` are stored and intact; and the names of damaged packs.
        """
        index = self.index()
        names = {index[image][0] for image in images if image in index}
        self._touch(names)
        bad = {name for name in names if not self.is_intact(name)}
        return not bad and all(image in index for image in images), self._still_stored(bad)

    def is_intact(self, name: str) -> bool:
        """True if every row of a pack matches its checksum."""
        pack = self._describe(name)
        return pack is not None and _is_intact(self.folder / f"{name}.npy", pack)

    def write(self, images: Sequence[str], rows: FloatArray) -> None:
        """Store a pack.

        Args:
            images: image digests, all of one bucket.
            rows: (N, ...) their arrays.

        Raises:
            OSError: the disk is full, or the folder cannot be written; nothing is left behind.
        """
        name = f"{bucket(images[0])}-{hashlib.sha256(' '.join(images).encode()).hexdigest()[:32]}"
        rows = np.ascontiguousarray(rows)
        pack = Pack(tuple(images), rows.shape, str(rows.dtype), tuple(_crc32(row) for row in rows))
        # Written as plain bytes: numpy's own writer loses the error number of a full disk.
        write_atomically(self.folder / f"{name}.npy", pack.header(), rows.data)
        write_atomically(self.folder / f"{name}.json", json.dumps(asdict(pack)).encode())

    def discard(self, name: str) -> None:
        """Remove a pack."""
        self._packs.pop(name, None)
        for suffix in (".json", ".npy"):
            (self.folder / f"{name}{suffix}").unlink(missing_ok=True)

    def remove_unfinished(self, name: str = "*") -> None:
        """Remove half-written files of a bucket, or of all; a live writer must write again."""
        for path in self.folder.glob(f".{name}-*.tmp"):
            path.unlink(missing_ok=True)

    def remove_leftovers(self, name: str) -> None:
        """Remove what a dead writer of a bucket left; only for the holder of its claim."""
        self.remove_unfinished(name)
        self.index()
        for path in self.folder.glob(f"{name}-*"):
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
        # The JSON has no checksum of its own, so every field that is used without one is looked at
        # here.
        typed = all(type(size) is int and size > 0 for size in pack.shape) and pack.dtype in _DTYPES
        named = all(isinstance(image, str) for image in pack.images)
        return pack if typed and named and pack.shape[:1] == (len(pack.images),) == (len(pack.crc32),) else None

    def _touch(self, names: Iterable[str]) -> None:
        for name in names:
            mark_used(self.folder / f"{name}.json")

    def _still_stored(self, names: set[str]) -> set[str]:
        """The packs that were not removed meanwhile: those are damaged."""
        return {name for name in names if (self.folder / f"{name}.npy").exists()}

    def _copy(self, name: str, rows: Sequence[tuple[int, int]], out: npt.NDArray[np.float32]) -> bool:
        """Read (position in `out`, row) pairs of a pack; False at the first damage."""
        pack, path = self._packs[name], self.folder / f"{name}.npy"
        if self._copies and self._copies.read(path, pack, rows, out):
            return True
        return _read(path, pack, rows, out)


def _crc32(row: npt.NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(row).view(np.uint8).data)


def _rows(path: Path, pack: Pack, wanted: Iterable[int]) -> Iterator[npt.NDArray[Any]]:
    """Rows of a file up to the first damage, all in the same memory; none if it is gone."""
    try:
        with path.open("rb") as file:
            header = pack.header()
            # Compared as bytes: numpy's reader fails in its own ways on a damaged header.
            if file.read(len(header)) != header:
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
    """Read (position in `out`, row) pairs of a file; False at the first damage."""
    if pack.shape[1:] != out.shape[1:]:
        return False
    done = 0
    for (position, _), row in zip(rows, _rows(path, pack, [row for _, row in rows]), strict=False):
        out[position] = row
        done += 1
    return done == len(rows)


def _is_intact(path: Path, pack: Pack) -> bool:
    """True if every row in a file matches its checksum."""
    return sum(1 for _ in _rows(path, pack, range(len(pack.images)))) == len(pack.images)
