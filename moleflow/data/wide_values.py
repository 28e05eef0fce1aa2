"""Grey levels and channel values of more than 8 bits, and their scaling to 8 bits by a range."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from moleflow.errors import InvalidInput

MOST = 65535
"""The largest value. Pillow opens some 16-bit files as 32 bits; values above are cut off."""

# Pillow keeps the high byte of a 16-bit channel. Read in the other byte order, it keeps the low
# byte.
_OTHER_ORDER: Mapping[str, str] = MappingProxyType(
    {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
)
_HIGH = np.uint16(256)  # Of 16 bits itself, so that products are.
_COLOURS = ("RGB", "RGBA", "RGBX")
# Grey and alpha of 16 bits each are four bytes, as are four channels of 8 bits.
_GREY_AND_ALPHA = "LA;16B"


def bit_depth(image: Image.Image) -> int:
    """Bits a channel in the file of an opened image that is not yet decoded: 1, 8, 12, 16 or 32."""
    layout = _layout(image)
    if layout.endswith(";12"):
        return 12
    if image.mode.startswith("I;16") or ";16" in layout:
        return 16
    return {"1": 1, "I": 32}.get(image.mode, 8)


def require_16_bits(image: Image.Image, path: Path) -> None:
    """Refuse a grey image of 32 bits with values that 16 bits cannot hold.

    Args:
        image: the opened image.
        path: its path, for the message.

    Raises:
        InvalidInput: it has such values. They have no fixed range, and cut off they would be wrong.
    """
    values = np.asarray(image)
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > MOST:
        raise InvalidInput(
            f"{path}: grey levels of 32 bits, from {least} to {most}; allowed: 0 to {MOST}; save it with 16 bits"
        )


def grey_values(image: Image.Image) -> npt.NDArray[np.uint16]:
    """The values of a grey image of more than 8 bits, which Pillow keeps in full: uint16 (H, W)."""
    grey = np.asarray(image)
    return grey.astype(np.uint16, copy=False) if grey.dtype.itemsize == 2 else np.clip(grey, 0, MOST).astype(np.uint16)


def wide_values(image: Image.Image, data: bytes) -> npt.NDArray[np.uint16] | None:
    """The values of an image of more than 8 bits: uint16 (H, W) or (H, W, 3), 0 to 65535.

    Alpha is left out.

    Args:
        image: the opened image, not yet decoded.
        data: the bytes of its file, which are decoded twice where there are colours.

    Returns:
        The values; None where Pillow gives no way to the low bits (CMYK, premultiplied alpha,
        separate planes).
    """
    if image.mode.startswith("I"):
        return grey_values(image)
    layout = _layout(image)
    if layout == _GREY_AND_ALPHA:
        grey = _channels(data, "RGBA", 2)
        return grey[..., 0] * _HIGH + grey[..., 1]
    kind, _, order = layout.partition(";")
    if kind not in _COLOURS or order not in _OTHER_ORDER:
        return None
    high = _channels(data, layout, 3)
    return high * _HIGH + _channels(data, f"{kind};{_OTHER_ORDER[order]}", 3)


def to_8_bits(values: npt.NDArray[np.uint16], value_range: tuple[int, int] = (0, MOST)) -> npt.NDArray[np.uint8]:
    """Values scaled so that the range becomes 0 to 255; those outside it are cut off.

    Args:
        values: of any shape.
        value_range: the values that become 0 and 255.
    """
    low, high = value_range
    # A table of 65,536 entries: arithmetic on a large image would take many times its memory.
    inside = np.clip(np.arange(MOST + 1, dtype=np.int64), low, high) - low
    table = ((inside * 255 + (high - low) // 2) // (high - low)).astype(np.uint8)
    scaled: npt.NDArray[np.uint8] = table[values]
    return scaled


def _layout(image: Image.Image) -> str:
    """Pillow's name of the order of bytes in an image's file, such as "RGB;16B"; "" if unknown."""
    tiles: list[Any] = getattr(image, "tile", [])
    arguments = tiles[0][3] if tiles else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _channels(data: bytes, layout: str, count: int) -> npt.NDArray[np.uint16]:
    """The first channels of a file, decoded as if its bytes had another order: (H, W, count)."""
    with Image.open(BytesIO(data)) as image:
        tiles: list[Any] = getattr(image, "tile", [])
        for number, tile in enumerate(tiles):
            given = (layout, *tile[3][1:]) if isinstance(tile[3], tuple) else layout
            tiles[number] = tile._replace(args=given)
        return np.asarray(image)[..., :count].astype(np.uint16)
