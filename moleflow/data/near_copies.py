"""Images that look alike, by a perceptual hash: re-encoded, resized or brightened copies.

The hash is pHash of the library `imagehash`: which of the lowest frequencies are above their
median. We take 32 x 32 frequencies, which tell similar objects apart, and 16 x 16, which survive
re-encoding where an image has no fine detail. An image is decoded once for it; its hash is
remembered by its identity. Cropped, shifted and rotated copies are not found.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from moleflow.data.copies import CopiedImage, Copies
from moleflow.data.images import read_image
from moleflow.data.samples import Sample, TaskData
from moleflow.files import make_folder, write_atomically
from moleflow.passing_errors import read

MOST_BITS = 64
"""Images of at most this distance are near copies; see `_distances`.

Of 124,843 pairs of images of three real classes, three are within it; each is one object taken
twice. Pairs of different objects begin at 80 (docs/data.md).
"""
_FINE, _COARSE = 32, 16  # Frequencies a side.
_COARSE_WEIGHT = 8  # 64 of 1024 fine bits weigh as much as 8 of 256 coarse ones.
_PIXELS = 4 * _FINE
_FINE_WORDS = _FINE * _FINE // 64
_WORDS = _FINE_WORDS + _COARSE * _COARSE // 64
_BYTES = 8 * _WORDS
_ROWS = 256  # Images whose distances to all others are in memory at a time.

Hashes = npt.NDArray[np.uint64]


class ImageHashes:
    """Remembers perceptual hashes by the identity of images, in one JSON file.

    A damaged file is ignored and replaced.

    Args:
        path: the JSON file; None = remember within this object only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known = self._read()
        self._new: dict[str, str] = {}

    def unknown(self, samples: Sequence[Sample]) -> int:
        """The number of contents that would have to be decoded."""
        return len({sample.digest for sample in samples} - self._known.keys() - self._new.keys())

    def of(self, samples: Sequence[Sample], workers: int = 1) -> Hashes:
        """The hashes of images: uint64 (N, 20), 1024 fine bits and 256 coarse ones.

        Args:
            samples: images as they were scanned.
            workers: threads that decode images.

        Raises:
            Damaged: an image changed since it was scanned.
            InvalidInput: an image cannot be decoded.
        """
        missing = {sample.digest: sample for sample in samples if self._hash(sample) is None}
        try:
            with ThreadPoolExecutor(max(1, workers)) as pool:
                for digest, found in zip(missing, pool.map(_perceptual_hash, missing.values()), strict=True):
                    self._new[digest] = found
        finally:
            self._save()
        spelled = "".join(self._hash(sample) or "" for sample in samples)
        return np.frombuffer(bytes.fromhex(spelled), dtype=np.uint64).reshape(len(samples), _WORDS)

    def _hash(self, sample: Sample) -> str | None:
        return self._new.get(sample.digest) or self._known.get(sample.digest)

    def _save(self) -> None:
        if self._path is None or not self._new:
            return
        self._known, self._new = self._read() | self._new, {}
        make_folder(self._path.parent)
        write_atomically(self._path, json.dumps(self._known).encode(), durable=False)

    def _read(self) -> dict[str, str]:
        try:
            rows = json.loads(read(self._path)) if self._path is not None else {}
            return {digest: found for digest, found in rows.items() if len(bytes.fromhex(found)) == _BYTES}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}


def find_near_copies(classes: Sequence[TaskData], hashes: ImageHashes, workers: int = 1) -> tuple[Copies, ...]:
    """The near copies that may make metrics wrong; exact ones are left out.

    Each image is named with the one that is nearest to it.

    Args:
        classes: scanned classes.
        hashes: the hashes known; new ones are added.
        workers: threads that decode images.

    Raises:
        Damaged: an image changed since it was scanned.
        InvalidInput: an image cannot be decoded.
    """
    samples = [sample for data in classes for sample in (*data.train, *data.test)]
    if not samples:
        return ()
    own = np.concatenate([np.full(len(data.train) + len(data.test), k) for k, data in enumerate(classes)])
    tested = np.concatenate([np.repeat([False, True], [len(data.train), len(data.test)]) for data in classes])
    defects = np.unique([sample.defect for sample in samples], return_inverse=True)[1]
    contents = np.unique([sample.digest for sample in samples], return_inverse=True)[1]
    of = hashes.of(samples, workers)
    in_test: dict[tuple[str, ...], list[CopiedImage]] = {}
    labels: dict[tuple[str, ...], list[CopiedImage]] = {}
    shared: dict[tuple[str, ...], list[CopiedImage]] = {}
    for start in range(0, len(samples), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(samples)))
        distances = _distances(of[rows], of)
        distances[contents[rows][:, None] == contents] = MOST_BITS + 1
        same = own[rows][:, None] == own
        # An image of a pair is named once, with the one before it.
        before = np.arange(len(samples)) < rows[:, None]
        trained = same & tested[rows][:, None] & ~tested
        for found, allowed in (
            (in_test, trained),
            (labels, same & before & (defects[rows][:, None] != defects)),
            (shared, ~same & before),
        ):
            chosen = np.where(allowed, distances, MOST_BITS + 1)
            for row, nearest in enumerate(chosen.argmin(axis=1)):
                if chosen[row, nearest] <= MOST_BITS:
                    image = start + row
                    names = tuple(dict.fromkeys(classes[own[k]].name for k in (nearest, image)))
                    found.setdefault(names, []).append(CopiedImage(samples[image].name, samples[nearest].name))
    number = {data.name: len(data.test) for data in classes}
    return (
        *(Copies("training in test", names, _sorted(of), True, number[names[0]]) for names, of in in_test.items()),
        *(Copies("other label", names, _sorted(of), True) for names, of in labels.items()),
        *(Copies("other class", names, _sorted(of), True) for names, of in sorted(shared.items())),
    )


def _sorted(copies: list[CopiedImage]) -> tuple[CopiedImage, ...]:
    return tuple(sorted(copies, key=lambda copy: copy.image))


def _distances(a: Hashes, b: Hashes) -> npt.NDArray[np.int64]:
    """The differing bits of each pair, (N, M): fine ones, or weighted coarse ones if fewer."""
    fine = _differing_bits(a[:, :_FINE_WORDS], b[:, :_FINE_WORDS])
    return np.minimum(fine, _COARSE_WEIGHT * _differing_bits(a[:, _FINE_WORDS:], b[:, _FINE_WORDS:]))


def _differing_bits(a: Hashes, b: Hashes) -> npt.NDArray[np.int64]:
    """The number of differing bits of each pair: (N, M)."""
    total = np.zeros((len(a), len(b)), dtype=np.int64)
    for word in range(a.shape[1]):
        total += np.bitwise_count(a[:, word, None] ^ b[None, :, word])
    return total


def _perceptual_hash(sample: Sample) -> str:
    import imagehash  # It is needed for this alone.

    image = Image.fromarray(read_image(sample.path, _PIXELS, "bilinear", sample.digest, sample.value_range))
    bits = [imagehash.phash(image, side).hash.ravel() for side in (_FINE, _COARSE)]
    return np.packbits(np.concatenate(bits)).tobytes().hex()
