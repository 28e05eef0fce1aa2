"""What a plan says that sharing saves, against counts made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.plan.cost_estimate import (
    ImageCounts,
    MoreEpochs,
    WorkEstimate,
    estimate_work,
    seconds_per_step,
    steps_per_epoch,
)
from orchestrator.sweep import expansion
from orchestrator.sweep.sweep import make_sweep
from orchestrator.sweep.trial import Inputs, Trial

IMAGES = {"leather": ImageCounts(20, 10), "grid": ImageCounts(8, 4)}
INPUTS = Inputs({"leather": "a", "grid": "b"}, "weights", "generated")


def trials_of(grid: dict[str, list[object]], seeds: int = 1, **settings: object) -> list[Trial]:
    base = {"extends": "demo", "data.tasks": [*IMAGES], "training.epochs": 3, "training.batch_size": 8, **settings}
    document = {"name": "work", "version": "v3", "base": base, "grid": grid, "seeds": seeds}
    return expansion.trials(make_sweep(document, "the test", Path(), data_root=None, environment={}), INPUTS)


def test_scoring_shares_everything_and_seeds_share_features() -> None:
    found = estimate_work(trials_of({"image_score": ["max", "top_k"]}, 2), IMAGES, {})
    assert found == WorkEstimate(stages=(8, 4), forwards=(4 * 42, 42), hours=None)


def test_hours_count_each_distinct_stage_once_by_its_own_steps() -> None:
    trials = trials_of({"image_score": ["max", "top_k"]}, drop_last=False)
    found = estimate_work(trials, IMAGES, {"leather": 2.0, "grid": 10.0})
    one = (3 * 3 * 2.0 + 3 * 1 * 10.0) / 3600
    assert found.hours == pytest.approx((2 * one, one))
    assert estimate_work(trials, IMAGES, {"leather": 2.0}).hours is None


def test_what_is_trained_already_costs_nothing_any_more() -> None:
    done, left = trials_of({"image_score": ["max", "top_k"]})
    found = estimate_work([left], IMAGES, {"leather": 1.0, "grid": 1.0}, there=[done])
    assert (found.stages, found.hours and found.hours[1]) == ((2, 0), 0.0)


def test_hours_of_more_epochs_are_those_of_the_added_ones() -> None:
    seconds = {"leather": 2.0, "grid": 10.0}
    trials = trials_of({"epochs": [12, 3, 6]}, drop_last=False, **{"training.schedule": "constant"})
    found = estimate_work(trials, IMAGES, seconds)
    first, second = 3 * 2.0, 1 * 10.0  # of one epoch
    alone, shared = 21 * (first + second), 12 * first + 21 * second
    assert found.hours == pytest.approx((alone / 3600, shared / 3600))
    assert found.stages == (6, 6)
    assert found.more_epochs == (MoreEpochs(6, 3, True, 1), MoreEpochs(12, 6, True, 1))
    # What is trained already counts as well, and is not said of itself.
    left = estimate_work([trials[0]], IMAGES, seconds, there=[trials[1]])
    assert left.hours == pytest.approx((12 * (first + second) / 3600, (9 * first + 12 * second) / 3600))
    assert left.more_epochs == (MoreEpochs(12, 3, True, 1),)
    assert estimate_work([trials[1]], IMAGES, seconds, there=[trials[0]]).more_epochs == ()


def test_under_a_cosine_more_epochs_save_nothing() -> None:
    found = estimate_work(
        trials_of({"epochs": [3, 6], "image_score": ["max", "top_k"]}), IMAGES, {"leather": 1.0, "grid": 1.0}
    )
    assert found.more_epochs == (MoreEpochs(6, 3, False, 2),)
    assert found.hours is not None
    assert found.hours[0] == pytest.approx(2 * found.hours[1])


def test_features_of_two_backbones_are_two() -> None:
    assert estimate_work(trials_of({"backbone.grid": [7, 14]}), IMAGES, {}).forwards == (84, 84)


def test_limits_and_held_out_images_count() -> None:
    limited = trials_of({}, 2, **{"data.train_images": 5, "data.test_images": 3})
    assert estimate_work(limited, IMAGES, {}).forwards == (2 * (8 + 8), 2 * 8 + 12)  # grid has 12 images in all
    # 4 and 2 normal images are held out, and a defect is drawn on a copy of each; no test image is read.
    searching = trials_of(
        {},
        1,
        **{"data.validation_fraction": 0.2, "data.validation_anomalies": "synthetic", "data.evaluate": "validation"},
    )
    assert estimate_work(searching, IMAGES, {}).forwards == ((20 + 4) + (8 + 2), 34)


def test_steps_of_an_epoch() -> None:
    (trial,) = trials_of({})
    keep = trial.config.training.model_copy(update={"batch_size": 8, "drop_last": False})
    drop = keep.model_copy(update={"drop_last": True})
    assert [steps_per_epoch(keep, n) for n in (1, 8, 9, 20)] == [1, 1, 2, 3]
    assert [steps_per_epoch(drop, n) for n in (1, 8, 9, 20)] == [1, 1, 1, 2]


def test_seconds_a_step_leave_out_trials_that_nobody_knows() -> None:
    (trial,) = trials_of({}, drop_last=False)
    epochs = [
        (trial.id, "leather", 3.0),
        (trial.id, "leather", 6.0),
        (trial.id, "grid", 0.5),
        ("stranger", "grid", 9.0),
    ]
    assert seconds_per_step(epochs, {trial.id: trial.config}, IMAGES) == {"leather": 9.0 / 6, "grid": 0.5}
