"""Trained sequences on small drawn images, and their detectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from moleflow.cache.stage_state import Epoch
from moleflow.cache.stages import StageStore
from moleflow.data.scan import scan
from moleflow.detection.collect import collect_detector
from moleflow.detection.detector_file import StoredDetector, write_detector
from moleflow.environment import open_environment
from moleflow.features.feature_cache import FeatureCache
from moleflow.settings.config import TrialConfig
from moleflow.settings.knobs import Layer, resolve, version_layer
from moleflow.training.sequence import Doing, SequenceContext, SequenceResult, TaskReport, run_sequence

SMALL: dict[str, Any] = {
    "data": {"tasks": ["bolt", "cloth"], "image_size": 32, "mask_size": 32, "validation_fraction": 0.25},
    "flow": {"blocks": 2},
    "lora": {"rank": 2},
    "training": {"epochs": 1, "batch_size": 4, "optimizer": "adamw"},
}


class Silent:
    """An observer that keeps nothing."""

    def on_features(self, done: int, total: int) -> None:
        assert 0 <= done <= total

    def on_epoch(self, task: int, epoch: Epoch) -> None:
        assert epoch.epoch > 0

    def on_step(self, doing: Doing) -> None:
        assert doing

    def on_task(self, report: TaskReport) -> bool:
        return report.task >= 0


@dataclass(frozen=True)
class Trained:
    """A sequence that ended, with its detector in a file."""

    config: TrialConfig
    context: SequenceContext
    result: SequenceResult
    detector: StoredDetector
    file: Path
    root: Path

    def scores(self, split: str = "test") -> dict[Path, tuple[float, int]]:
        """Return the sequence's own (score, routed task) of each image of a split."""
        rows = [row for row in self.result.scores if row["split"] == split]
        return {self.root / row["image"]: (row["score"], row["routed_task"]) for row in rows}


@pytest.fixture(scope="session")
def settings(small_backbone: dict[str, Any]) -> Callable[..., TrialConfig]:
    """The function that makes a small configuration from a version and knobs."""
    small = Layer("small", SMALL | {"backbone": small_backbone})
    return lambda version="v7", **knobs: resolve([version_layer(version, "test"), small, Layer("test", knobs)])


@pytest.fixture(scope="session")
def train(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trained]:
    """The function that runs a sequence and keeps its detector."""
    ground = tmp_path_factory.mktemp("ground")

    def run(config: TrialConfig, root: Path = images) -> Trained:
        folder = tmp_path_factory.mktemp("trained")
        features, environment = FeatureCache(ground / "features"), open_environment("cpu")
        stages = StageStore(folder / "stages")
        classes = scan(root, config.data.classes)
        context = SequenceContext(classes, features, stages, environment, ground / "synthetic")
        result = run_sequence(config, context, Silent())
        detector = collect_detector(config, context, result.scores, {"trial": "a test"})
        file = folder / "detector.safetensors"
        write_detector(file, detector)
        return Trained(config, context, result, detector, file, root)

    return run


@pytest.fixture(scope="session")
def trained(train: Callable[..., Trained], settings: Callable[..., TrialConfig]) -> Trained:
    """A sequence of v7 on bolt and cloth."""
    return train(settings())
