"""Interrupted sequences resume to the digits of uninterrupted ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from moleflow.cache.stage_state import Epoch
from moleflow.errors import Diverged
from moleflow.settings.config import TrialConfig
from moleflow.training.sequence import TaskReport

Config = Callable[..., TrialConfig]
Start = Callable[..., Any]
Leftovers = Callable[[Path], set[str]]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[:-100],
    "flipped": lambda content: content[:-5] + bytes([content[-5] ^ 4]) + content[-4:],
}
CUT_OFF = [("v3", "adamp", 0), ("v4", "adamw", 1)]


def test_a_stopped_sequence_resumes_to_the_digits_of_an_uninterrupted_one(
    start: Start, whole: Any, tmp_path: Path, config: Config, recorder: Any
) -> None:
    stopped = start(config(), tmp_path, recorder(stop_after=0))
    assert stopped.outcome.stopped
    assert {row["task"] for row in stopped.outcome.scores} == {0}
    assert stopped.rows() == whole.rows()[:1]
    resumed = start(config(), tmp_path)
    assert resumed.reused == [True, False, False]
    assert resumed.epochs == [(task, epoch) for task in (1, 2) for epoch in (1, 2)]
    assert resumed.digits() == whole.digits()
    again = start(config(), tmp_path)
    assert again.reused == [True, True, True]
    assert again.epochs == []
    assert again.digits() == whole.digits()
    cost = [report.seconds_reused for report in again.reports]
    assert all(seconds > 0 for seconds in cost)
    assert [row["seconds_reused"] for report in again.reports for row in report.metrics] == [
        cost[0],
        *[cost[1]] * 2,
        *[cost[2]] * 3,
    ]
    assert [report.seconds_reused for report in whole.reports] == [0.0, 0.0, 0.0]


def test_earlier_stages_are_bit_identical_after_later_tasks(
    start: Start, tmp_path: Path, config: Config, recorder: Any
) -> None:
    after: list[dict[str, bytes]] = []

    class Watcher(recorder):
        def on_task(self, report: TaskReport) -> bool:
            files = [path for path in tmp_path.rglob("*") if path.is_file()]
            after.append({str(path): path.read_bytes() for path in files})
            return recorder.on_task(self, report)

    start(config(), tmp_path, Watcher())
    assert [len(files) for files in after] == [4, 8, 12]  # Two files of a stage and two of its patch scores.
    for earlier, later in ((0, 1), (1, 2), (0, 2)):
        assert after[earlier].items() <= after[later].items()
    names = [set(load_file(path)) for path in tmp_path.rglob("state.safetensors")]
    assert sum(map(len, names)) == len(set.union(*names))  # no parameter belongs to two tasks


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_stage_is_trained_again_to_the_same_digits(
    start: Start, whole: Any, tmp_path: Path, damage: Callable[[bytes], bytes], config: Config
) -> None:
    start(config(), tmp_path)
    (path,) = [
        path.parent / "state.safetensors"
        for path in tmp_path.rglob("stage.json")
        if '"task": "nut"' in path.read_text()
    ]
    sound = path.read_bytes()
    path.write_bytes(damage(sound))
    again = start(config(), tmp_path)
    assert again.reused == [True, False, True]
    assert again.digits() == whole.digits()
    assert path.read_bytes() == sound


def stopping(recorder: Any, interruption: Any, stop_in: int) -> Any:
    """Return an observer with a `signal` that comes in the middle of the third epoch of a task."""

    class Stopping(recorder):
        signal = interruption()
        before = 0

        def on_epoch(self, task: int, epoch: Epoch) -> None:
            if (task, epoch.epoch) == (stop_in, 2):
                self.signal.at = self.signal.calls + (self.signal.calls - self.before) // 2
            self.before = self.signal.calls
            recorder.on_epoch(self, task, epoch)

    return Stopping()


@pytest.mark.parametrize(("version", "optimizer", "task"), CUT_OFF)
def test_a_sequence_stopped_in_the_middle_of_an_epoch_resumes_there_to_the_same_digits(
    start: Start,
    tmp_path: Path,
    version: str,
    optimizer: str,
    task: int,
    config: Config,
    recorder: Any,
    interruption: Any,
    leftovers: Leftovers,
) -> None:
    settings = config(version, epochs=4, optimizer=optimizer)
    undisturbed = start(settings)
    stopped = stopping(recorder, interruption, task)
    # It may come while a `no_grad` ends.
    with torch.enable_grad(), pytest.raises(interruption.Interrupted), stopped.signal:
        start(settings, tmp_path / "sound", stopped)
    assert stopped.epochs[-1] == (task, 2)
    (path,) = (tmp_path / "sound").rglob("*.checkpoint.safetensors")
    assert leftovers(tmp_path / "sound") == {path.name}
    later = [(number, epoch) for number in range(task + 1, 3) for epoch in (1, 2, 3, 4)]
    for name, damage in DAMAGE.items():
        copy = Path(shutil.copytree(tmp_path / "sound", tmp_path / name))
        (copy / path.relative_to(tmp_path / "sound")).write_bytes(damage(path.read_bytes()))
        anew = start(settings, copy)
        assert anew.epochs == [(task, epoch) for epoch in (1, 2, 3, 4)] + later
        assert anew.digits() == undisturbed.digits()
        assert leftovers(copy) == set()
    resumed = start(settings, tmp_path / "sound")
    assert resumed.epochs == [(task, 3), (task, 4), *later]
    assert resumed.reused == [True] * task + [False] * (3 - task)
    assert resumed.digits() == undisturbed.digits()
    assert leftovers(tmp_path / "sound") == set()
    # What the first attempt had spent on the first two epochs is not forgotten.
    seconds = [curve["seconds"] for curve in resumed.reports[task].curves]
    assert resumed.reports[task].seconds_reused == sum(seconds[:2])
    again = start(settings, tmp_path / "sound")
    assert again.reports[task].seconds_reused >= sum(seconds)


def test_a_sequence_that_diverges_leaves_no_checkpoint(
    start: Start, tmp_path: Path, config: Config, leftovers: Leftovers
) -> None:
    with pytest.raises(Diverged):
        start(config(learning_rate=1e30, gradient_clip=None, epochs=3), tmp_path, every=0.0)
    assert leftovers(tmp_path) == set()
