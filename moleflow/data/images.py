"""Image files as arrays: checked once, then read at a given size, as a viewer shows them."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from moleflow.data.formats import FORMATS, format_names
from moleflow.data.wide_values import bit_depth, grey_values, to_8_bits, wide_values
from moleflow.errors import Damaged, InvalidInput
from moleflow.passing_errors import read

DECODING = "decoding 1"
"""Version of how unusual files are decoded. It is in the identity of those files alone."""

LIMIT_VARIABLE = "MOLEFLOW_MAX_MEGAPIXELS"
MAX_MEGAPIXELS = 200.0
"""Images of more million pixels are refused, unless the environment variable above says more."""

# Earlier code refused larger images, so no stored result holds one whose digits this could change.
_REDUCED_ABOVE = 178_956_970
_REDUCED_SIDES = 4

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I", "I;16", "I;16B", "I;16L", "I;16N")
Interpolation = Literal["bilinear", "bicubic", "lanczos"]
_FILTERS: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# EXIF: the turn that shows the stored pixels upright. 1 is none.
_TURNS: Mapping[int, Image.Transpose] = MappingProxyType(
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)
_QUARTERS = (5, 6, 7, 8)  # These swap width and height.
# The most bytes that a byte of deflate, the compression of PNG, stands for.
_MOST_DEFLATED = 1032
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp", "lerc")
_CHANGED = "{}: changed since the data folder was scanned; start again"
# Type and first bytes of the PNG chunks that may hold an orientation.
_PNG_NOTES = (b"eXIf", *(kind + word for kind in (b"tEXt", b"zTXt", b"iTXt") for word in (b"Raw prof", b"XML:com.")))

# Ours is checked first, and names the file. Pillow's would warn, and call a large image an attack.
Image.MAX_IMAGE_PIXELS = None


@contextmanager
def opened(data: bytes, path: Path) -> Iterator[Image.Image]:
    """An image file, opened but not decoded.

    Args:
        data: the bytes of the file.
        path: its path, for the message.

    Raises:
        InvalidInput: the file is broken, of another format, or too large. An error in the block
            counts as broken, but for our own.
    """
    try:
        with _quietly():
            image = Image.open(BytesIO(data), formats=FORMATS)
        with image:
            _require_size(image, path)
            yield image
    except (InvalidInput, Damaged):
        raise
    except MemoryError:
        raise InvalidInput(f"{path}: too large to decode in the memory of this machine; shrink the image") from None
    except Exception as error:  # Damaged files make Pillow's decoders raise nearly anything.
        other = f"no {format_names()}"
        reason = other if "cannot identify" in str(error) else str(error).replace("\n", " ")
        raise InvalidInput(f"{path}: broken image ({reason}); replace it or take it out of the folder") from None


def check_image(data: bytes, path: Path) -> tuple[int, int]:
    """Width and height in pixels, as shown, of a usable image file.

    A PNG file carries checksums, which are compared. The other formats carry none and are decoded.

    Args:
        data: the bytes of the file.
        path: its path, for the message.

    Raises:
        InvalidInput: the file is broken, of another format, too large, or has pixels without a
            fixed range.
    """
    with opened(data, path) as image:
        width, height = image.size
        if image.mode not in _MODES:
            allowed = "grey, palette or colour, 8 or 16 bits"
            raise InvalidInput(f"{path}: pixels of mode {image.mode} have no fixed range; allowed: {allowed}")
        if image.format == "PNG":
            _require_content(image, data)
            image.verify()
        else:
            # Of a JPEG every byte is decoded, but an eighth of the lines and columns is enough.
            image.draft(None, (1, 1))
            image.load()
    return (height, width) if orientation(data, path) in _QUARTERS else (width, height)


def read_image(
    path: Path,
    size: int,
    interpolation: Interpolation,
    digest: str | None = None,
    value_range: tuple[int, int] | None = None,
) -> npt.NDArray[np.uint8]:
    """An image as RGB: uint8 (size, size, 3), turned as its EXIF orientation says.

    Grey becomes three equal channels, alpha is dropped, and shrinking is antialiased. Of 16 bits
    the full range becomes 0 to 255, or `value_range` does. A JPEG above 178 megapixels is decoded
    at a half, a quarter or an eighth of its sides, but at least at four times `size`.

    Args:
        path: the file.
        size: pixels a side of the result.
        interpolation: the filter.
        digest: the identity that the file had when it was scanned; None = do not compare.
        value_range: for files of more than 8 bits, the values that become 0 and 255; None = 0 and
            65535.

    Raises:
        Damaged: the file has changed since.
        InvalidInput: it cannot be read or decoded.
    """
    data = read_bytes(path)
    with _unchanged(data, path, digest):
        turn = orientation(data, path)
        with opened(data, path) as image:
            in_full = value_range is None or bit_depth(image) == 8
            pixels = identity(_sha256(data), orientation_text(turn))
            _require_identity(path, pixels if in_full or value_range is None else in_range(pixels, value_range), digest)
            if image.width * image.height > _REDUCED_ABOVE:
                image.draft(None, (_REDUCED_SIDES * size, _REDUCED_SIDES * size))
            plain = (
                _8_bits(image) if in_full or value_range is None else _8_bits_of_range(image, data, path, value_range)
            )
            small = _turned(plain, turn).resize((size, size), _FILTERS[interpolation])
    return np.asarray(small.convert("RGB"), dtype=np.uint8)


def read_mask(path: Path, size: int, digest: str | None = None) -> npt.NDArray[np.bool_]:
    """A defect mask: bool (size, size), resized by nearest neighbour; see `decode_mask`.

    Args:
        path: the file.
        size: pixels a side of the result.
        digest: the identity that the file had when it was scanned; None = do not compare.

    Raises:
        Damaged: the file has changed since.
        InvalidInput: it cannot be read or decoded.
    """
    data = read_bytes(path)
    with _unchanged(data, path, digest):
        defective, decoding = decode_mask(data, path)
        _require_identity(path, identity(_sha256(data), decoding), digest)
    small = Image.fromarray(defective.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(small) > 0


def decode_mask(data: bytes, path: Path) -> tuple[npt.NDArray[np.bool_], str]:
    """The defective pixels of a mask file, and how they were found.

    A pixel above zero is defective; in JPEG, AVIF, and lossy WebP and TIFF, above half. Where the
    alpha channel varies and is zero somewhere, it alone decides, by the same limit, and the colours
    do not count. An alpha channel that is never zero decides where the colours tell no pixels
    apart: a pixel above its smallest value is defective. Where the colours of a palette tell no
    pixels apart, its indices above zero are defective.

    Args:
        data: the bytes of the file.
        path: its path, for the message.

    Returns:
        bool (H, W), turned as the file's orientation says. The text is empty for a mask that
        earlier code read to the same pixels; else it names what differs: "orientation 6", "alpha",
        "index", "lossy".

    Raises:
        InvalidInput: the file cannot be decoded.
    """
    turn = orientation(data, path)
    with opened(data, path) as image:
        limit = 127 if _is_lossy(image, data) else 0
        alpha = _alpha(image)
        # Not scaled to 8 bits, which would lose a 16-bit mask of ones.
        plain = image if image.mode == "1" or image.mode.startswith("I") else _8_bits(image)
        values = np.asarray(plain)
        by_colour = _any_channel(values > limit)
        index = np.asarray(image) > 0 if image.mode == "P" else None
        earlier = _any_channel(values > 0) if limit and image.format == "TIFF" else by_colour
    notes = [orientation_text(turn)] + ([] if np.array_equal(by_colour, earlier) else ["lossy"])
    defective = by_colour if alpha is None else _by_alpha(alpha, by_colour, limit)
    notes += [] if np.array_equal(defective, by_colour) else ["alpha"]
    if index is not None and _is_uniform(defective) and not _is_uniform(index):
        defective = index
        notes.append("index")
    turned = np.asarray(_turned(Image.fromarray(defective.astype(np.uint8)), turn)) > 0
    return turned, ", ".join(filter(None, notes))


def orientation(data: bytes, path: Path) -> int:
    """The EXIF orientation by which the pixels of a file have yet to be turned; 1 = as they are.

    Pillow itself turns TIFF files, so they have 1 here. An orientation that cannot be read counts
    as 1, as for a viewer.

    Args:
        data: the bytes of the file.
        path: its path, for the message.

    Raises:
        InvalidInput: the file cannot be opened.
    """
    with opened(data, path) as image:
        if image.format in ("TIFF", "BMP"):
            return 1
        if image.format == "PNG" and not _has_png_notes(data):
            return 1  # Pillow would decode the file to look for notes behind its pixels.
        try:
            with _quietly():
                found = image.getexif().get(ExifTags.Base.Orientation, 1)
        except Exception:  # Damaged EXIF data makes it raise nearly anything.
            return 1
    return found if found in _TURNS else 1


def orientation_text(turn: int) -> str:
    """An orientation as part of `ImageFacts.decoding`; empty for 1."""
    return f"orientation {turn}" if turn in _TURNS else ""


def identity(digest: str, decoding: str) -> str:
    """The digest of a file and of how it is decoded; that of the file where nothing is unusual.

    Args:
        digest: of the file, 64 hex digits.
        decoding: see `ImageFacts.decoding`.
    """
    return _sha256(f"{digest} {DECODING} {decoding}".encode()) if decoding else digest


def in_range(digest: str, value_range: tuple[int, int]) -> str:
    """The identity of an image of more than 8 bits that is read with a range of values.

    Args:
        digest: its identity without one, 64 hex digits.
        value_range: the values that become 0 and 255.
    """
    return identity(digest, "values {} to {}".format(*value_range))


def read_bytes(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        InvalidInput: it cannot be read.
    """
    try:
        return read(path)
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror})") from None


@contextmanager
def _quietly() -> Iterator[None]:
    """Hide Pillow's warnings of damaged notes in a file: they name no file and change no pixel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _require_size(image: Image.Image, path: Path) -> None:
    given = os.environ.get(LIMIT_VARIABLE, "")
    try:
        most = float(given) if given else MAX_MEGAPIXELS
    except ValueError:
        most = float("nan")
    if not most > 0:
        raise InvalidInput(f"{LIMIT_VARIABLE}: given '{given}', but it must be a number above 0, such as 300")
    width, height = image.size
    if width * height > most * 1e6:
        millions = width * height / 1e6
        size = f"{width}x{height} pixels, which are {millions:.1f} megapixels"
        enough = f"set {LIMIT_VARIABLE}={int(millions) + 1} where every worker sees it"
        raise InvalidInput(f"{path}: {size}, more than the limit of {most:g}; {enough}, or shrink the image")


def _require_content(image: Image.Image, data: bytes) -> None:
    """Refuse a PNG file that is too short for its pixels: its checksums may be right all the same.

    Raises:
        ValueError: it is.
    """
    width, height = image.size
    # At least one bit a pixel: a mode of 8 bits may hold fewer in the file.
    if width * height // 8 > _MOST_DEFLATED * len(data):
        raise ValueError(f"{len(data)} bytes cannot hold {width}x{height} pixels")


@contextmanager
def _unchanged(data: bytes, path: Path, digest: str | None) -> Iterator[None]:
    """Raise Damaged for a file that cannot be decoded now but could be when it was scanned."""
    try:
        yield
    except InvalidInput:
        if digest is None or digest == _sha256(data):
            raise
        raise Damaged(_CHANGED.format(path)) from None


def _require_identity(path: Path, found: str, digest: str | None) -> None:
    if digest is not None and found != digest:
        raise Damaged(_CHANGED.format(path))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _has_png_notes(data: bytes) -> bool:
    """True if a PNG file has a chunk that may hold an orientation."""
    place = 8  # After the signature; a chunk is its length, type, content and checksum.
    while place + 8 <= len(data):
        if data.startswith(_PNG_NOTES, place + 4):
            return True
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    return False


def _turned(image: Image.Image, turn: int) -> Image.Image:
    return image.transpose(_TURNS[turn]) if turn in _TURNS else image


def _is_lossy(image: Image.Image, data: bytes) -> bool:
    """True if values near zero may be noise. Lossless WebP holds its pixels in a chunk VP8L."""
    if image.format == "TIFF":
        return image.info.get("compression") in _LOSSY_TIFF
    return image.format in ("JPEG", "AVIF") or (image.format == "WEBP" and b"VP8L" not in data)


def _alpha(image: Image.Image) -> npt.NDArray[np.uint8] | None:
    """The alpha channel (H, W) of an image that has one and in which it varies; None for others."""
    if image.mode not in ("LA", "PA", "RGBA") and not (image.mode == "P" and "transparency" in image.info):
        return None
    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    return alpha if alpha.min() < alpha.max() else None


def _by_alpha(alpha: npt.NDArray[np.uint8], by_colour: npt.NDArray[np.bool_], limit: int) -> npt.NDArray[np.bool_]:
    lowest = int(alpha.min())
    if lowest > 0 and by_colour.any() and not by_colour.all():
        return by_colour
    found: npt.NDArray[np.bool_] = alpha > (lowest if lowest > 0 else limit)
    return found


def _is_uniform(pixels: npt.NDArray[np.bool_]) -> bool:
    return bool(pixels.all() or not pixels.any())


def _any_channel(values: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return values if values.ndim == 2 else np.asarray(values.any(axis=2))


def _8_bits(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB. Grey stays one channel, which takes a quarter of the memory."""
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16 bits at 255. It opens some 16-bit files as mode I (32
        # bits).
        return Image.fromarray(to_8_bits(grey_values(image)))
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # Straight to RGB, Pillow warns about transparent palettes.
    # A conversion to the same mode would copy the pixels.
    return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode in ("1", "LA") else "RGB")


def _8_bits_of_range(image: Image.Image, data: bytes, path: Path, value_range: tuple[int, int]) -> Image.Image:
    values = wide_values(image, data)
    if values is None:
        cannot = f"Pillow reads only the upper 8 of its {bit_depth(image)} bits"
        raise InvalidInput(
            f"{path}: {cannot}, so data.value_range {list(value_range)} cannot be applied; set it to full"
        )
    return Image.fromarray(to_8_bits(values, value_range))
