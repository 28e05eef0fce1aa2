"""Arrays of several images in one immutable file, and how they are written and read so that damage is noticed.

    <bucket>-<digest>.npy     (n, ...) one row an image, memory-mapped when read
    <bucket>-<digest>.json    image digests, shape, dtype and one CRC-32 a row

The JSON is written last: an array without it is not an entry. A bucket is the first hex digit of an image's digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

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


class PackFolder:
    """The packs in one folder. Its files appear by renaming only and never change afterwards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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

    def sound(self, name: str) -> bool:
        """Whether every row of a pack matches its checksum."""
        pack = self._describe(name)
        if pack is None:
            return False
        self._packs[name] = pack
        out = np.empty(pack.shape, dtype=np.float32)
        return self._copy(name, [(row, row) for row in range(len(pack.images))], out)

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
        pack = self._packs[name]
        try:
            stored = np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        except (FileNotFoundError, ValueError, EOFError):
            return False
        if (stored.shape, str(stored.dtype), stored.shape[1:]) != (pack.shape, pack.dtype, out.shape[1:]):
            return False
        for position, row in rows:
            out[position] = stored[row]
            if _crc32(stored[row]) != pack.crc32[row]:
                return False
        return True

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
