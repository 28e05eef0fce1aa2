"""What a plan says that sharing saves, against counts made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import expansion
from orchestrator.savings import Images, Work, seconds_a_step, steps_an_epoch, work
from orchestrator.spec import make_sweep
from orchestrator.trial import Inputs, Trial

IMAGES = {"leather": Images(20, 10), "grid": Images(8, 4)}
INPUTS = Inputs({"leather": "a", "grid": "b"}, "weights", "generated")


def trials_of(grid: dict[str, list[object]], seeds: int = 1, **settings: object) -> list[Trial]:
    base = {"extends": "demo", "data.tasks": [*IMAGES], "training.epochs": 3, "training.batch_size": 8, **settings}
    document = {"name": "work", "version": "v3", "base": base, "grid": grid, "seeds": seeds}
    return expansion.trials(make_sweep(document, "the test", Path(), data_root=None, environment={}), INPUTS)


def test_scoring_shares_everything_and_seeds_share_features() -> None:
    found = work(trials_of({"image_score": ["max", "top_k"]}, 2), IMAGES, {})
    assert found == Work(stages=(8, 4), forwards=(4 * 42, 42), hours=None)


def test_hours_count_each_distinct_stage_once_by_its_own_steps() -> None:
    trials = trials_of({"image_score": ["max", "top_k"]}, drop_last=False)
    found = work(trials, IMAGES, {"leather": 2.0, "grid": 10.0})
    one = (3 * 3 * 2.0 + 3 * 1 * 10.0) / 3600
    assert found.hours == pytest.approx((2 * one, one))
    assert work(trials, IMAGES, {"leather": 2.0}).hours is None


def test_what_is_trained_already_costs_nothing_any_more() -> None:
    done, left = trials_of({"image_score": ["max", "top_k"]})
    found = work([left], IMAGES, {"leather": 1.0, "grid": 1.0}, there=[done])
    assert (found.stages, found.hours and found.hours[1]) == ((2, 0), 0.0)


def test_features_of_two_backbones_are_two() -> None:
    assert work(trials_of({"backbone.grid": [7, 14]}), IMAGES, {}).forwards == (84, 84)


def test_limits_and_held_out_images_count() -> None:
    limited = trials_of({}, 2, **{"data.train_images": 5, "data.test_images": 3})
    assert work(limited, IMAGES, {}).forwards == (2 * (8 + 8), 2 * 8 + 12)  # grid has 12 images in all
    # 4 and 2 normal images are held out, and a defect is drawn on a copy of each; no test image is read.
    searching = trials_of(
        {},
        1,
        **{"data.validation_fraction": 0.2, "data.validation_anomalies": "synthetic", "data.evaluate": "validation"},
    )
    assert work(searching, IMAGES, {}).forwards == ((20 + 4) + (8 + 2), 34)


def test_steps_of_an_epoch() -> None:
    (trial,) = trials_of({})
    keep = trial.config.training.model_copy(update={"batch_size": 8, "drop_last": False})
    drop = keep.model_copy(update={"drop_last": True})
    assert [steps_an_epoch(keep, n) for n in (1, 8, 9, 20)] == [1, 1, 2, 3]
    assert [steps_an_epoch(drop, n) for n in (1, 8, 9, 20)] == [1, 1, 1, 2]


def test_seconds_a_step_leave_out_trials_that_nobody_knows() -> None:
    (trial,) = trials_of({}, drop_last=False)
    epochs = [
        (trial.id, "leather", 3.0),
        (trial.id, "leather", 6.0),
        (trial.id, "grid", 0.5),
        ("stranger", "grid", 9.0),
    ]
    assert seconds_a_step(epochs, {trial.id: trial.config}, IMAGES) == {"leather": 9.0 / 6, "grid": 0.5}
