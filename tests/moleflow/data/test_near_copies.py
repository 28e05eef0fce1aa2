"""Near copies: altered copies of drawn images, and the file that remembers their hashes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moleflow.data import near_copies
from moleflow.data.near_copies import ImageHashes, find_near_copies
from moleflow.data.samples import TaskData
from moleflow.data.scan import scan
from moleflow.errors import Damaged

SIDE = 96


def picture(seed: int) -> Image.Image:
    """A random colour image of patches of 4 pixels."""
    draws = np.random.default_rng(seed)
    coarse = Image.fromarray(draws.integers(0, 256, (SIDE // 4, SIDE // 4, 3), dtype=np.uint8))
    return coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def save(path: Path, image: Image.Image, **options: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of different images."""
    for number, name in enumerate(("bolt", "nut")):
        for part, first in (("train/good", 0), ("test/good", 10), ("test/hole", 20)):
            for k in range(4):
                save(tmp_path / "data" / name / part / f"{k}.png", picture(100 * number + first + k))
    return tmp_path / "data"


def classes(root: Path) -> tuple[TaskData, ...]:
    return scan(root, ["bolt", "nut"])


def brighter(image: Image.Image) -> Image.Image:
    return image.point(lambda value: min(255, round(1.1 * value)))


def noisy(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image) + np.random.default_rng(0).normal(0, 3, (SIDE, SIDE, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def test_different_images_are_no_copies(root: Path) -> None:
    assert find_near_copies(classes(root), ImageHashes()) == ()
    assert find_near_copies((), ImageHashes()) == ()


@pytest.mark.parametrize(
    ("suffix", "alter"),
    [
        ("jpg", lambda image: image),
        ("png", lambda image: image.resize((SIDE // 2, SIDE // 2), Image.Resampling.LANCZOS)),
        ("png", lambda image: image.convert("L")),
        ("png", brighter),
        ("png", noisy),
    ],
)
def test_an_altered_training_image_in_the_test_is_found(
    root: Path, suffix: str, alter: Callable[[Image.Image], Image.Image]
) -> None:
    save(root / f"bolt/test/good/copy.{suffix}", alter(picture(2)))
    (found,) = find_near_copies(classes(root), ImageHashes())
    assert (found.conflict, found.classes, found.near, found.tested) == ("training in test", ("bolt",), True, 9)
    (pair,) = found.copies
    assert (pair.image, pair.copy_of) == (f"bolt/test/good/copy.{suffix}", "bolt/train/good/2.png")
    assert found.note.startswith("bolt: 1 of 9 test images are near copies of training images, such as ")
    assert found.note.endswith("; look at them")


def test_other_labels_and_other_classes(root: Path) -> None:
    save(root / "bolt/test/hole/copy.jpg", picture(11))
    save(root / "nut/train/good/copy.jpg", picture(1))
    found = {copies.conflict: copies for copies in find_near_copies(classes(root), ImageHashes())}
    assert found.keys() == {"other label", "other class"}
    (label,), (other,) = found["other label"].copies, found["other class"].copies
    assert {label.image, label.copy_of} == {"bolt/test/hole/copy.jpg", "bolt/test/good/1.png"}
    assert (other.image, other.copy_of) == ("nut/train/good/copy.jpg", "bolt/train/good/1.png")
    assert found["other class"].classes == ("bolt", "nut")


def test_exact_copies_are_left_to_their_digests(root: Path) -> None:
    save(root / "bolt/test/good/same.png", picture(2))
    assert find_near_copies(classes(root), ImageHashes()) == ()


def test_few_rows_at_a_time_find_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(root / "bolt/test/good/copy.jpg", picture(2))
    save(root / "nut/test/hole/copy.jpg", picture(112))
    whole = find_near_copies(classes(root), ImageHashes())
    assert sum(len(copies.copies) for copies in whole) == 2
    monkeypatch.setattr(near_copies, "_ROWS", 3)
    assert find_near_copies(classes(root), ImageHashes(), workers=2) == whole


def test_known_hashes_need_no_image(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "cache/hashes.json"
    samples = classes(root)[0].train
    assert ImageHashes(store).unknown(samples) == 4
    first = ImageHashes(store).of(samples)
    assert (first.shape, first.dtype) == ((4, 20), np.uint64)
    monkeypatch.setattr(near_copies, "read_image", None)
    again = ImageHashes(store)
    assert again.unknown(samples) == 0
    assert np.array_equal(again.of(samples), first)


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1}', '{"a": "zz"}', '{"a": "00"}'])
def test_a_damaged_file_is_replaced(root: Path, tmp_path: Path, content: str) -> None:
    store = tmp_path / "hashes.json"
    store.write_text(content)
    samples = classes(root)[0].train
    ImageHashes(store).of(samples)
    assert json.loads(store.read_text()).keys() == {sample.digest for sample in samples}


def test_hashes_before_a_broken_image_are_kept(root: Path, tmp_path: Path) -> None:
    samples = classes(root)[0].train
    save(samples[-1].path, picture(999))
    with pytest.raises(Damaged, match="changed since the data folder was scanned"):
        ImageHashes(tmp_path / "hashes.json").of(samples)
    assert ImageHashes(tmp_path / "hashes.json").unknown(samples) == 1
