"""Training that ends at a given NLL, on the embedded images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from moleflow.cache.stage_state import Checkpoint
from moleflow.data.embedded.folder import ensure_embedded
from moleflow.models.detector import Detector
from moleflow.settings.config import TrialConfig
from moleflow.training.train_task import Randomness, train_task

SMALL = {"train_images": 8, "test_images": 4, "training.epochs": 4}
TASKS = ("leather", "grid")


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, run: Callable[..., Any], config: Callable[..., TrialConfig]
) -> Callable[..., Any]:
    """The function that trains v3 on the embedded images with some knobs."""
    cache = tmp_path_factory.mktemp("cache")
    images = ensure_embedded(cache)

    def train(**knobs: Any) -> Any:
        settings = config(**({"data.tasks": TASKS} | SMALL | knobs))
        return run(settings, images, cache / "features", tmp_path_factory.mktemp("stages"))

    return train


def test_a_task_ends_at_the_first_epoch_that_reaches_the_nll(trained: Callable[..., Any]) -> None:
    whole = trained()
    curves = [[curve["nll"] for curve in report.curves] for report in whole.reports]
    assert [len(of) for of in curves] == [4, 4]
    limit = curves[0][1]  # Reached after the second epoch of the first task.
    stopped = trained(**{"training.stop_at_nll": limit})
    for report, before in zip(stopped.reports, curves, strict=True):
        found = [curve["nll"] for curve in report.curves]
        assert all(nll > limit for nll in found[:-1])
        assert found[-1] <= limit or len(found) == 4
        if report.task == 0:
            assert found == before[:2]
    assert stopped.epochs[:2] == [(0, 1), (0, 2)]
    assert stopped.epochs[2] == (1, 1)


def test_a_very_low_value_changes_no_digit(trained: Callable[..., Any]) -> None:
    assert trained(**{"training.stop_at_nll": -1e9}).digits() == trained().digits()


def test_a_checkpoint_of_the_last_epoch_trains_no_further(config: Callable[..., TrialConfig]) -> None:
    settings = config(**{"training.epochs": 4, "training.stop_at_nll": 1e9})
    features = torch.randn(10, 3, 3, 8, generator=torch.Generator().manual_seed(0))
    randomness = Randomness(0, "", 0)

    def train(start: Checkpoint | None) -> Checkpoint:
        detector = Detector(settings, (3, 3, 8), randomness)
        detector.add_task(0, randomness)
        return train_task(detector, features, 0, settings, randomness, lambda epoch: None, start)

    first = train(None)
    assert len(first.epochs) == 1
    assert train(first) is first
