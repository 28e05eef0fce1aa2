"""Generated defects: where they are, what they depend on, and what becomes of their files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moleflow.data.loading import load_image, load_mask
from moleflow.data.samples import Sample
from moleflow.data.scan import scan
from moleflow.data.synthetic import (
    LARGEST_SHARE,
    LEAST_CHANGE,
    LEAST_SHARE,
    Defective,
    blend_patch,
    cut_paste,
    visible,
    with_defects,
)
from moleflow.errors import Damaged
from moleflow.settings.config import DataKnobs

SIZE = 32
SETTINGS = DataKnobs(tasks=("bolt",), image_size=SIZE, validation_fraction=0.5)


@pytest.fixture(scope="module")
def normal(images: Path) -> tuple[Sample, ...]:
    """Twelve normal images of 48 pixels a side, which are read at 32."""
    (cloth,) = scan(images, ["cloth"])
    return cloth.train


def pixels(samples: tuple[Sample, ...]) -> list[bytes]:
    return [load_image(sample, SIZE, "bilinear").tobytes() for sample in samples]


def files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_half_of_each_kind_one_for_each_normal_image(normal: tuple[Sample, ...], tmp_path: Path) -> None:
    made = with_defects(normal, SETTINGS, tmp_path)
    kinds = [sample.defect for sample in made]
    assert (kinds.count("cut-paste"), kinds.count("blend")) == (6, 6)
    assert [sample.name for sample in made] == [f"{s.name} + {kind}" for s, kind in zip(normal, kinds, strict=True)]
    assert all(sample.label == 1 for sample in made)
    assert len({sample.digest for sample in made} | {sample.digest for sample in normal}) == 24


def test_an_image_differs_within_its_mask_alone(normal: tuple[Sample, ...], tmp_path: Path) -> None:
    for before, after in zip(normal, with_defects(normal, SETTINGS, tmp_path), strict=True):
        image, defective = (load_image(s, SIZE, "bilinear").astype(int) for s in (before, after))
        mask = load_mask(after, SIZE)
        assert 0.5 * LEAST_SHARE <= mask.mean() <= 1.5 * LARGEST_SHARE  # Whole pixels of a small image.
        assert (image[~mask] == defective[~mask]).all()
        assert np.abs(image - defective)[mask].mean() >= LEAST_CHANGE


def test_draws_depend_on_the_seed_and_on_contents_alone(
    normal: tuple[Sample, ...], images: Path, tmp_path: Path
) -> None:
    made = with_defects(normal, SETTINGS, tmp_path / "a")
    assert pixels(with_defects(normal, SETTINGS, tmp_path / "b")) == pixels(made)
    turned = with_defects(normal[::-1], SETTINGS, tmp_path / "c")
    assert pixels(turned[::-1]) == pixels(made)
    shutil.copytree(images / "cloth", tmp_path / "elsewhere" / "felt")
    for path in (tmp_path / "elsewhere/felt/train/good").iterdir():
        path.rename(path.with_name(f"renamed {path.name}"))
    (felt,) = scan(tmp_path / "elsewhere", ["felt"])
    moved = with_defects(felt.train, SETTINGS, tmp_path / "d")
    assert pixels(moved) == pixels(made)
    assert [sample.mask_digest for sample in moved] == [sample.mask_digest for sample in made]
    other = with_defects(normal, SETTINGS.model_copy(update={"validation_seed": 1}), tmp_path / "a")
    assert all(a != b for a, b in zip(pixels(other), pixels(made), strict=True))
    assert [sample.defect for sample in other] != [sample.defect for sample in made]


def test_what_is_stored_is_used_and_what_is_damaged_is_drawn_anew(normal: tuple[Sample, ...], tmp_path: Path) -> None:
    made = with_defects(normal, SETTINGS, tmp_path)
    before = files(tmp_path)
    assert len(before) == 24
    assert with_defects(normal, SETTINGS, tmp_path) == made
    assert files(tmp_path) == before
    whole = made[0].path.read_bytes()
    made[0].path.write_bytes(whole[:-20])
    mask = made[1].mask
    assert mask is not None
    mask.unlink()
    assert with_defects(normal, SETTINGS, tmp_path) == made
    assert made[0].path.read_bytes() == whole
    assert files(tmp_path).keys() == before.keys()


def test_what_is_taken_away_before_it_is_read_is_drawn_again(normal: tuple[Sample, ...], tmp_path: Path) -> None:
    made = with_defects(normal, SETTINGS, tmp_path)
    images, masks = pixels(made), [load_mask(sample, SIZE) for sample in made]
    for sample in made:
        sample.path.unlink()
    assert pixels(made) == images
    for sample in made:
        for path in (sample.path, sample.mask):
            assert path is not None
            path.unlink()
    assert all(np.array_equal(load_mask(sample, SIZE), mask) for sample, mask in zip(made, masks, strict=True))
    made[0].path.write_bytes(made[1].path.read_bytes())
    with pytest.raises(Damaged, match="changed since"):
        load_image(made[0], SIZE, "bilinear")


def test_one_image_alone_and_copies_of_one(normal: tuple[Sample, ...], tmp_path: Path) -> None:
    (alone,) = with_defects(normal[:1], SETTINGS, tmp_path)
    assert alone.defect == "cut-paste"
    copy = replace(normal[0], name="a copy of it")
    first, second = with_defects((normal[0], copy), SETTINGS, tmp_path)
    assert (first.digest, second.digest) == (alone.digest, alone.digest)
    assert second.name == "a copy of it + cut-paste"
    assert with_defects((), SETTINGS, tmp_path) == ()


def test_an_image_that_changed_since_it_was_scanned_is_refused(normal: tuple[Sample, ...], tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.new("RGB", (48, 48)).save(path)
    with pytest.raises(Damaged, match=r"image\.png: changed since the data folder was scanned"):
        with_defects((replace(normal[0], path=path),), SETTINGS, tmp_path / "synthetic")


def test_a_folder_that_cannot_be_written_is_told(normal: tuple[Sample, ...], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        with_defects(normal, SETTINGS, tmp_path / "file")


def ramp() -> tuple[np.ndarray, np.ndarray]:
    """Two images, one of three ramps and one of two colours."""
    y, x = np.mgrid[0:64, 0:64]
    image = np.stack([2 * y + 60, 2 * x + 60, 255 - y - x], axis=2).astype(np.uint8)
    other = np.full((64, 64, 3), [200, 30, 90], np.uint8)
    other[:32] = [20, 180, 60]
    return image, other


@pytest.mark.parametrize(
    ("seed", "box", "colour"),
    [
        (0, (2, 7, 0, 15), (124.8, 107.1, 250.2)),
        (1, (6, 25, 58, 60), (73.0, 157.3, 201.2)),
        (2, (49, 52, 5, 12), (82.8, 91.2, 137.9)),
    ],
)
def test_a_seed_pastes_what_it_pasted_in_earlier_versions(
    seed: int, box: tuple[int, int, int, int], colour: tuple[float, float, float]
) -> None:
    """First and last row and column, and mean colour, as the first version drew them."""
    found, mask = cut_paste(ramp()[0], np.random.default_rng(seed))
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == box
    assert len(rows) == (box[1] - box[0] + 1) * (box[3] - box[2] + 1)
    assert found[mask].mean(axis=0) == pytest.approx(colour, abs=0.3)


@pytest.mark.parametrize(
    ("seed", "pixels", "colour", "centre"),
    [
        (0, 29, (122.8, 57.0, 69.9), (30.7, 10.3)),
        (1, 25, (157.8, 87.6, 166.2), (22.8, 26.4)),
        (2, 54, (115.7, 142.3, 105.5), (36.0, 28.1)),
    ],
)
def test_a_seed_blends_what_it_blended_in_earlier_versions(
    seed: int, pixels: int, colour: tuple[float, float, float], centre: tuple[float, float]
) -> None:
    """Size, mean colour and centre of the mask, as the first version drew them."""
    found, mask = blend_patch(*ramp(), np.random.default_rng(seed))
    assert mask.sum() == pytest.approx(pixels, abs=1)
    assert found[mask].mean(axis=0) == pytest.approx(colour, abs=1.5)
    assert np.mean(np.nonzero(mask), axis=1) == pytest.approx(centre, abs=0.5)


Draw = Callable[[np.ndarray, np.random.Generator], Defective]


@pytest.mark.parametrize("draw", [cut_paste, lambda image, draws: blend_patch(image, image[::-1].copy(), draws)])
def test_grey_images_stay_grey(draw: Draw) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (64, 64, 1), dtype=np.uint8).repeat(3, axis=2)
    for seed in range(5):
        found, _ = draw(grey, np.random.default_rng(seed))
        assert not np.ptp(found, axis=2).any()
    colour = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    found, mask = draw(colour, np.random.default_rng(0))
    assert np.ptp(found[mask].astype(int) - colour[mask], axis=1).any()


def test_the_first_draw_that_can_be_seen_is_taken_or_else_the_strongest() -> None:
    image = np.full((8, 8, 3), 100, dtype=np.uint8)
    mask = np.zeros((8, 8), dtype=np.bool_)
    mask[2:4, 2:4] = True

    def drawn(levels: list[int]) -> Callable[[], Defective]:
        waiting = iter(levels)

        def draw() -> Defective:
            found = image.copy()
            found[mask] = 100 + next(waiting)
            return found, mask

        return draw

    assert visible(drawn([14, 15, 90]), image)[0].max() == 115  # 15 of 255 grey levels can be seen.
    assert visible(drawn([1, 3, 20, 90]), image)[0].max() == 120
    assert visible(drawn([1, 9, *[2] * 18]), image)[0].max() == 109
