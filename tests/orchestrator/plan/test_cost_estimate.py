"""The work of a plan with and without sharing, against counts made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.plan.cost_estimate import (
    ImageCounts,
    WorkEstimate,
    estimate_work,
    seconds_per_step,
    steps_per_epoch,
    steps_to_train,
)
from orchestrator.sweep import expansion
from orchestrator.sweep.sweep import make_sweep
from orchestrator.sweep.trial import Inputs, Trial

IMAGES = {"leather": ImageCounts(20, 10), "grid": ImageCounts(8, 4)}
INPUTS = Inputs({"leather": "a", "grid": "b"}, "weights", "generated")


def trials_of(grid: dict[str, list[object]], seeds: int = 1, **settings: object) -> list[Trial]:
    base = {"extends": "demo", "data.tasks": [*IMAGES], "training.epochs": 3, "training.batch_size": 8, **settings}
    document = {"name": "work", "version": "v3", "base": base, "grid": grid, "seeds": seeds}
    sweep = make_sweep(document, "the test", Path(), data_root=None, environment={})
    return expansion.trials_of(sweep, expansion.expand(sweep).variants, lambda _: INPUTS)


def test_scoring_shares_everything_and_seeds_share_features() -> None:
    found = estimate_work(trials_of({"image_score": ["max", "top_k"]}, 2), IMAGES, {})
    assert found == WorkEstimate(stages=(8, 4), forwards=(4 * 42, 42), hours=None)


def test_hours_count_each_distinct_stage_once_by_its_own_steps() -> None:
    trials = trials_of({"image_score": ["max", "top_k"]}, drop_last=False)
    found = estimate_work(trials, IMAGES, {"leather": 2.0, "grid": 10.0})
    one = (3 * 3 * 2.0 + 3 * 1 * 10.0) / 3600
    assert found.hours == pytest.approx((2 * one, one))
    assert estimate_work(trials, IMAGES, {"leather": 2.0}).hours is None


def test_stages_that_are_trained_cost_nothing() -> None:
    done, left = trials_of({"image_score": ["max", "top_k"]})
    found = estimate_work([left], IMAGES, {"leather": 1.0, "grid": 1.0}, there=[done])
    assert (found.stages, found.hours and found.hours[1]) == ((2, 0), 0.0)


def test_features_of_two_backbones_are_two() -> None:
    assert estimate_work(trials_of({"backbone.grid": [7, 14]}), IMAGES, {}).forwards == (84, 84)


def test_limits_and_held_out_images_count() -> None:
    limited = trials_of({}, 2, **{"data.train_images": 5, "data.test_images": 3})
    assert estimate_work(limited, IMAGES, {}).forwards == (2 * (8 + 8), 2 * 8 + 12)  # grid has 12 images in all
    # 4 and 2 normal images are held out, and each gets a copy with a defect; no test image is read.
    searching = trials_of(
        {},
        1,
        **{"data.validation_fraction": 0.2, "data.validation_anomalies": "synthetic", "data.evaluate": "validation"},
    )
    assert estimate_work(searching, IMAGES, {}).forwards == ((20 + 4) + (8 + 2), 34)


def test_validation_images_are_read_only_if_they_are_evaluated() -> None:
    held_out = {"data.validation_fraction": 0.2}
    # Of 20 and 8 normal images 4 and 2 are held out; there are 10 and 4 test images.
    assert estimate_work(trials_of({}, **held_out, **{"data.evaluate": "test"}), IMAGES, {}).forwards[0] == 26 + 10
    assert estimate_work(trials_of({}, **held_out, **{"data.evaluate": "all"}), IMAGES, {}).forwards[0] == 30 + 12


def test_a_small_share_still_holds_out_one_image() -> None:
    tenth = trials_of({}, **{"data.validation_fraction": 0.05, "data.evaluate": "all"})
    few = {"leather": ImageCounts(9, 1), "grid": ImageCounts(30, 1)}  # 0.45 and 1.5 images: 1 and 2
    assert estimate_work(tenth, few, {}).forwards[0] == (8 + 1 + 1) + (28 + 2 + 1)


def test_held_out_images_are_not_trained_on() -> None:
    (trial,) = trials_of({}, drop_last=False, **{"data.validation_fraction": 0.2})
    # 16 and 6 images in batches of 8: 2 steps and 1 step in each of 3 epochs.
    assert steps_to_train([trial], IMAGES) == {trial.id: 3 * (2 + 1)}


def test_the_first_trial_through_a_stage_trains_it() -> None:
    # 20 and 8 images in batches of 8: 3 steps and 1 step in each of 3 epochs.
    first, same = trials_of({"image_score": ["max", "top_k"]}, drop_last=False)
    other = trials_of({"focal_gamma": [1.0]}, drop_last=False)[0]
    found = steps_to_train([first, same, other], IMAGES)
    assert found == {first.id: 12.0, same.id: 0.0, other.id: 12.0}
    assert steps_to_train([first, other], IMAGES, there=[same]) == {first.id: 0.0, other.id: 12.0}


def test_steps_of_an_epoch() -> None:
    (trial,) = trials_of({})
    keep = trial.config.training.model_copy(update={"batch_size": 8, "drop_last": False})
    drop = keep.model_copy(update={"drop_last": True})
    assert [steps_per_epoch(keep, n) for n in (1, 8, 9, 20)] == [1, 1, 2, 3]
    assert [steps_per_epoch(drop, n) for n in (1, 8, 9, 20)] == [1, 1, 1, 2]


def test_epochs_of_unknown_trials_and_tasks_are_left_out() -> None:
    (trial,) = trials_of({}, drop_last=False)
    epochs = [
        (trial.id, "leather", 3.0),
        (trial.id, "leather", 6.0),
        (trial.id, "grid", 0.5),
        ("unknown", "grid", 9.0),
        (trial.id, "bottle", 9.0),
    ]
    assert seconds_per_step(epochs, {trial.id: trial.config}, IMAGES) == {"leather": 9.0 / 6, "grid": 0.5}


def test_a_task_of_several_classes_trains_on_the_images_of_all() -> None:
    (trial,) = trials_of({}, drop_last=False, **{"data.tasks": [["leather", "grid"]]})
    # 28 images in batches of 8: 4 steps in each of 3 epochs.
    assert steps_to_train([trial], IMAGES) == {trial.id: 12.0}
    assert seconds_per_step([(trial.id, "leather+grid", 2.0)], {trial.id: trial.config}, IMAGES) == {
        "leather+grid": 0.5
    }
    found = estimate_work([trial], IMAGES, {"leather+grid": 0.5})
    assert (found.stages, found.forwards) == ((1, 1), (42, 42))
    assert found.hours == pytest.approx((6 / 3600, 6 / 3600))
