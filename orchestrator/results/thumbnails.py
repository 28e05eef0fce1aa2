"""Small pictures of the images that have anomaly maps, shared by all trials of a results folder.

pictures/<digest of the image file>.jpg    the image, small
pictures/<digest of the image file>.png    its mask, 1 bit per pixel, if it has one
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from moleflow import files
from orchestrator.results.parts import temporary_folder

QUALITY = 80
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Thumbnail:
    """An image as JPEG and its mask as PNG; None without a mask."""

    picture: bytes
    mask: bytes | None


class ThumbnailStore:
    """The pictures of a results folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "pictures"
        self._temporary = temporary_folder(folder / "parts")
        self._stored: set[str] = set()

    def keep(self, digest: str, make: Callable[[], tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_] | None]]) -> None:
        """Store the picture of an image unless it is stored already.

        Args:
            digest: the digest of the image file.
            make: gives the small image (H, W, 3) and its mask (H, W) or None.

        Raises:
            OSError: the folder cannot be written.

        """
        # The JPEG is written last: if it exists, so does the mask.
        target = self.folder / f"{digest}.jpg"
        if digest not in self._stored and not files.exists(target):
            image, mask = make()
            if not self._stored:
                files.make_folder(self.folder)
            if mask is not None:
                files.write_atomically(target.with_suffix(".png"), _encoded(mask, "PNG"), folder=self._temporary)
            files.write_atomically(target, _encoded(image, "JPEG", quality=QUALITY), folder=self._temporary)
        self._stored.add(digest)

    def read(self, digest: str) -> Thumbnail | None:
        """The picture of the image with this digest; None if there is none."""
        # The digest comes from the folder's maps, which others may have made: `../../private` must
        # not put a picture from outside of the folder into its report.
        if not _DIGEST.fullmatch(digest):
            return None
        target = self.folder / f"{digest}.jpg"
        mask = target.with_suffix(".png")
        if not self._is_own_file(target):
            return None
        return Thumbnail(files.read(target), files.read(mask) if self._is_own_file(mask) else None)

    def _is_own_file(self, path: Path) -> bool:
        """True if it is a file in this folder, and no pipe and no link to somewhere else."""
        return path.is_file() and path.resolve().parent == self.folder.resolve()


def grey_png(grey: bytes, side: int) -> bytes:
    """A square grey image, one byte per pixel, as PNG."""
    return _encoded(np.frombuffer(grey, dtype=np.uint8).reshape(side, side), "PNG")


def _encoded(pixels: npt.NDArray[np.uint8] | npt.NDArray[np.bool_], form: str, **options: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, form, **options)
    return sink.getvalue()
