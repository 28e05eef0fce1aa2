"""--dry-run finds trials that would fail, in one training step per task, and keeps nothing."""

from __future__ import annotations

import json
import re

import pytest

from moleflow.settings.config import TrialConfig
from orchestrator.driver.dry_run import cut_short, distinct_computations
from orchestrator.sweep.trial import Inputs, Trial


def left(place):
    return sorted(path.name for path in place.iterdir())


def test_a_sound_sweep_passes_and_nothing_is_kept(place, command):
    before = left(place)
    ended = command("sweep.yaml", "--dry-run")
    assert ended.code == 0
    assert "2 distinct computations of 4 trials" in ended.out
    assert "2 of 2 passed, nothing was kept" in ended.out
    assert sorted(set(left(place)) - set(before)) in ([], ["cache"])
    assert {path.name for path in (place / "cache").iterdir()} <= {"digests.json", "backbones", "costs"}
    memory = (
        r"memory:   the largest trial takes [\d.e-]+ GB on its device, besides its process \(counted from the tensors"
    )
    assert re.search(memory, ended.out)
    (expected,) = [line for line in ended.out.splitlines() if line.startswith("expected: ")]
    assert re.fullmatch(r"expected: about .* of training and features with 1 worker on this machine, by .*", expected)
    assert expected in command("plan", "sweep.yaml").out.splitlines()


def test_the_time_of_a_plan_follows_from_the_step_that_a_dry_run_timed(place, command):
    assert "not known before a first trial has trained" in command("plan", "sweep.yaml").out
    assert command("sweep.yaml", "--dry-run", "--quiet").code == 0
    costs = list((place / "cache/costs").iterdir())
    for path in costs:  # 60 s a step and none for features.
        path.write_text(json.dumps(json.loads(path.read_text()) | {"step_seconds": 60.0, "image_seconds": 0.0}))
    planned = json.loads(command("plan", "sweep.yaml", "--json").out)["to_do"]
    assert planned["hours"] is None
    # 3 batches of 4 in 12 images, 2 epochs, 2 tasks, 4 trials: 48 steps.
    assert planned["by_a_step"] == 48 * 60.0
    said = "expected: about 48 min of training and features with 1 worker"
    assert said in command("plan", "sweep.yaml").out
    for path in costs:
        path.write_text("{}")  # As other code may leave it.
    assert "not known before a first trial has trained" in command("plan", "sweep.yaml").out


def test_the_variant_that_would_fail_is_named_and_the_others_are_tried(place, command, edit):
    diverging = {"learning_rate": 1e30, "optimizer": "adamw", "gradient_clip": None}
    edit(grid=None, list=[{"focal_gamma": 0}, diverging, {"focal_gamma": 2}], report=None)
    ended = command("sweep.yaml", "--dry-run")
    assert ended.code == 1
    named = [line for line in ended.out.splitlines() if line.startswith("would fail: ")]
    assert len(named) == 1
    assert "learning_rate=1e+30" in named[0]
    assert ": Diverged: " in named[0]
    assert "2 of 3 passed, nothing was kept" in ended.out
    assert not (place / "results").exists()


@pytest.fixture
def trial():
    settings = {"training": {"epochs": 40, "batch_size": 8}, "data": {"validation_fraction": 0.25}}
    return Trial("0123456789ab", TrialConfig.model_validate(settings), {}, Inputs({}, "", ""))


def test_one_step_a_task_and_one_scored_batch_at_the_same_shapes(trial):
    short = cut_short(trial).config
    assert (short.training.epochs, short.training.batch_size) == (1, 8)
    assert (short.data.train_images, short.data.test_images) == (8, 8)
    kept = {"training": {"epochs"}, "data": {"train_images", "test_images"}}
    assert short.model_dump(exclude=kept) == trial.config.model_dump(exclude=kept)
    assert TrialConfig.model_validate(short.model_dump()) == short


def test_what_is_smaller_than_a_batch_stays_as_small(trial):
    data = trial.config.data.model_copy(update={"train_images": 3, "test_images": 4})
    small = Trial(trial.id, trial.config.model_copy(update={"data": data}), {}, trial.inputs)
    assert (cut_short(small).config.data.train_images, cut_short(small).config.data.test_images) == (3, 4)


def test_seeds_are_no_computations_of_their_own(trial):
    seeds = [Trial(f"{n:012x}", trial.config.model_copy(update={"seed": n}), {}, trial.inputs) for n in range(3)]
    other = Trial("f" * 12, trial.config.model_copy(update={"version": "v3"}), {}, trial.inputs)
    assert distinct_computations([*seeds, other]) == [seeds[0], other]
