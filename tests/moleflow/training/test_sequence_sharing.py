"""Trials share the stages that their difference does not reach."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from moleflow.cache.stage_state import Epoch
from moleflow.settings.config import TrialConfig

Config = Callable[..., TrialConfig]
Start = Callable[..., Any]


def test_trials_share_the_stages_that_their_difference_does_not_reach(
    start: Start, tmp_path: Path, config: Config
) -> None:
    half, double = config("v1"), config("v1", **{"lora.scaling": "alpha/rank"})
    first = start(half, tmp_path)
    shared, alone = start(double, tmp_path), start(double)
    assert shared.reused == [True, False, False]
    assert [report.seconds_reused > 0 for report in shared.reports] == [True, False, False]
    assert shared.digits() == alone.digits()
    assert shared.outcome.state_digest != first.outcome.state_digest

    scored = config("v1", image_score="max", smoothing=0.0, shrinkage="none")
    rescored = start(scored, tmp_path)
    assert rescored.reused == [True, True, True]
    assert rescored.outcome.state_digest == first.outcome.state_digest
    assert rescored.outcome.scores_digest != first.outcome.scores_digest
    assert rescored.digits() == start(scored).digits()


def test_gamma_0_and_centre_weight_0_are_v3_to_the_last_bit(start: Start, whole: Any, config: Config) -> None:
    forms = ("joint", "per_dim", "relative")
    same = [config("v7", focal_gamma=0.0, focal_form=form, focal_detach=form == "relative") for form in forms]
    for settings in [*same, config("v5", center_weight=0.0)]:
        trial = start(settings)
        assert trial.reused == [False, False, False]
        assert trial.rows() == whole.rows()
        assert trial.outcome == replace(whole.outcome, flags=trial.outcome.flags)
    for settings in (config("v7", focal_form="relative"), config("v5")):
        assert start(settings).outcome.state_digest != whole.outcome.state_digest


def test_a_setting_that_changes_no_number_gives_the_same_digits_on_every_task(start: Start, config: Config) -> None:
    """A knob without effect shows in equal digests: it is trained anew, from the same draws."""
    limitless, never_reached = (start(config(gradient_clip=limit)) for limit in (None, 1e9))
    assert never_reached.reused == [False, False, False]
    assert never_reached.digits() == limitless.digits()
    assert start(config(gradient_clip=0.1)).outcome.state_digest != limitless.outcome.state_digest


def test_another_seed_is_another_training_from_task_0_on(start: Start, whole: Any, config: Config) -> None:
    other = start(config(seed=1))
    assert all(a["state_digest"] != b["state_digest"] for a, b in zip(other.rows(), whole.rows(), strict=True))


def test_a_stage_belongs_to_the_tasks_before_it(start: Start, tmp_path: Path, config: Config) -> None:
    start(config(tasks=["bolt", "nut"], epochs=1), tmp_path)
    assert start(config(tasks=["seal", "nut"], epochs=1), tmp_path).reused == [False, False]
    assert start(config(tasks=["bolt", "nut"], epochs=1), tmp_path).reused == [True, True]


def test_waiting_for_another_worker_is_not_spent(start: Start, tmp_path: Path, config: Config, recorder: Any) -> None:
    settings, trains = config(tasks=["bolt"], epochs=2), threading.Event()

    class Slow(recorder):
        def on_epoch(self, task: int, epoch: Epoch) -> None:
            recorder.on_epoch(self, task, epoch)
            trains.set()
            time.sleep(0.3)

    other = threading.Thread(target=start, args=(settings, tmp_path, Slow()))
    other.start()
    assert trains.wait(60)
    begun = time.perf_counter()
    waited = start(settings, tmp_path)
    elapsed = time.perf_counter() - begun
    other.join()
    assert (waited.epochs, waited.reused) == ([], [True])
    assert waited.reports[0].seconds_spent < elapsed - 0.4
