from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from moleflow.data.image_facts import examine
from moleflow.data.images import read_image
from moleflow.data.wide_values import bit_depth, to_8_bits, wide_values
from moleflow.errors import InvalidInput

Values = npt.NDArray[np.uint16]
GREY = np.random.default_rng(0).integers(0, 4096, (20, 30)).astype(np.uint16)
COLOURS = np.random.default_rng(1).integers(0, 4096, (20, 30, 4)).astype(np.uint16)


def png(values: Values, kind: int) -> bytes:
    """A PNG file of 16 bits as the specification says, since Pillow writes only grey ones.

    Args:
        values: (H, W, channels).
        kind: its colour type: 2 colours, 4 grey and alpha, 6 colours and alpha.
    """

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = values.shape[:2]
    # Filter 1: each byte as its difference from that of the pixel to the left.
    rows = values.astype(">u2").view(np.uint8).reshape(height, width, -1).astype(np.int64)
    left = np.concatenate([np.zeros_like(rows[:, :1]), rows[:, :-1]], axis=1)
    filtered = ((rows - left) % 256).astype(np.uint8)
    lines = b"".join(b"\1" + row.tobytes() for row in filtered)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def tiff(values: Values, order: str) -> bytes:
    """A plain TIFF file of channels of 16 bits.

    Args:
        values: (H, W, channels): three colours, or four with premultiplied alpha.
        order: "<" or ">", the order of bytes.
    """
    height, width, channels = values.shape
    pixels = values.astype(f"{order}u2").tobytes()
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, 8), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 16), (277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, len(pixels))]
    tags += [(338, 3, 1, 1)] if channels == 4 else []
    content = struct.pack(f"{order}HHHH", 16, 16, 16, 16) + pixels
    entries = b""
    for tag, kind, count, value in tags:
        packed = struct.pack(f"{order}H2x" if kind == 3 and count == 1 else f"{order}I", value)
        entries += struct.pack(f"{order}HHI", tag, kind, count) + packed
    start = 8 + len(content)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start)
    return head + content + struct.pack(f"{order}H", len(tags)) + entries + b"\0\0\0\0"


def found(data: bytes) -> Values | None:
    """The values in a file."""
    with Image.open(BytesIO(data)) as image:
        assert bit_depth(image) == 16
        return wide_values(image, data)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_grey_values_are_exact(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(GREY).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(found((tmp_path / f"a.{suffix}").read_bytes()), GREY)


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (6, 4)])
def test_colours_of_a_png_are_exact_though_pillow_keeps_8_bits(kind: int, channels: int) -> None:
    data = png(COLOURS[..., :channels], kind)
    with Image.open(BytesIO(data)) as image:
        assert np.array_equal(np.asarray(image), COLOURS[..., :channels] >> 8)
    assert np.array_equal(found(data), COLOURS[..., :3])


def test_grey_and_alpha_of_a_png_are_exact() -> None:
    assert np.array_equal(found(png(COLOURS[..., :2], 4)), COLOURS[..., 0])


@pytest.mark.parametrize("order", ["<", ">"])
def test_colours_of_a_tiff_are_exact(order: str) -> None:
    assert np.array_equal(found(tiff(COLOURS[..., :3], order)), COLOURS[..., :3])


def test_a_file_whose_low_bits_pillow_does_not_give_is_read_in_full_alone(tmp_path: Path) -> None:
    """Colours with premultiplied alpha."""
    path = tmp_path / "a.tiff"
    path.write_bytes(tiff(COLOURS, "<"))
    with Image.open(path) as image:
        assert image.mode == "RGBA"
        assert wide_values(image, path.read_bytes()) is None
    assert (examine(path.read_bytes(), path).bits, examine(path.read_bytes(), path).largest) == (16, 65_535)
    assert read_image(path, 16, "bilinear").shape == (16, 16, 3)
    with pytest.raises(InvalidInput, match=r"only the upper 8 of its 16 bits, so data\.value_range \[0, 4095\] cannot"):
        read_image(path, 16, "bilinear", None, (0, 4095))


def test_values_of_32_bits_are_cut_off(tmp_path: Path) -> None:
    Image.fromarray(np.array([[-5, 7, 70_000]], dtype=np.int32)).save(tmp_path / "a.tiff")
    data = (tmp_path / "a.tiff").read_bytes()
    with Image.open(BytesIO(data)) as image:
        assert bit_depth(image) == 32
        assert np.array_equal(wide_values(image, data), [[0, 7, 65_535]])


@pytest.mark.parametrize(("mode", "bits"), [("1", 1), ("L", 8), ("P", 8), ("RGB", 8), ("RGBA", 8)])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_other_images_have_8_bits_or_one(tmp_path: Path, mode: str, bits: int, suffix: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as image:
        assert bit_depth(image) == bits


@pytest.mark.parametrize("value_range", [(0, 65_535), (0, 4095), (100, 101), (37, 5000)])
def test_a_range_is_scaled_and_rounded(value_range: tuple[int, int]) -> None:
    low, high = value_range
    every = np.arange(65_536, dtype=np.uint16)
    exact = np.clip((every.astype(np.float64) - low) * 255 / (high - low), 0, 255)
    scaled = to_8_bits(every, value_range)
    assert scaled.dtype == np.uint8
    assert np.abs(scaled - exact).max() <= 0.5
    assert (scaled[low], scaled[high]) == (0, 255)
