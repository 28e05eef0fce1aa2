from __future__ import annotations

import hashlib
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import ExifTags, Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from moleflow.data.formats import FORMATS
from moleflow.data.images import (
    LIMIT_VARIABLE,
    MAX_MEGAPIXELS,
    check_image,
    decode_mask,
    identity,
    in_range,
    orientation,
    read_image,
    read_mask,
)
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
    with pytest.raises(InvalidInput, match=r"no PNG, JPEG, BMP, .* or"):
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


# ---- orientation ---------------------------------------------------------------------------------

ORIENTATIONS = range(1, 9)
ODD = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)  # No turn maps it to itself.


def exif(turn: int) -> Image.Exif:
    """EXIF data with an orientation."""
    notes = Image.Exif()
    notes[ExifTags.Base.Orientation] = turn
    return notes


def shown(turn: int) -> Image.Image:
    """The picture of `ODD` as a viewer shows it with an orientation."""
    image = Image.fromarray(ODD)
    image.getexif()[ExifTags.Base.Orientation] = turn
    return ImageOps.exif_transpose(image)


LOSSLESS = [name for name in ("png", "tiff", "webp") if name.upper() in FORMATS]


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("turn", ORIENTATIONS)
def test_an_image_is_read_as_a_viewer_shows_it(tmp_path: Path, suffix: str, turn: int) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(ODD).save(path, exif=exif(turn), lossless=True)
    upright = saved(tmp_path / "upright.png", shown(turn))
    assert np.array_equal(read_image(path, 24, "bicubic"), read_image(upright, 24, "bicubic"))
    assert check_image(path.read_bytes(), path) == shown(turn).size == ((32, 48) if turn > 4 else (48, 32))


@pytest.mark.parametrize("suffix", [name for name in ("jpg", "avif") if name == "jpg" or "AVIF" in FORMATS])
@pytest.mark.parametrize("turn", ORIENTATIONS)
def test_a_lossy_image_is_read_as_a_viewer_shows_it(tmp_path: Path, suffix: str, turn: int) -> None:
    path = tmp_path / f"a.{suffix}"
    smooth = Image.fromarray(ODD[:4, :6]).resize((48, 32), Image.Resampling.BICUBIC)
    smooth.save(path, exif=exif(turn), quality=100)
    smooth.getexif()[ExifTags.Base.Orientation] = turn
    upright = saved(tmp_path / "upright.png", ImageOps.exif_transpose(smooth))
    difference = read_image(path, 24, "bicubic").astype(int) - read_image(upright, 24, "bicubic")
    assert np.abs(difference).mean() < 4


def test_every_orientation_gives_another_picture(tmp_path: Path) -> None:
    found = set()
    for turn in ORIENTATIONS:
        Image.fromarray(ODD).save(tmp_path / "a.png", exif=exif(turn))
        found.add(read_image(tmp_path / "a.png", 24, "bilinear").tobytes())
    assert len(found) == len(ORIENTATIONS)


@pytest.mark.parametrize("turn", ORIENTATIONS)
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_a_mask_is_turned_too(tmp_path: Path, turn: int, suffix: str) -> None:
    mask = np.where(ODD[..., 0] > 200, 255, 0).astype(np.uint8)
    path = tmp_path / f"mask.{suffix}"
    Image.fromarray(mask).save(path, exif=exif(turn))
    image = Image.fromarray(mask)
    image.getexif()[ExifTags.Base.Orientation] = turn
    upright = np.asarray(ImageOps.exif_transpose(image)) > 0
    assert np.array_equal(decode_mask(path.read_bytes(), path)[0], upright)
    assert np.array_equal(read_mask(path, 48), read_mask(saved(tmp_path / "upright.png", upright), 48))


def test_an_orientation_after_the_pixels_and_one_in_xmp_count(tmp_path: Path) -> None:
    """Other programs write them so into PNG files."""
    xmp = PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>')
    Image.fromarray(ODD).save(tmp_path / "xmp.png", pnginfo=xmp)
    Image.fromarray(ODD).save(tmp_path / "late.png", exif=exif(6))
    data = (tmp_path / "late.png").read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    last = len(data) - 12  # The chunk IEND.
    (tmp_path / "late.png").write_bytes(data[:start] + data[end:last] + data[start:end] + data[last:])
    for name in ("late.png", "xmp.png"):
        assert orientation((tmp_path / name).read_bytes(), tmp_path / name) == 6, name
        assert check_image((tmp_path / name).read_bytes(), tmp_path / name) == (32, 48)


@pytest.mark.parametrize("notes", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_damaged_exif_data_count_as_none(tmp_path: Path, notes: bytes) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(ODD).save(path, exif=notes)
    assert check_image(path.read_bytes(), path) == (48, 32)
    assert orientation(path.read_bytes(), path) == 1


@pytest.mark.parametrize("turn", [0, 9, 77])
def test_an_unknown_orientation_is_none(tmp_path: Path, turn: int) -> None:
    Image.fromarray(ODD).save(tmp_path / "a.jpg", exif=exif(turn))
    assert orientation((tmp_path / "a.jpg").read_bytes(), tmp_path / "a.jpg") == 1


def test_an_image_is_known_by_its_identity(tmp_path: Path) -> None:
    """The orientation is a part of it, so that features of the pixels as stored are not found."""
    path = tmp_path / "a.png"
    Image.fromarray(ODD).save(path, exif=exif(3))
    of_file = hashlib.sha256(path.read_bytes()).hexdigest()
    read_image(path, 24, "bilinear", identity(of_file, "orientation 3"))
    for other in (of_file, identity(of_file, "orientation 6")):
        with pytest.raises(Damaged, match="changed since"):
            read_image(path, 24, "bilinear", other)
    assert identity(of_file, "") == of_file


# ---- masks with an alpha channel -----------------------------------------------------------------

MARKED = np.zeros((32, 32), dtype=bool)
MARKED[4:12, 3:20] = True


def with_alpha(mode: str, colour: int, alpha: npt.NDArray[np.uint8]) -> Image.Image:
    """An image of one colour with an alpha channel."""
    image = Image.fromarray(np.full((32, 32), colour, dtype=np.uint8)).convert("RGB" if mode == "RGBA" else "L")
    if mode == "PA":
        image = image.convert("P")
    image.putalpha(Image.fromarray(alpha))
    assert image.mode == mode
    return image


@pytest.mark.parametrize("colour", [0, 90, 255])
@pytest.mark.parametrize(("mode", "suffix"), [("LA", "png"), ("RGBA", "png"), ("RGBA", "tiff"), ("PA", "tiff")])
@pytest.mark.parametrize("marked", [1, 128, 255])
def test_an_annotation_in_the_alpha_channel_is_found(
    tmp_path: Path, mode: str, suffix: str, colour: int, marked: int
) -> None:
    alpha = np.where(MARKED, marked, 0).astype(np.uint8)
    path = saved(tmp_path / f"mask.{suffix}", with_alpha(mode, colour, alpha))
    defective, decoding = decode_mask(path.read_bytes(), path)
    assert np.array_equal(defective, MARKED)
    assert decoding == "alpha"
    assert np.array_equal(read_mask(path, 32), MARKED)


def test_a_palette_with_transparency_is_an_alpha_channel(tmp_path: Path) -> None:
    image = Image.fromarray(MARKED.astype(np.uint8)).convert("P")
    image.putpalette([255, 255, 255, 255, 255, 255])
    image.save(tmp_path / "mask.png", transparency=bytes([0, 255]))
    assert np.array_equal(read_mask(tmp_path / "mask.png", 32), MARKED)


@pytest.mark.parametrize("alpha", [0, 100, 255])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_constant_alpha_channel_does_not_count(tmp_path: Path, mode: str, alpha: int) -> None:
    grey = Image.fromarray(np.where(MARKED, 255, 0).astype(np.uint8))
    image = grey if mode == "LA" else grey.convert("RGB")
    image.putalpha(alpha)
    path = saved(tmp_path / "mask.png", image)
    assert decode_mask(path.read_bytes(), path)[1] == ""
    assert np.array_equal(read_mask(path, 32), MARKED)


def test_an_alpha_channel_that_says_the_same_as_the_colours_leaves_the_identity(tmp_path: Path) -> None:
    image = Image.fromarray(np.where(MARKED, 255, 0).astype(np.uint8))
    image.putalpha(image.copy())
    path = saved(tmp_path / "mask.png", image)
    assert decode_mask(path.read_bytes(), path)[1] == ""
    read_mask(path, 32, hashlib.sha256(path.read_bytes()).hexdigest())


def test_an_alpha_channel_without_zero_decides_only_where_the_colours_do_not(tmp_path: Path) -> None:
    shade = np.where(np.arange(32)[:, None] < 16, 128, 255).astype(np.uint8) + np.zeros((32, 32), dtype=np.uint8)
    image = Image.fromarray(np.where(MARKED, 255, 0).astype(np.uint8))
    image.putalpha(Image.fromarray(shade))
    assert np.array_equal(read_mask(saved(tmp_path / "both.png", image), 32), MARKED)
    shade = np.where(MARKED, 255, 128).astype(np.uint8)
    assert np.array_equal(read_mask(saved(tmp_path / "black.png", with_alpha("LA", 0, shade)), 32), MARKED)


def test_a_mask_in_the_alpha_channel_is_known_by_its_identity(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    with_alpha("LA", 0, np.where(MARKED, 255, 0).astype(np.uint8)).save(path, exif=exif(3))
    of_file = hashlib.sha256(path.read_bytes()).hexdigest()
    assert np.array_equal(read_mask(path, 32, identity(of_file, "orientation 3, alpha")), MARKED[::-1, ::-1])
    with pytest.raises(Damaged, match="changed since"):
        read_mask(path, 32, of_file)


# ---- more formats --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["webp", "avif"])
def test_newer_formats_are_read(tmp_path: Path, suffix: str) -> None:
    if suffix.upper() not in FORMATS:
        pytest.skip(f"the installed Pillow was built without {suffix.upper()}")
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(GREY).convert("RGB").save(path, lossless=True, quality=100)
    assert check_image(path.read_bytes(), path) == (48, 64)
    limit = 0 if suffix == "webp" else 4
    assert np.abs(rgb(path) - rgb(saved(tmp_path / "grey.png", GREY))).max() <= limit
    with pytest.raises(InvalidInput, match=rf"a\.{suffix}: broken image"):
        check_image(path.read_bytes()[:-300], path)


@pytest.mark.parametrize("suffix", ["jpe", "jfif"])
def test_jpeg_under_other_suffixes_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(GREY).save(path, "JPEG")
    assert check_image(path.read_bytes(), path) == (48, 64)


@pytest.mark.skipif("WEBP" not in FORMATS, reason="the installed Pillow was built without WEBP")
@pytest.mark.parametrize("lossless", [True, False])
def test_noise_of_a_lossy_webp_mask_is_no_defect(tmp_path: Path, lossless: bool) -> None:
    value = 1 if lossless else 255
    Image.fromarray(np.where(MARKED, value, 0).astype(np.uint8)).convert("RGB").save(
        tmp_path / "mask.webp", lossless=lossless, quality=95
    )
    wrong = read_mask(tmp_path / "mask.webp", 32) ^ MARKED
    assert wrong.sum() <= (0 if lossless else 16)  # Lossy edges move by a pixel.


# ---- large images --------------------------------------------------------------------------------


def test_an_image_above_the_limit_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "line.png", np.zeros((300, 400), dtype=np.uint8))
    monkeypatch.setenv(LIMIT_VARIABLE, "0.1")
    with pytest.raises(InvalidInput) as refused:
        check_image(path.read_bytes(), path)
    size = "400x300 pixels, which are 0.1 megapixels, more than the limit of 0.1"
    way_out = f"set {LIMIT_VARIABLE}=1 where every worker sees it, or shrink the image"
    assert str(refused.value) == f"{path}: {size}; {way_out}"
    with pytest.raises(InvalidInput, match="more than the limit"):
        read_image(path, 16, "bilinear")
    monkeypatch.setenv(LIMIT_VARIABLE, "0.12")
    assert check_image(path.read_bytes(), path) == (400, 300)


@pytest.mark.parametrize("given", ["many", "0", "-3", "nan"])
def test_a_limit_that_is_no_number_above_zero_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    path = saved(tmp_path / "a.png", GREY)
    monkeypatch.setenv(LIMIT_VARIABLE, given)
    with pytest.raises(InvalidInput, match=f"{LIMIT_VARIABLE}: given '{given}', but it must be a number above 0"):
        check_image(path.read_bytes(), path)


def test_pillows_own_limit_is_never_met(tmp_path: Path) -> None:
    """It calls 180 megapixels broken and warns of 90 without a name. Warnings are errors here."""
    path = tmp_path / "a.png"
    Image.new("1", (20_000, 9_000)).save(path)
    assert MAX_MEGAPIXELS > 180
    assert check_image(path.read_bytes(), path) == (20_000, 9_000)
    Image.new("1", (20_000, 20_000)).save(path)
    with pytest.raises(InvalidInput, match=r"a\.png: 20000x20000 pixels, which are 400\.0 megapixels, more than"):
        check_image(path.read_bytes(), path)


def test_a_huge_jpeg_is_decoded_reduced(tmp_path: Path) -> None:
    """So large that earlier code refused it: 179 megapixels, of which the left half is white."""
    image = Image.new("L", (17_900, 10_000))
    image.paste(255, (0, 0, 8_950, 10_000))
    path = saved(tmp_path / "a.jpg", image)
    found = read_image(path, 32, "bilinear")
    assert found.shape == (32, 32, 3)
    assert (found[:, :15] > 250).all()
    assert (found[:, 17:] < 5).all()


# ---- ranges of values ----------------------------------------------------------------------------


def test_a_range_of_values_becomes_black_to_white(tmp_path: Path) -> None:
    wide = np.array([[0, 100], [2147, 4095], [4194, 5000], [1000, 3000]], dtype=np.uint16)
    path = saved(tmp_path / "a.png", wide.repeat(12, axis=0).repeat(24, axis=1))  # 48 pixels a side: not resized
    found = read_image(path, 48, "bilinear", None, (100, 4194))
    expected = np.clip(np.floor((wide - 100.0) * 255 / 4094 + 0.5), 0, 255)
    assert found[::12, ::24, 0].tolist() == expected.tolist()
    assert (found[..., 0] == found[..., 2]).all()
    of_file = hashlib.sha256(path.read_bytes()).hexdigest()
    read_image(path, 48, "bilinear", in_range(of_file, (100, 4194)), (100, 4194))
    for digest, value_range in ((of_file, (100, 4194)), (in_range(of_file, (100, 4194)), None)):
        with pytest.raises(Damaged, match="changed since"):
            read_image(path, 48, "bilinear", digest, value_range)


def test_a_range_leaves_images_of_8_bits(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", GREY)
    of_file = hashlib.sha256(path.read_bytes()).hexdigest()
    assert np.array_equal(read_image(path, 16, "bilinear", of_file, (0, 4095)), read_image(path, 16, "bilinear"))


def test_a_palette_whose_colours_are_equal_counts_indices(tmp_path: Path) -> None:
    indices = np.zeros((8, 8), dtype=np.uint8)
    indices[2:4] = 1
    for colours in ([0, 0, 0] * 2, [128, 0, 0, 0, 128, 0]):
        image = Image.fromarray(indices, "P")
        image.putpalette(colours)
        image.save(tmp_path / "a.png")
        found, decoding = decode_mask((tmp_path / "a.png").read_bytes(), tmp_path / "a.png")
        assert (found == (indices > 0)).all()
        assert decoding == "index"


def test_noise_of_a_jpeg_in_tiff_is_no_defect(tmp_path: Path) -> None:
    mask = np.zeros((32, 32, 3), dtype=np.uint8)
    mask[4:12, 4:12] = 255
    path = tmp_path / "a.tiff"
    Image.fromarray(mask).save(path, compression="jpeg", quality=50)
    found, decoding = decode_mask(path.read_bytes(), path)
    assert (found == (mask[..., 0] > 0)).mean() > 0.98
    assert decoding == "lossy"
    Image.fromarray(mask).save(path, compression="tiff_lzw")
    assert decode_mask(path.read_bytes(), path)[1] == ""


def test_a_png_that_is_too_short_for_its_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    with pytest.raises(InvalidInput, match=r"a.png: broken image \(\d+ bytes cannot hold 10000x10000 pixels\)"):
        check_image(data, tmp_path / "a.png")
    for mode in ("1", "L", "P", "RGB"):
        Image.new(mode, (4000, 4000)).save(tmp_path / "black.png", compress_level=9)
        assert check_image((tmp_path / "black.png").read_bytes(), tmp_path / "black.png") == (4000, 4000)
