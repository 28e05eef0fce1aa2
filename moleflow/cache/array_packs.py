"""Arrays of several images in one immutable file, written and read so that damage is noticed.

    <bucket>-<digest>.npy     (n, ...) one row an image
    <bucket>-<digest>.json    image digests, shape, dtype and one CRC-32 a row

The JSON is written last: an array without it is no entry. Its modification time is the last use. A
bucket is the first hex digit of an image's digest.

A pack may be removed at any moment, also while it is read. Arrays are read and not memory-mapped: a
mapped file that another machine removes on a network filesystem kills the process that reads it.

A pack never changes, so a process reads each description once. It lists the folder only to look for
an image that it does not know. Arrays can stay open between reads; see `OpenArrays`. A node with a
disk of its own can copy arrays there once and read them from there; see `NodeCopies`.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import json
import logging
import math
import os
import shutil
import time
import zlib
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from moleflow import files
from moleflow.cache.claim import try_claim, wait_for
from moleflow.cache.entries import mark_used
from moleflow.passing_errors import retried

_LOG = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32 | np.float16]

_DTYPES = ("float32", "float16")
# ESTALE: the file was open here while another machine removed it from a network filesystem.
_GONE = (errno.ENOENT, errno.ESTALE)
# A process may commonly open 1,024 files.
OPEN_AT_MOST = 256
_PIECE = 1 << 20
MARK_EVERY_S = 3_600.0


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
            with files.temporary_file(copy) as temporary:
                try:
                    with files.open_file(source) as shared, temporary.open("wb") as own:
                        shutil.copyfileobj(shared, own, _PIECE)
                    if not _is_intact(temporary, pack):
                        return False  # Most likely the source is damaged too; reading it will show.
                    os.replace(temporary, copy)
                except FileNotFoundError:
                    return False  # Another worker found the source damaged and removed it.
            return True


class OpenArrays:
    """Arrays that stay open between reads, so that a read of a known pack opens nothing.

    A file that was removed meanwhile is still intact here, or the read fails; then the caller opens
    the array that has its name now.

    Args:
        at_most: number of open files; the least recently used one is closed.
    """

    def __init__(self, at_most: int = OPEN_AT_MOST) -> None:
        self._at_most = at_most
        self._files: OrderedDict[Path, BinaryIO] = OrderedDict()

    def read(self, source: Path, pack: Pack, rows: Sequence[tuple[int, int]], out: npt.NDArray[np.float32]) -> bool:
        """Read rows of an array; arguments as of `NodeCopies.read`. False if it fails."""
        if files.is_routed(source):
            return False  # An open one would stay in memory.
        try:
            file = self._files.pop(source, None) or files.open_file(source)
        except OSError:
            return False  # The caller opens it as well, and knows what the error means.
        try:
            if not _read_open(file, pack, rows, out):
                _close(file)
                return False
        except OSError:
            _close(file)
            return False  # The caller opens it anew, and tries again if the error passes.
        except BaseException:
            _close(file)
            raise
        self._files[source] = file
        if len(self._files) > self._at_most:
            _close(self._files.popitem(last=False)[1])
        return True

    def __del__(self) -> None:
        for file in self._files.values():
            _close(file)


def _close(file: BinaryIO) -> None:
    """Close a file that was only read. The server of a dead mount answers with an error."""
    with contextlib.suppress(OSError):
        file.close()


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
        opened: keeps arrays open; None = they are opened for each read.
        is_new: true if the folder was made just now, so that it need not be listed.
    """

    def __init__(
        self,
        folder: Path,
        copies: NodeCopies | None = None,
        opened: OpenArrays | None = None,
        is_new: bool = False,
    ) -> None:
        self.folder = folder
        self._copies = copies
        self._opened = opened
        self._packs: dict[str, Pack] = {}
        self._places: dict[str, tuple[str, int]] = {}
        self._marked: dict[str, float] = {}
        self._is_new = is_new
        self._has_unfinished = not is_new  # As far as is known.

    def claim_path(self, name: str) -> Path:
        """The file of a bucket's claim."""
        return self.folder / f"{name}.claim"

    def index(self) -> dict[str, tuple[str, int]]:
        """{image digest: (pack, row)} of all that is stored now. Only new descriptions are read."""
        present = self._list()
        arrays = {name.removesuffix(".npy") for name in present if name.endswith(".npy")}
        stems = sorted(arrays & {name.removesuffix(".json") for name in present if name.endswith(".json")})
        self._know({name: pack for name in stems if (pack := self._packs.get(name) or self._describe(name))})
        return self._places

    def missing(self, images: Collection[str]) -> set[str]:
        """Those images that are not stored. The folder is listed only if one is not known.

        A known pack may be gone; `read` finds that, and forgets the pack.
        """
        if all(image in self._places for image in images):
            return set()
        known = self._places if self._is_new else self.index()
        self._is_new = False
        return set(images) - known.keys()

    def mark_used(self, images: Iterable[str]) -> None:
        """Note that the packs of known images are used now; at most once an hour.

        A running sweep's pin protects packs for longer than that (`moleflow.cache.pins`).
        """
        now = time.monotonic()
        for name in {self._places[image][0] for image in images if image in self._places}:
            if now - self._marked.get(name, -math.inf) > MARK_EVERY_S:
                self._marked[name] = now
                mark_used(self.folder / f"{name}.json")

    def read(self, images: Sequence[str]) -> tuple[npt.NDArray[np.float32] | None, set[str]]:
        """Rows of images, every one compared with its checksum.

        Returns:
            float32 (N, ...) and no names; or None and the names of damaged packs if an image is not
            stored, not stored any more, or damaged.
        """
        if self.missing(images):
            return None, set()
        places: dict[str, list[tuple[int, int]]] = {}
        for position, image in enumerate(images):
            name, row = self._places[image]
            places.setdefault(name, []).append((position, row))
        first = next(iter(places))
        try:
            out = np.empty((len(images), *self._packs[first].shape[1:]), dtype=np.float32)
        except (MemoryError, ValueError):
            if self.is_intact(first):
                raise
            # Its description is damaged: that shape takes more memory than there is.
            return None, self._still_stored({first})
        bad = {name for name, rows in places.items() if not self._copy(name, rows, out)}
        self._forget(bad)
        return (None if bad else out), self._still_stored(bad)

    def check(self, images: Sequence[str]) -> tuple[bool, set[str]]:
        """Compare the packs of images with their checksums. Copies are left out.

        Returns:
            True if all of `images` are stored and intact; and the names of damaged packs.
        """
        index = self.index()
        names = {index[image][0] for image in images if image in index}
        bad = {name for name in names if not self.is_intact(name)}
        return not bad and all(image in index for image in images), self._still_stored(bad)

    def is_intact(self, name: str) -> bool:
        """True if every row of a pack matches its checksum."""
        pack = self._describe(name)
        return pack is not None and _is_intact(self.folder / f"{name}.npy", pack)

    def write(self, images: Sequence[str], rows: FloatArray, durable: bool = True) -> None:
        """Store a pack.

        Args:
            images: image digests, all of one bucket.
            rows: (N, ...) their arrays.
            durable: as of `write_atomically`.

        Raises:
            OSError: the disk is full, or the folder cannot be written; nothing is left behind.
        """
        name = f"{bucket(images[0])}-{hashlib.sha256(' '.join(images).encode()).hexdigest()[:32]}"
        rows = np.ascontiguousarray(rows)
        pack = Pack(tuple(images), rows.shape, str(rows.dtype), tuple(_crc32(row) for row in rows))
        # Written as plain bytes: numpy's own writer loses the error number of a full disk.
        files.write_atomically(self.folder / f"{name}.npy", pack.header(), rows.data, durable=durable)
        files.write_atomically(self.folder / f"{name}.json", json.dumps(asdict(pack)).encode(), durable=durable)
        self._know(self._packs | {name: pack})

    def discard(self, name: str) -> None:
        """Remove a pack."""
        self._forget({name})
        for suffix in (".json", ".npy"):
            files.remove(self.folder / f"{name}{suffix}")

    def remove_unfinished(self, name: str = "*") -> None:
        """Remove half-written files of a bucket, or of all; a live writer must write again.

        The folder is not searched if there were none when it was last listed.
        """
        if not self._has_unfinished:
            return
        for path in self._named(f".{name}-*.tmp"):
            files.remove(path)

    def remove_leftovers(self, name: str) -> None:
        """Remove what a dead writer of a bucket left; only for the holder of its claim."""
        self.index()
        self.remove_unfinished(name)
        for path in self._named(f"{name}-*"):
            if path.stem not in self._packs:
                self.discard(path.stem)

    def _describe(self, name: str) -> Pack | None:
        try:
            facts: Any = json.loads(files.read(self.folder / f"{name}.json"))
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

    def _list(self) -> list[str]:
        present = files.names(self.folder, temporary=True)
        self._has_unfinished = any(name.endswith(".tmp") for name in present)
        return present

    def _named(self, pattern: str) -> list[Path]:
        return [self.folder / name for name in fnmatch.filter(files.names(self.folder, temporary=True), pattern)]

    def _know(self, packs: dict[str, Pack]) -> None:
        self._packs = packs
        self._places = {image: (name, row) for name, pack in packs.items() for row, image in enumerate(pack.images)}

    def _forget(self, names: set[str]) -> None:
        if names:
            self._know({name: pack for name, pack in self._packs.items() if name not in names})

    def _still_stored(self, names: set[str]) -> set[str]:
        """The packs that were not removed meanwhile: those are damaged."""
        return {name for name in names if files.exists(self.folder / f"{name}.npy")}

    def _copy(self, name: str, rows: Sequence[tuple[int, int]], out: npt.NDArray[np.float32]) -> bool:
        """Read (position in `out`, row) pairs of a pack; False at the first damage."""
        pack, path = self._packs[name], self.folder / f"{name}.npy"
        if self._copies and self._copies.read(path, pack, rows, out):
            return True
        if self._opened and self._opened.read(path, pack, rows, out):
            return True
        return _read(path, pack, rows, out)


def _crc32(row: npt.NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(row).view(np.uint8).data)


def _rows(file: BinaryIO, pack: Pack, wanted: Iterable[int]) -> Iterator[npt.NDArray[Any]]:
    """Rows of an open file up to the first damage; none if it is gone."""
    try:
        handle, header = file.fileno(), pack.header()
        # Compared as bytes: numpy's reader fails in its own ways on a damaged header.
        if os.pread(handle, len(header), 0) != header:
            return
        size = np.dtype(pack.dtype).itemsize * math.prod(pack.shape[1:])
        for number in wanted:
            # A forked process shares the position of an open file; `pread` does not use it.
            content = os.pread(handle, size, len(header) + number * size)
            if len(content) != size or zlib.crc32(content) != pack.crc32[number]:
                return
            yield np.frombuffer(content, dtype=pack.dtype).reshape(pack.shape[1:])
    except OSError as error:
        if error.errno not in _GONE:
            raise


def _read(path: Path, pack: Pack, rows: Sequence[tuple[int, int]], out: npt.NDArray[np.float32]) -> bool:
    """Read (position in `out`, row) pairs of a file; False at the first damage, or if gone."""

    def read() -> bool:
        with files.open_file(path) as file:
            return _read_open(file, pack, rows, out)

    try:
        return retried(read, path)
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return False


def _read_open(file: BinaryIO, pack: Pack, rows: Sequence[tuple[int, int]], out: npt.NDArray[np.float32]) -> bool:
    """As `_read`, from an open file."""
    if pack.shape[1:] != out.shape[1:]:
        return False
    done = 0
    for (position, _), row in zip(rows, _rows(file, pack, [row for _, row in rows]), strict=False):
        out[position] = row
        done += 1
    return done == len(rows)


def _is_intact(path: Path, pack: Pack) -> bool:
    """True if every row in a file matches its checksum."""
    try:
        with files.open_file(path) as file:
            return sum(1 for _ in _rows(file, pack, range(len(pack.images)))) == len(pack.images)
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return False
