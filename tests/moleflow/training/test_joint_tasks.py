"""Sequences with a task of several classes: one expert trained on all of them, rows by class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from moleflow.data.scan import scan
from moleflow.environment import open_environment
from moleflow.features.feature_cache import FeatureCache
from moleflow.settings.config import TrialConfig

Config = Callable[..., TrialConfig]
Start = Callable[..., Any]
JOINT = [["bolt", "nut"], "seal"]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("joint")


@pytest.fixture(scope="module")
def joint(start: Start, config: Config, stages: Path) -> Any:
    """An uninterrupted run that learns bolt and nut as one task, then seal."""
    return start(config(tasks=JOINT), stages)


def test_each_class_seen_is_a_row_with_the_index_of_its_task(joint: Any) -> None:
    found = [(row["after_task"], row["after_task_name"], row["task"], row["task_name"]) for row in joint.rows()]
    assert found == [
        (0, "bolt+nut", 0, "bolt"),
        (0, "bolt+nut", 0, "nut"),
        (1, "seal", 0, "bolt"),
        (1, "seal", 0, "nut"),
        (1, "seal", 1, "seal"),
    ]
    assert {(row["task"], row["task_name"]) for row in joint.outcome.scores} == {(0, "bolt"), (0, "nut"), (1, "seal")}
    curves = [(row["task"], row["task_name"]) for report in joint.reports for row in report.curves]
    assert list(dict.fromkeys(curves)) == [(0, "bolt+nut"), (1, "seal")]
    assert len(joint.outcome.parameters_per_task) == 2
    assert {kept.class_name for kept in joint.outcome.gallery} == {"bolt", "nut", "seal"}


def test_metrics_are_of_one_class_and_routing_counts_the_task(joint: Any) -> None:
    for row in joint.rows()[-3:]:
        own = [one for one in joint.outcome.scores if one["task_name"] == row["task_name"]]
        assert len(own) == row["n_images"] == 8
        labels, scores = ([one[name] for one in own] for name in ("label", "score"))
        assert row["image_auroc"] == pytest.approx(roc_auc_score(labels, scores))
        assert row["routing_accuracy"] == np.mean([one["routed_task"] == row["task"] for one in own])


def test_one_expert_is_trained_on_the_images_of_all_classes(
    joint: Any, config: Config, ground: Path, stages: Path
) -> None:
    settings, environment = config(tasks=JOINT), open_environment("cpu")
    images = [sample for data in scan(ground / "images", ["bolt", "nut"]) for sample in data.train]
    features = FeatureCache(ground / "features").get(settings, environment, images, lambda done, total: None)
    states = [load_file(path) for path in stages.rglob("state.safetensors")]
    (mean,) = [state["statistics.0.mean"] for state in states if "statistics.0.mean" in state]
    torch.testing.assert_close(mean, features.double().mean(dim=(0, 1, 2)).float())
    assert len(joint.epochs) == 2 * settings.training.epochs


def test_the_order_of_a_tasks_classes_changes_no_training(joint: Any, start: Start, config: Config) -> None:
    turned = start(config(tasks=[["nut", "bolt"], "seal"]))
    assert turned.outcome.state_digest == joint.outcome.state_digest
    of_class = {row["task_name"]: row["scores_digest"] for row in turned.rows()[-3:]}
    assert of_class == {row["task_name"]: row["scores_digest"] for row in joint.rows()[-3:]}
    assert [row["task_name"] for row in turned.rows()] == ["nut", "bolt", "nut", "bolt", "seal"]


def test_training_differs_from_that_of_single_classes(joint: Any, start: Start, config: Config) -> None:
    assert start(config(tasks=["bolt", "nut", "seal"])).outcome.state_digest != joint.outcome.state_digest


def test_a_stopped_sequence_resumes_with_the_same_digits(
    joint: Any, start: Start, config: Config, recorder: type[Any], tmp_path: Path
) -> None:
    stopped = start(config(tasks=JOINT), tmp_path, recorder(stop_after=0))
    assert stopped.outcome.stopped
    again = start(config(tasks=JOINT), tmp_path)
    assert again.digits() == joint.digits()
    assert [report.seconds_reused > 0 for report in again.reports] == [True, False]


def test_a_joint_task_has_one_memory_bank(start: Start, config: Config) -> None:
    settings = config(tasks=JOINT, **{"bank.enabled": True, "bank.patches": 40})
    banked = start(settings)
    joint, single = banked.outcome.parameters_per_task
    assert joint == single
    assert joint % 40 == 0
