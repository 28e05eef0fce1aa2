"""The images for training, validation and test: disjoint, seeded, by content."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from moleflow.data.samples import TaskData
from moleflow.data.scan import scan
from moleflow.data.splits import Splits, choose_splits, hold_out
from moleflow.errors import InvalidInput
from moleflow.settings.config import DataKnobs


@pytest.fixture(scope="module")
def bolt(images: Path) -> TaskData:
    """12 normal training images; 4 normal and 4 defective test images with masks."""
    (task,) = scan(images, ["bolt"])
    return task


def chosen(task: TaskData, folder: Path, seed: int = 0, **knobs: Any) -> Splits:
    return choose_splits(task, DataKnobs(tasks=(task.name,), image_size=32, **knobs), seed, folder)


def contents(*splits: tuple[Any, ...]) -> list[set[str]]:
    return [{sample.digest for sample in split} for split in splits]


@pytest.mark.parametrize("anomalies", ["none", "synthetic", "real"])
@pytest.mark.parametrize("seed", range(3))
def test_no_image_serves_two_splits_and_none_is_lost(bolt: TaskData, tmp_path: Path, anomalies: str, seed: int) -> None:
    found = chosen(
        bolt,
        tmp_path,
        validation_fraction=0.25,
        validation_anomalies=anomalies,
        validation_seed=seed,
        validation_real_share=0.5,
    )
    train, validation, test = contents(found.train, found.validation, found.test)
    assert train.isdisjoint(validation | test)
    assert validation.isdisjoint(test)
    normal = contents(tuple(sample for sample in found.validation if sample.label == 0))[0]
    assert train | normal == contents(bolt.train)[0]
    extra = {"none": (0, 8), "synthetic": (3, 8), "real": (2, 6)}[anomalies]
    assert (sum(sample.label for sample in found.validation), len(found.test)) == extra
    assert found.withheld == (2 if anomalies == "real" else 0)
    if anomalies != "synthetic":
        assert train | validation | test == contents(bolt.train + bolt.test)[0]


def test_without_validation_everything_is_as_it_stands(bolt: TaskData, tmp_path: Path) -> None:
    assert chosen(bolt, tmp_path) == Splits(bolt.train, (), bolt.test)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [2, 3])
def test_trials_of_all_seeds_are_scored_on_the_same_test_images(bolt: TaskData, tmp_path: Path, count: int) -> None:
    """Their training images differ: the seed draws those."""
    found = [chosen(bolt, tmp_path, seed, train_images=4, test_images=count) for seed in range(4)]
    assert all(len(one.test) == count and one.test == found[0].test for one in found)
    assert len({one.train for one in found}) == 4


@pytest.mark.parametrize("anomalies", ["none", "synthetic", "real"])
def test_a_split_that_is_not_scored_is_empty_and_the_others_stay_as_they_are(
    bolt: TaskData, tmp_path: Path, anomalies: str
) -> None:
    held: dict[str, Any] = {"validation_fraction": 0.25, "validation_anomalies": anomalies}
    both = chosen(bolt, tmp_path, **held)
    search = chosen(bolt, tmp_path, evaluate="validation", **held)
    assert search == Splits(both.train, both.validation, (), both.withheld)
    assert chosen(bolt, tmp_path / "finalist", evaluate="test", **held) == Splits(
        both.train, (), both.test, both.withheld
    )
    assert not (tmp_path / "finalist").exists()


def test_real_anomalies_are_drawn_by_the_split_seed_and_not_by_the_trials(bolt: TaskData, tmp_path: Path) -> None:
    held: dict[str, Any] = {"validation_fraction": 0.25, "validation_anomalies": "real", "validation_real_share": 0.5}
    tests = [contents(chosen(bolt, tmp_path, validation_seed=s, **held).test)[0] for s in range(6)]
    assert len({frozenset(test) for test in tests}) > 1
    assert contents(chosen(bolt, tmp_path, seed=7, validation_seed=0, **held).test)[0] == tests[0]


def test_copies_of_a_held_out_anomaly_are_no_part_of_the_test_either(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images / "bolt", tmp_path / "bolt")
    for path in sorted((tmp_path / "bolt").glob("*/hole/*.png")):
        stem, _, rest = path.name.partition("_") if "_" in path.name else (path.stem, "", ".png")
        shutil.copy(path, path.with_name(f"{stem}copy_{rest}" if rest != ".png" else f"{stem}copy.png"))
    (task,) = scan(tmp_path, ["bolt"])
    assert sum(sample.label for sample in task.test) == 8
    left, held = hold_out(task.test, 0.5, seed=0)
    assert (sum(sample.label for sample in left), len(held)) == (4, 4)
    assert contents(left)[0].isdisjoint(contents(held)[0])


def test_shares_are_rounded_and_leave_something_to_test_on(bolt: TaskData) -> None:
    assert [len(hold_out(bolt.test, share, 0)[1]) for share in (0.0, 0.01, 0.3, 0.6, 0.8)] == [0, 1, 1, 2, 3]
    with pytest.raises(InvalidInput) as caught:
        hold_out(bolt.test, 0.95, 0)
    assert str(caught.value) == (
        "data.validation_real_share: given 0.95, which leaves no defective test image of 4; take a smaller share or add images"
    )
    good = tuple(sample for sample in bolt.test if sample.label == 0)
    assert hold_out(good, 0.5, 0) == (good, ())


def test_the_limit_of_test_images_holds_after_the_exclusion(bolt: TaskData, tmp_path: Path) -> None:
    held: dict[str, Any] = {"validation_fraction": 0.25, "validation_anomalies": "real", "validation_real_share": 0.5}
    found = chosen(bolt, tmp_path, test_images=4, **held)
    assert [sample.label for sample in found.test].count(1) == 2
    assert len(found.test) == 4
    assert contents(found.validation)[0].isdisjoint(contents(found.test)[0])
