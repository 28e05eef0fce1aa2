from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from moleflow.data.images import check_image, read_image, read_mask
from moleflow.errors import Damaged, InvalidInput

GREY = (np.arange(64 * 48).reshape(64, 48) % 251).astype(np.uint8)


def saved(path: Path, pixels: npt.NDArray[np.generic] | Image.Image) -> Path:
    """Store an array or image under `path`."""
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path)
    return path


def rgb(path: Path) -> npt.NDArray[np.int64]:
    """The image at 16 pixels, wide enough to subtract."""
    return read_image(path, 16, "bilinear").astype(np.int64)


def test_rgb_comes_back_as_it_was_stored(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    path = saved(tmp_path / "a.png", pixels)
    assert np.array_equal(read_image(path, 16, "bicubic"), pixels)


def lanczos(size: int, count: int) -> npt.NDArray[np.float64]:
    """The matrix (size, count) that shrinks `count` pixels to `size` by sinc(x) sinc(x/3)."""
    scale = count / size
    centres = (np.arange(size)[:, None] + 0.5) * scale
    x = (np.arange(count)[None, :] + 0.5 - centres) / scale
    weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def test_lanczos_is_its_formula(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    path = saved(tmp_path / "a.png", pixels)
    matrix = lanczos(24, 60)
    # Pillow rounds to 8 bits after each of the two axes, columns first.
    columns = np.clip(np.round(np.einsum("xw,hwc->hxc", matrix, pixels)), 0, 255)
    expected = np.clip(np.round(np.einsum("yh,hxc->yxc", matrix, columns)), 0, 255)
    found = read_image(path, 24, "lanczos").astype(np.float64)
    assert np.abs(found - expected).max() <= 1
    assert not np.array_equal(found, read_image(path, 24, "bicubic"))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "CMYK"])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_every_mode_gives_the_same_picture(tmp_path: Path, mode: str, suffix: str) -> None:
    if mode == "CMYK" and suffix == "png":
        suffix = "jpg"  # PNG knows no CMYK.
    pixels = np.where(GREY > 125, 255, 0).astype(np.uint8)
    reference = rgb(saved(tmp_path / "grey.png", pixels))
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(pixels).convert("RGB").convert(mode))
    assert abs(rgb(path) - reference).max() <= (8 if suffix == "jpg" else 0)


def test_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    image = Image.fromarray(GREY).convert("P")
    image.info["transparency"] = bytes(range(256))
    path = tmp_path / "a.png"
    image.save(path, transparency=bytes(range(256)))
    assert abs(rgb(path) - rgb(saved(tmp_path / "grey.png", GREY))).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled_not_cut_off(tmp_path: Path, suffix: str) -> None:
    wide = GREY.astype(np.uint16) * 257
    assert np.array_equal(rgb(saved(tmp_path / f"a.{suffix}", wide)), rgb(saved(tmp_path / "grey.png", GREY)))


def test_a_dark_sixteen_bit_image_stays_dark(tmp_path: Path) -> None:
    path = saved(tmp_path / "dark.png", np.full((20, 20), 257 * 3, dtype=np.uint16))
    assert (rgb(path) == 3).all()


def test_floats_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tiff", np.zeros((8, 8), dtype=np.float32))
    with pytest.raises(InvalidInput, match="mode F have no fixed range"):
        check_image(path.read_bytes(), path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff"])
def test_a_sound_image_gives_its_size(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"a.{suffix}", GREY)
    assert check_image(path.read_bytes(), path) == (48, 64)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff"])
def test_a_truncated_image_is_broken(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"a.{suffix}", GREY)
    with pytest.raises(InvalidInput, match=rf"a\.{suffix}: broken image"):
        check_image(path.read_bytes()[:-300], path)


def test_a_flipped_bit_in_a_png_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", GREY)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with pytest.raises(InvalidInput, match="broken image"):
        check_image(bytes(data), path)


@pytest.mark.parametrize("data", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_anything_else_is_broken(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="broken image"):
        check_image(data, Path("x.png"))


def test_another_format_under_an_image_suffix_is_refused(tmp_path: Path) -> None:
    stream = BytesIO()
    Image.fromarray(GREY).save(stream, format="GIF")
    with pytest.raises(InvalidInput, match="no PNG, JPEG, BMP or TIFF"):
        check_image(stream.getvalue(), tmp_path / "a.png")


def test_a_file_that_changed_since_the_scan_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", GREY)
    with pytest.raises(Damaged, match="changed since"):
        read_image(path, 16, "bilinear", digest="0" * 64)


def test_a_vanished_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"gone\.png: cannot be read"):
        read_image(tmp_path / "gone.png", 16, "bilinear")


@pytest.mark.parametrize("value", [1, 128, 255])
def test_any_value_above_zero_is_defective(tmp_path: Path, value: int) -> None:
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[8:16, 4:12] = value
    expected = mask > 0
    for name, image in (
        ("l", Image.fromarray(mask)),
        ("rgb", Image.fromarray(np.stack([mask * 0, mask, mask * 0], 2))),
    ):
        path = saved(tmp_path / f"{name}.png", image)
        assert np.array_equal(read_mask(path, 32), expected)
        assert np.array_equal(read_mask(path, 8), expected[2::4, 2::4])


def test_masks_of_one_bit_and_sixteen_bits(tmp_path: Path) -> None:
    square = GREY[:48] > 200
    assert np.array_equal(read_mask(saved(tmp_path / "bit.png", Image.fromarray(square)), 48), square)
    assert np.array_equal(read_mask(saved(tmp_path / "wide.png", square.astype(np.uint16)), 48), square)


def test_noise_of_a_lossy_mask_is_no_defect(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[20:44, 20:44] = 255
    path = saved(tmp_path / "mask.jpg", mask)
    assert 0 < np.asarray(Image.open(path))[mask == 0].max() < 128  # There is noise.
    assert np.array_equal(read_mask(path, 64), mask > 0)


def test_a_palette_mask_counts_colours_not_indices(tmp_path: Path) -> None:
    """Index 0 is white here, and index 1 black: the colours decide."""
    mask = Image.fromarray(np.array([[0, 1], [1, 1]], dtype=np.uint8), mode=None).convert("P")
    mask.putpalette([255, 255, 255, 0, 0, 0])
    mask.save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", 2).tolist() == [[True, False], [False, False]]
