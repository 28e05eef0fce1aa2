"""The images that trials need, by feature setting."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moleflow.data.samples import TaskData
from moleflow.data.scan import scan
from moleflow.data.splits import choose_splits
from moleflow.environment import Environment
from moleflow.features.feature_cache import FeatureCache
from moleflow.features.prefetch import distinct_feature_settings, feature_sets, fill_feature_cache
from moleflow.settings.config import TrialConfig

KNOBS: dict[str, dict[str, object]] = {
    "data": {"tasks": ["bolt", "cloth"], "image_size": 32},
    "backbone": {"model": "test_vit", "weights": "random", "layers": [1, 3]},
}


def config(seed: int = 0, data: dict[str, object] | None = None, **changes: dict[str, object]) -> TrialConfig:
    """The configuration with other knobs."""
    return TrialConfig.model_validate({**KNOBS, "data": KNOBS["data"] | (data or {}), "seed": seed, **changes})


@pytest.fixture(scope="module")
def tasks(images: Path) -> dict[str, TaskData]:
    """12 training and 8 test images of each of two classes."""
    return {data.name: data for data in scan(images, ["bolt", "cloth"])}


def counts(configs: list[TrialConfig], tasks: dict[str, TaskData], environment: Environment, folder: Path) -> list[int]:
    """Images of each feature set."""
    return [
        len(one.samples)
        for one in feature_sets(configs, tasks, FeatureCache(folder), environment, folder / "synthetic")
    ]


def test_trials_that_share_a_setting_share_a_set(
    tasks: dict[str, TaskData], environment: Environment, tmp_path: Path
) -> None:
    other = {**KNOBS["backbone"], "layers": [2]}
    trials = [
        config(),
        config(3, loss={"focal_gamma": 2.0}),
        config(backbone=other),
        config(data={"tasks": ["cloth"]}, backbone=other),
    ]
    assert counts(trials, tasks, environment, tmp_path) == [40, 40]
    assert counts([config(data={"tasks": ["cloth"]})], tasks, environment, tmp_path) == [20]


def test_images_are_limited_as_each_trial_limits_them(
    tasks: dict[str, TaskData], environment: Environment, tmp_path: Path
) -> None:
    few: dict[str, object] = {"tasks": ["bolt"], "train_images": 4, "test_images": 2}

    def folders(*trials: TrialConfig) -> dict[str, int]:
        """The number of images from each folder of the data set."""
        (one,) = feature_sets(trials, tasks, FeatureCache(tmp_path), environment, tmp_path / "synthetic")
        return Counter(str(Path(sample.name).parent) for sample in one.samples)

    test = {"bolt/test/good": 1, "bolt/test/hole": 1}
    assert folders(config(data=few)) == {"bolt/train/good": 4} | test
    assert folders(config(data=few | {"validation_fraction": 0.25})) == {"bolt/train/good": 4 + 3} | test
    both = folders(config(0, few), config(1, few))
    assert 4 < both.pop("bolt/train/good") <= 8  # Each seed draws its own training images,
    assert both == test  # and is scored on the same test images.


def test_images_are_those_of_the_splits_that_are_scored(
    tasks: dict[str, TaskData], environment: Environment, tmp_path: Path
) -> None:
    held: dict[str, object] = {"tasks": ["bolt"], "validation_fraction": 0.25}
    train, normal, test = 9, 3, 8

    def count(**more: object) -> list[int]:
        return counts([config(data=held | more)], tasks, environment, tmp_path)

    assert count() == [train + normal + test]
    assert count(evaluate="validation") == [train + normal]
    assert count(evaluate="test") == [train + test]
    assert count(evaluate="validation", validation_anomalies="synthetic") == [train + normal + 3]
    assert count(evaluate="test", validation_anomalies="synthetic") == [train + test]
    assert count(evaluate="validation", validation_anomalies="real") == [train + normal + 1]
    assert count(evaluate="test", validation_anomalies="real") == [train + test - 1]
    assert count(validation_anomalies="real") == [train + normal + test]


def test_features_of_generated_defects_are_made_and_found(
    tasks: dict[str, TaskData], environment: Environment, tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path / "features")
    settings = config(data={"tasks": ["bolt"], "validation_fraction": 0.25, "validation_anomalies": "synthetic"})
    (one,) = feature_sets([settings], tasks, cache, environment, tmp_path / "synthetic")
    fill_feature_cache([one], cache, environment, lambda number, done, total: None)
    drawn = choose_splits(tasks["bolt"], settings.data, 5, tmp_path / "synthetic").validation[3:]
    assert [sample.defect for sample in drawn].count("good") == 0
    assert cache.missing(settings, environment, drawn) == 0
    normal = choose_splits(tasks["bolt"], settings.data, 5, tmp_path / "synthetic").validation[:3]
    with_defect, without = (cache.get(settings, environment, samples) for samples in (drawn, normal))
    assert all(not torch.equal(a, b) for a, b in zip(with_defect, without, strict=True))
    assert cache.forwards == len(one.samples) == 23


def test_one_configuration_stands_for_all_that_need_the_same() -> None:
    assert distinct_feature_settings(config(seed, loss={"focal_gamma": 1.0}) for seed in range(3)) == [
        config(0, loss={"focal_gamma": 1.0})
    ]
    drawn = [config(seed, {"train_images": 4}) for seed in range(3)]
    assert distinct_feature_settings(drawn) == drawn


def test_environments_have_sets_of_their_own(
    tasks: dict[str, TaskData], environment: Environment, tmp_path: Path
) -> None:
    cache = FeatureCache(tmp_path)
    (one,) = feature_sets([config()], tasks, cache, environment, tmp_path / "synthetic")
    cache.ensure(one.config, environment, one.samples)
    assert cache.missing(one.config, environment, one.samples) == 0
    assert cache.missing(one.config, replace(environment, device_kind="cuda"), one.samples) == 40
