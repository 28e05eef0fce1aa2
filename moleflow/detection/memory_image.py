"""An image in memory, read as the file of the same pixels would be."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from moleflow.data.images import Interpolation, _8_bits
from moleflow.errors import InvalidInput

Pixels = npt.NDArray[np.uint8] | Image.Image
"""An array of bytes, grey (H, W) or RGB (H, W, 3), or a Pillow image."""

_ALLOWED = "a file, a folder, a uint8 array (H, W) or RGB (H, W, 3), or a Pillow image of 8 bits"
_WIDE = ("I", "F")
"""First letters of Pillow's modes of more than 8 bits."""


@dataclass(frozen=True)
class MemoryImage:
    """An image in memory.

    Attributes:
        name: a name in place of a path, such as `image 3`.
        image: the upright image, in mode L or RGB.
    """

    name: Path
    image: Image.Image

    @property
    def digest(self) -> str:
        """SHA-256 of its size and pixels, in hex."""
        size = f"{self.image.mode} {self.image.width} {self.image.height} ".encode()
        return hashlib.sha256(size + self.image.tobytes()).hexdigest()

    def resized(self, size: int, interpolation: Interpolation) -> npt.NDArray[np.uint8]:
        """Return uint8 (size, size, 3), as `read_image` returns it of a file of these pixels."""
        small = self.image.resize((size, size), Image.Resampling[interpolation.upper()])
        return np.asarray(small.convert("RGB"), dtype=np.uint8)


def memory_image(given: object, name: Path) -> MemoryImage:
    """Return an array or a Pillow image as the file of these pixels would be read.

    A Pillow image is turned as its EXIF orientation says, and its alpha is dropped.

    Args:
        given: the image.
        name: its name in messages.

    Raises:
        InvalidInput: it is something else, has more than 8 bits, holds no pixel, or cannot be
            decoded.
    """
    if isinstance(given, np.ndarray):
        _require_pixels(given, name)
        return MemoryImage(name, Image.fromarray(np.ascontiguousarray(given)))
    if not isinstance(given, Image.Image):
        raise InvalidInput(f"{name}: given {type(given).__name__}, allowed: {_ALLOWED}")
    if given.mode.startswith(_WIDE):
        raise InvalidInput(f"{name}: given a Pillow image of mode {given.mode}, allowed: 8 bits; give its file instead")
    try:
        upright = ImageOps.exif_transpose(given)
    except Exception as error:  # Damaged files make Pillow's decoders raise nearly anything.
        raise InvalidInput(f"{name}: cannot be decoded ({str(error) or type(error).__name__})") from None
    return MemoryImage(name, _8_bits(upright))


def _require_pixels(given: npt.NDArray[np.generic], name: Path) -> None:
    if given.dtype == np.uint8 and given.size and (given.ndim == 2 or (given.ndim == 3 and given.shape[2] == 3)):
        return
    several = "; for several images, give a list of them" if given.ndim == 4 else ""
    raise InvalidInput(f"{name}: given an array {given.dtype} {given.shape}, allowed: {_ALLOWED}{several}")
