"""Facts of an image file: its identity, how it is read, and figures for a look at the data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from moleflow.data.images import check_image, decode_mask, identity, opened, orientation, orientation_text
from moleflow.data.wide_values import MOST, bit_depth, require_16_bits, wide_values


@dataclass(frozen=True)
class ImageFacts:
    """Facts of an image file that was read in full and is intact.

    Attributes:
        sha256: digest of the file.
        width: pixels, after the turn that the file's orientation asks for.
        height: pixels, after that turn.
        decoding: the ways in which the pixels are read differently from earlier code, such as
            "orientation 6" or "alpha"; empty for most files.
        mode: Pillow's name of the kind of pixels, such as "L", "RGB" or "I;16".
        bits: bits a channel in the file: 1, 8, 12, 16 or 32.
        largest: the largest grey level or channel value of an image of more than 8 bits; 65535
            where Pillow gives no way to its low bits; None for other images and for masks.
        defective: share of the defective pixels of a mask; None for an image.
    """

    sha256: str
    width: int
    height: int
    decoding: str = ""
    mode: str = ""
    bits: int = 8
    largest: int | None = None
    defective: float | None = None

    @property
    def identity(self) -> str:
        """The digest that stands for the pixels as they are read, 64 hex digits.

        It is `sha256` for a file that is read as by earlier code.
        """
        return identity(self.sha256, self.decoding)


def examine(data: bytes, path: Path, is_mask: bool = False) -> ImageFacts:
    """The facts of an image file, which is checked.

    A PNG file is decoded if it is a mask, has more than 8 bits, or is turned. Files of other
    formats are always decoded.

    Args:
        data: the bytes of the file.
        path: its path, for messages.
        is_mask: True for a defect mask, of which the defective pixels are counted.

    Raises:
        InvalidInput: as `check_image`, or an image of 32 bits has values beyond 16.
    """
    width, height = check_image(data, path)
    digest = hashlib.sha256(data).hexdigest()
    with opened(data, path) as image:
        mode, bits = image.mode, bit_depth(image)
        if mode == "I" and not is_mask:
            require_16_bits(image, path)
        values = wide_values(image, data) if bits > 8 and not is_mask else None
    if not is_mask:
        largest = None if bits <= 8 else MOST if values is None else int(values.max())
        decoding = orientation_text(orientation(data, path))
        return ImageFacts(digest, width, height, decoding, mode, bits, largest)
    defective, decoding = decode_mask(data, path)
    return ImageFacts(digest, width, height, decoding, mode, bits, None, float(defective.mean()))
