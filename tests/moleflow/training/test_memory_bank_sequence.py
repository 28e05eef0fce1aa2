"""Whole sequences that score by memory banks: digits, reuse, and rows like those of the flow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moleflow.data.scan import scan
from moleflow.environment import open_environment
from moleflow.features.feature_cache import FeatureCache
from moleflow.settings.config import TrialConfig

Config = Callable[..., TrialConfig]
Start = Callable[..., Any]


@pytest.fixture(scope="module")
def bank(config: Config) -> TrialConfig:
    """A bank of all patches, with the largest distance as image score."""
    return config(**{"bank.enabled": True, "image_score": "max"})


@pytest.fixture(scope="module")
def banked(start: Start, bank: TrialConfig) -> Any:
    """An uninterrupted run of it."""
    return start(bank)


def test_image_scores_are_the_largest_distances_in_the_features_of_the_backbone(
    ground: Path, bank: TrialConfig, banked: Any
) -> None:
    features, environment = FeatureCache(ground / "features"), open_environment("cpu")
    for task, data in enumerate(scan(ground / "images", bank.data.tasks)):
        own = [row for row in banked.outcome.scores if row["task"] == task]
        held, images = (
            features.get(bank, environment, samples, lambda done, total: None).double().numpy()
            for samples in (data.train, data.test)
        )
        known = held.reshape(-1, held.shape[-1])
        largest = [
            np.sqrt(((image.reshape(-1, 1, known.shape[1]) - known) ** 2).sum(axis=2)).min(axis=1).max()
            for image in images
        ]
        assert [row["image"] for row in own] == [sample.name for sample in data.test]
        np.testing.assert_allclose([row["oracle_score"] for row in own], largest, rtol=1e-5)


def test_rows_are_those_of_the_flow_but_for_what_only_a_flow_has(banked: Any, whole: Any) -> None:
    same = ("split", "after_task_name", "task_name", "n_images", "n_anomalous", "n_masks", "routing_accuracy")
    of_bank, of_flow = ([{name: row[name] for name in same} for row in run.rows()] for run in (banked, whole))
    assert of_bank == of_flow
    assert {row["normal_latent_norm"] for row in banked.rows()} == {None}
    assert banked.outcome.lora_scaling is None
    assert banked.outcome.flags == [flag for flag in whole.outcome.flags if "adapter" not in flag]
    assert [report.curves for report in banked.reports] == [[], [], []]
    assert banked.epochs == []
    assert banked.steps["scoring"] > 0
    assert len(banked.outcome.gallery) == len(whole.outcome.gallery)


def test_a_bank_that_is_stored_is_not_filled_again(start: Start, bank: TrialConfig, tmp_path: Path) -> None:
    first, again = start(bank, tmp_path), start(bank, tmp_path)
    assert again.digits() == first.digits()
    assert sum(path.name == "stage.json" for path in tmp_path.rglob("*.json")) == 3
    # Stored distances are read, not computed: each task leaves its one report.
    assert again.steps["scoring"] < first.steps["scoring"]


def test_each_seed_draws_its_own_bank(start: Start, config: Config) -> None:
    draws = [start(config(seed=seed, **{"bank.enabled": True, "bank.patches": 12})) for seed in (0, 0, 1)]
    states = [run.outcome.state_digest for run in draws]
    assert states[0] == states[1] != states[2]
    assert draws[0].outcome.parameters_per_task == draws[2].outcome.parameters_per_task
    width = draws[0].outcome.parameters_per_task[0] // 12
    assert draws[0].outcome.parameters_per_task == [12 * width] * 3
