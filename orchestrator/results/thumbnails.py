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
_END_OF_JPEG = b"\xff\xd9"
_END_OF_PNG = b"IEND\xaeB`\x82"


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
        self._stored: set[str] | None = None  # Digests; not asked yet.

    def keep(self, digest: str, make: Callable[[], tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_] | None]]) -> None:
        """Store the picture of an image unless it is stored already.

        Args:
            digest: the digest of the image file.
            make: gives the small image (H, W, 3) and its mask (H, W) or None.

        Raises:
            OSError: the folder cannot be written.

        """
        # One look for all trials of a worker. A picture that another one adds meanwhile is written
        # again, with the same bytes.
        if self._stored is None:
            files.make_folder(self.folder)
            self._stored = {name.removesuffix(".jpg") for name in files.names(self.folder) if name.endswith(".jpg")}
        if digest in self._stored:
            return
        image, mask = make()
        # Not synced: a power cut may cost a picture, which `read` then leaves out.
        # The JPEG is written last: if it exists, so does the mask.
        pictures = [(".png", _encoded(mask, "PNG"))] if mask is not None else []
        for suffix, picture in [*pictures, (".jpg", _encoded(image, "JPEG", quality=QUALITY))]:
            target = self.folder / f"{digest}{suffix}"
            files.write_atomically(target, picture, folder=self._temporary, durable=False)
        self._stored.add(digest)

    def read(self, digest: str) -> Thumbnail | None:
        """The picture of the image with this digest; None if there is none, or half of one."""
        # The digest comes from the folder's maps, which others may have made: `../../private` must
        # not put a picture from outside of the folder into its report.
        if not _DIGEST.fullmatch(digest):
            return None
        target = self.folder / f"{digest}.jpg"
        mask = target.with_suffix(".png")
        if not self._is_own_file(target):
            return None
        image = Thumbnail(files.read(target), files.read(mask) if self._is_own_file(mask) else None)
        whole = image.picture.endswith(_END_OF_JPEG) and (image.mask is None or image.mask.endswith(_END_OF_PNG))
        return image if whole else None

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
