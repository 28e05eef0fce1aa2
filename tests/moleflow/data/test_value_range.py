"""Images of 12 bits in files of 16: their range of values, from the folder to identities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moleflow.data.findings import findings_of
from moleflow.data.loading import load_image
from moleflow.data.samples import Sample, TaskData
from moleflow.data.scan import scan
from moleflow.data.splits import choose_splits
from moleflow.data.value_range import content_bits, narrow_values_note, value_range_of
from moleflow.settings.config import DataKnobs, TrialConfig, reach

SIZE = 16


def folder(root: Path, most: int = 4095) -> Path:
    """A class of images of 16 bits with values up to `most`, and one image of 8 bits."""
    draws = np.random.default_rng(0)
    for part in ("train/good", "test/good", "test/hole"):
        place = root / "bolt" / part
        place.mkdir(parents=True)
        for number in range(6):
            wide = draws.integers(0, most // 2, (SIZE, SIZE)).astype(np.uint16)
            Image.fromarray(wide).save(place / f"{number}.png")
    wide[0, 0] = most
    Image.fromarray(wide).save(root / "bolt" / "test" / "hole" / "0.png")
    Image.fromarray(draws.integers(0, 256, (SIZE, SIZE)).astype(np.uint8)).save(root / "bolt/train/good/8_bits.png")
    return root


def splits(root: Path, **knobs: object) -> dict[str, Sample]:
    """{name: sample} of the images that a trial uses."""
    (task,) = scan(root, ["bolt"])
    settings = DataKnobs.model_validate({"tasks": ["bolt"], "image_size": SIZE, **knobs})
    chosen = choose_splits(task, settings, 0, root / "synthetic")
    return {sample.name: sample for sample in (*chosen.train, *chosen.validation, *chosen.test)}


def task(root: Path) -> TaskData:
    """The scanned class."""
    return scan(root, ["bolt"])[0]


@pytest.mark.parametrize(
    ("largest", "bits"), [(0, 8), (255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12), (4096, 14), (65_535, 16)]
)
def test_the_depth_that_holds_a_value(largest: int, bits: int) -> None:
    assert content_bits(largest) == bits


def test_full_content_and_given_ranges(tmp_path: Path) -> None:
    scanned = task(folder(tmp_path))
    found = [value_range_of(scanned, DataKnobs(value_range=given)) for given in ("full", "content", (7, 99))]
    assert found == [None, (0, 4095), (7, 99)]
    assert value_range_of(task(folder(tmp_path / "wide", 60_000)), DataKnobs(value_range="content")) is None


def test_nearly_black_images_are_noted_until_a_range_is_set(tmp_path: Path) -> None:
    found = task(folder(tmp_path))
    sentence = (
        "bolt: 18 images of more than 8 bits, with values of at most 4095 of 65535, so they are nearly black; to use "
        "12 bits: data.value_range: content"
    )
    assert sentence in findings_of(found).notes
    assert sentence not in findings_of(found, full_range=False).notes
    assert narrow_values_note(task(folder(tmp_path / "wide", 60_000))) == ""


def test_the_range_spreads_the_grey_levels(tmp_path: Path) -> None:
    folder(tmp_path)
    dark, bright = (splits(tmp_path, value_range=given)["bolt/test/hole/0.png"] for given in ("full", "content"))
    levels = [len(np.unique(load_image(sample, SIZE, "bilinear"))) for sample in (dark, bright)]
    assert levels[0] <= 17
    assert levels[1] > 60
    stored = np.asarray(Image.open(bright.path)).astype(np.float64)
    assert np.abs(load_image(bright, SIZE, "bilinear")[..., 0] - stored * 255 / 4095).max() <= 0.5


def test_one_range_holds_for_the_whole_class_and_for_no_image_of_8_bits(tmp_path: Path) -> None:
    found = splits(folder(tmp_path), value_range="content")
    assert {sample.value_range for sample in found.values()} == {(0, 4095), None}
    assert [name for name, sample in found.items() if sample.value_range is None] == ["bolt/train/good/8_bits.png"]


def test_the_range_is_part_of_the_identity_of_wide_images_alone(tmp_path: Path) -> None:
    folder(tmp_path)
    full, content, given = (splits(tmp_path, value_range=each) for each in ("full", "content", [0, 4095]))
    assert full.keys() == content.keys()
    kept = {name for name in full if full[name].digest == content[name].digest}
    assert kept == {"bolt/train/good/8_bits.png"}
    assert {name: sample.digest for name, sample in content.items()} == {
        name: sample.digest for name, sample in given.items()
    }
    assert {sample.digest for sample in full.values()} == {
        sample.digest for sample in (*task(tmp_path).train, *task(tmp_path).test)
    }


@pytest.mark.parametrize("knobs", [{"train_images": 3, "test_images": 4}, {"validation_fraction": 0.5}])
def test_trials_of_all_ranges_use_the_same_images(tmp_path: Path, knobs: dict[str, object]) -> None:
    folder(tmp_path)
    assert splits(tmp_path, value_range="content", **knobs).keys() == splits(tmp_path, **knobs).keys()


def test_generated_defects_are_drawn_on_the_pixels_that_the_backbone_sees(tmp_path: Path) -> None:
    found = splits(folder(tmp_path), value_range="content", validation_fraction=0.5, validation_anomalies="synthetic")
    made = [sample for sample in found.values() if sample.defect in ("cut-paste", "blend")]
    assert made
    for sample in made:
        normal = found[sample.name.rpartition(" + ")[0]]
        defective = load_image(sample, SIZE, "bilinear")
        mask = np.asarray(Image.open(str(sample.mask))) > 0
        assert np.array_equal(defective[~mask], load_image(normal, SIZE, "bilinear")[~mask])


@pytest.mark.parametrize("given", ["half", 4095, [4095], [5, 5], [-1, 9], [0, 65_536], [0.5, 9], [0, 1, 2]])
def test_other_ranges_are_refused(given: object) -> None:
    with pytest.raises(ValueError, match="value_range"):
        DataKnobs.model_validate({"value_range": given})


def test_the_default_leaves_the_keys_of_features_and_stages() -> None:
    plain = TrialConfig()
    ranged = TrialConfig.model_validate({"data": {"value_range": [0, 4095]}})
    for phase in ("features", "training"):
        assert "data.value_range" not in reach(plain, phase)
        assert reach(ranged, phase)["data.value_range"] == (0, 4095)
