"""Image files as arrays: checked once, then read at a given size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from moleflow.errors import Damaged, InvalidInput
from moleflow.passing_errors import read

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I", "I;16", "I;16B", "I;16L", "I;16N")
Interpolation = Literal["bilinear", "bicubic", "lanczos"]
_FILTERS: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@contextmanager
def _opened(data: bytes, path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            yield image
    except InvalidInput:
        raise
    except Exception as error:  # Damaged files make Pillow's decoders raise nearly anything.
        reason = "no PNG, JPEG, BMP or TIFF" if "cannot identify" in str(error) else str(error).replace("\n", " ")
        raise InvalidInput(f"{path}: broken image ({reason}); replace it or take it out of the folder") from None


def check_image(data: bytes, path: Path) -> tuple[int, int]:
    """Width and height in pixels of a usable image file.

    A PNG file carries checksums, which are compared. The other formats carry none and are decoded.

    Args:
        data: the bytes of the file.
        path: its path, for the message.

    Raises:
        InvalidInput: the file is broken, of another format, or has pixels without a fixed range.
    """
    with _opened(data, path) as image:
        if image.mode not in _MODES:
            allowed = "grey, palette or colour, 8 or 16 bits"
            raise InvalidInput(f"{path}: pixels of mode {image.mode} have no fixed range; allowed: {allowed}")
        if image.format == "PNG":
            image.verify()
        else:
            image.load()
        return image.size


def read_image(path: Path, size: int, interpolation: Interpolation, digest: str | None = None) -> npt.NDArray[np.uint8]:
    """An image as RGB: uint8 (size, size, 3).

    Grey becomes three equal channels, 16 bits are scaled by 255/65535, alpha is dropped. Shrinking
    is antialiased.

    Args:
        path: the file.
        size: pixels a side of the result.
        interpolation: the filter.
        digest: the SHA-256 that the file had when it was scanned; None = do not compare.

    Raises:
        Damaged: the file has changed since.
        InvalidInput: it cannot be read or decoded.
    """
    with _opened(_read_scanned(path, digest), path) as image:
        small = _rgb(image).resize((size, size), _FILTERS[interpolation])
    return np.asarray(small, dtype=np.uint8)


def read_mask(path: Path, size: int, digest: str | None = None) -> npt.NDArray[np.bool_]:
    """A defect mask: bool (size, size), resized by nearest neighbour.

    Every pixel above zero is defective; in JPEG, which is lossy, above half.

    Args:
        path: the file.
        size: pixels a side of the result.
        digest: the SHA-256 that the file had when it was scanned; None = do not compare.

    Raises:
        Damaged: the file has changed since.
        InvalidInput: it cannot be read or decoded.
    """
    with _opened(_read_scanned(path, digest), path) as image:
        limit = 127 if image.format == "JPEG" else 0
        # Not scaled to 8 bits, which would lose a 16-bit mask of ones.
        plain = image if image.mode in ("1", "L") or image.mode.startswith("I") else _rgb(image)
        defective = np.asarray(np.any(np.atleast_3d(np.asarray(plain)) > limit, axis=2), dtype=np.uint8)
    small = Image.fromarray(defective).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(small) > 0


def _read_scanned(path: Path, digest: str | None) -> bytes:
    data = read_bytes(path)
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        raise Damaged(f"{path}: changed since the data folder was scanned; start again")
    return data


def read_bytes(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        InvalidInput: it cannot be read.
    """
    try:
        return read(path)
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror})") from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16 bits at 255. It opens some 16-bit files as mode I (32
        # bits).
        wide = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        image = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # Straight to RGB, Pillow warns about transparent palettes.
    return image.convert("RGB")
