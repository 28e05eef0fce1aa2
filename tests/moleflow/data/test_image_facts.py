from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from moleflow.data.image_facts import ImageFacts, examine
from moleflow.data.images import identity
from moleflow.errors import InvalidInput

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)


def facts(path: Path, is_mask: bool = False) -> ImageFacts:
    """The facts of a file."""
    return examine(path.read_bytes(), path, is_mask)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff"])
def test_an_ordinary_image_is_known_by_the_digest_of_its_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(PIXELS).save(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert facts(path) == ImageFacts(digest, 30, 20, "", "L", 8, None, None)
    assert facts(path).identity == digest


@pytest.mark.parametrize(("turn", "size"), [(1, (30, 20)), (3, (30, 20)), (6, (20, 30))])
def test_a_turned_image_has_another_identity_and_its_upright_size(
    tmp_path: Path, turn: int, size: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=exif)
    found = facts(tmp_path / "a.jpg")
    assert (found.width, found.height) == size
    assert found.decoding == ("" if turn == 1 else f"orientation {turn}")
    assert found.identity == identity(found.sha256, found.decoding)
    assert (found.identity == found.sha256) == (turn == 1)


def test_a_turned_tiff_keeps_its_identity_as_pillow_has_always_turned_it(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.tiff", tiffinfo={ExifTags.Base.Orientation: 6})
    found = facts(tmp_path / "a.tiff")
    assert (found.width, found.height, found.identity) == (20, 30, found.sha256)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_a_12_bit_image_in_16_bits_tells_its_largest_value(tmp_path: Path, suffix: str) -> None:
    wide = PIXELS.astype(np.uint16) * 16
    wide[3, 5] = 4095
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(wide).save(path)
    found = facts(path)
    assert (found.mode, found.bits, found.largest, found.identity) == ("I;16", 16, 4095, found.sha256)


def test_a_mask_tells_the_share_of_its_defective_pixels(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), dtype=np.uint8)
    mask[:5] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(255 - mask).save(tmp_path / "inverted.png")
    assert facts(tmp_path / "mask.png", is_mask=True).defective == 0.25
    assert facts(tmp_path / "inverted.png", is_mask=True).defective == 0.75
    assert facts(tmp_path / "mask.png").defective is None


def test_a_mask_in_the_alpha_channel_has_another_identity_as_a_mask_alone(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    image = Image.fromarray(np.zeros((20, 30), dtype=np.uint8))
    image.putalpha(Image.fromarray(np.where(np.arange(20)[:, None] < 5, 255, 0).repeat(30, 1).astype(np.uint8)))
    image.save(path)
    mask, picture = facts(path, is_mask=True), facts(path)
    assert (mask.decoding, mask.defective, mask.identity) == ("alpha", 0.25, identity(mask.sha256, "alpha"))
    assert picture.identity == picture.sha256


@pytest.mark.parametrize("is_mask", [False, True])
def test_a_broken_file_has_no_facts(tmp_path: Path, is_mask: bool) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-40])
    with pytest.raises(InvalidInput, match=r"a\.png: broken image"):
        facts(tmp_path / "a.png", is_mask)


@pytest.mark.parametrize("level", [-5, 65_536])
def test_grey_levels_beyond_16_bits_are_refused_in_images(tmp_path: Path, level: int) -> None:
    wide = np.zeros((8, 8), dtype=np.int32)
    path = tmp_path / "a.tiff"
    wide[0, 0] = 65_535
    Image.fromarray(wide).save(path)
    assert facts(path).largest == 65_535
    wide[0, 0] = level
    Image.fromarray(wide).save(path)
    with pytest.raises(InvalidInput, match=rf"a.tiff: grey levels of 32 bits, from .*{level}.*; allowed: 0 to 65535"):
        facts(path)
