"""The learning-rate schedule, reproducible randomness, training that is cut off and goes on, and training that diverges."""

from __future__ import annotations

import itertools
import math
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from moleflow.cache.stage_state import Checkpoint, Epoch, state_digest
from moleflow.errors import Diverged
from moleflow.models.detector import Detector
from moleflow.settings.config import TrainingKnobs, TrialConfig
from moleflow.settings.knobs import Layer, resolve, version_layer
from moleflow.training.train_task import Randomness, learning_rate, train_task

SHAPE = (3, 3, 8)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As trials compute; more would only wait for each other on tensors this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _config(version: str = "v3", **knobs: object) -> TrialConfig:
    small = {"flow.blocks": 2, "lora.rank": 2, "epochs": 3, "batch_size": 4}
    return resolve([version_layer(version, "test"), Layer("test", small | knobs)])


def _run(
    config: TrialConfig, features: torch.Tensor
) -> tuple[dict[str, torch.Tensor], list[Epoch], dict[str, torch.Tensor]]:
    randomness = Randomness(config.seed, "", 0)
    detector = Detector(config, SHAPE, randomness)
    detector.add_task(0, randomness)
    reached = train_task(detector, features, 0, config, randomness, lambda epoch: None)
    return detector.task_state(0), list(reached.epochs), reached.optimizer


def _features(count: int = 10) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))


def test_cosine_runs_from_the_peak_to_its_final_share() -> None:
    knobs = TrainingKnobs(epochs=10, learning_rate=1.0, final_fraction=0.01)
    rates = [learning_rate(knobs, 0, step, 5) for step in range(50)]
    assert rates[0] == 1.0
    assert rates[-1] == pytest.approx(0.01)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))


def test_later_tasks_warm_up() -> None:
    knobs = TrainingKnobs(epochs=10, learning_rate=1.0, warmup_epochs=2)
    rates = [learning_rate(knobs, 1, step, 5) for step in range(50)]
    assert rates[0] == pytest.approx(1 / 11)
    assert all(later > earlier for earlier, later in itertools.pairwise(rates[:11]))
    assert rates[10] == 1.0
    assert learning_rate(TrainingKnobs(epochs=1, warmup_epochs=5), 1, 0, 3) > 0


def test_constant_schedule_is_constant() -> None:
    assert {
        learning_rate(TrainingKnobs(schedule="constant", learning_rate=0.5), 0, step, 5) for step in range(200)
    } == {0.5}


@pytest.mark.parametrize("optimizer", ["adamp", "adamw"])
def test_same_seed_same_digits_another_seed_others(optimizer: str) -> None:
    first, epochs, _ = _run(_config(optimizer=optimizer), _features())
    torch.manual_seed(12345)
    second, _, _ = _run(_config(optimizer=optimizer), _features())
    assert all(torch.equal(first[name], second[name]) for name in first)
    other, _, _ = _run(_config(optimizer=optimizer, seed=1), _features())
    assert not torch.equal(
        first["flow.blocks.0.block.subnet.0.base.weight"], other["flow.blocks.0.block.subnet.0.base.weight"]
    )
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3]
    assert epochs[-1].loss < epochs[0].loss


@pytest.mark.parametrize(("version", "task"), [("v3", 0), ("v3", 1), ("v4", 0)])
def test_products_in_bfloat16_train_near_the_same_and_leave_scores_in_float32(version: str, task: int) -> None:
    """What is trained stays float32 too; 2^-8 is how far bfloat16 rounds."""
    losses = {}
    for products in ("float32", "bfloat16"):
        config = _config(version, **{"training.products": products})
        base = train_task(_prepared(config, 0, None), _features(), 0, config, Randomness(0, "", 0), lambda epoch: None)
        detector = _prepared(config, task, base.state)
        reached = train_task(detector, _features(), task, config, Randomness(0, "", task), lambda epoch: None)
        losses[products] = [epoch.loss for epoch in reached.epochs]
        assert {layer.products for layer in detector.flow.layers()} == {None}
        assert {tensor.dtype for tensor in reached.state.values()} == {torch.float32}
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=2**-8)


def test_drop_last_leaves_out_the_incomplete_batch() -> None:
    _, _, dropped = _run(_config(drop_last=True), _features(10))
    _, _, kept = _run(_config(drop_last=False), _features(10))
    steps = {name.split("/")[-1]: int(value) for name, value in dropped.items() if name.endswith("/step")}
    assert steps == {"step": 3 * 2}
    assert {int(value) for name, value in kept.items() if name.endswith("/step")} == {3 * 3}


def test_fewer_images_than_a_batch_make_one_batch() -> None:
    _, epochs, _ = _run(_config(batch_size=64), _features(5))
    assert len(epochs) == 3


class Stopped(BaseException):
    """What a signal's handler raises."""


class Signal(TorchFunctionMode):
    """Raises `Stopped` at call number `at` of a torch function, as a signal may come between any two of them."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__()
        self.calls, self.at = 0, at

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        if self.calls == self.at:
            raise Stopped
        return func(*args, **(kwargs or {}))


def _prepared(config: TrialConfig, task: int, base: dict[str, torch.Tensor] | None) -> Detector:
    """A detector as it is before `task` is trained; `base` is the state of task 0."""
    for number in range(task + 1):
        randomness = Randomness(config.seed, "", number)
        if number == 0:
            detector = Detector(config, SHAPE, randomness)
        detector.add_task(number, randomness)
        detector.measure(number, _features())
        if number < task:
            detector.load_task_state(number, base or {})
    return detector


def _same(first: Checkpoint, second: Checkpoint) -> bool:
    figures = [[replace(epoch, seconds=0.0) for epoch in one.epochs] for one in (first, second)]
    digests = [(state_digest(one.state), state_digest(one.optimizer)) for one in (first, second)]
    return figures[0] == figures[1] and digests[0] == digests[1]


@pytest.mark.parametrize("optimizer", ["adamp", "adamw"])
@pytest.mark.parametrize(("version", "task"), [("v3", 0), ("v3", 1), ("v4", 0), ("v4", 1), ("v6", 0), ("v6", 1)])
def test_training_that_is_cut_off_anywhere_goes_on_to_the_same_digits(version: str, optimizer: str, task: int) -> None:
    config = _config(version, optimizer=optimizer, **{"features.standardise": "per_task"})
    base = train_task(_prepared(config, 0, None), _features(), 0, config, Randomness(0, "", 0), lambda epoch: None)
    randomness = Randomness(0, "", task)
    detector = _prepared(config, task, base.state)
    with Signal() as signal:
        expected = train_task(detector, _features(), task, config, randomness, lambda epoch: None)
    assert state_digest(detector.task_state(task)) == state_digest(expected.state)
    where, begun = set(), set()
    for part in range(1, 12):
        kept: list[Checkpoint | None] = [None]
        cut_off = _prepared(config, task, base.state)
        # It may come while a `no_grad` ends, and this process goes on.
        with torch.enable_grad(), pytest.raises(Stopped) as stopped, Signal(signal.calls * part // 12):
            train_task(cut_off, _features(), task, config, randomness, lambda epoch: None, keep=kept.append)
        where |= {frame.name for frame in traceback.extract_tb(stopped.value.__traceback__)}
        told: list[Epoch] = []
        detector = _prepared(config, task, base.state)
        found = train_task(detector, _features(), task, config, randomness, told.append, kept[-1])
        assert [epoch.epoch for epoch in told] == [1, 2, 3][len(kept) - 1 :]
        assert _same(found, expected)
        assert state_digest(detector.task_state(task)) == state_digest(expected.state)
        begun.add(told[0].epoch)
    assert begun == {1, 2, 3}
    assert "step" in where


def test_what_an_epoch_reached_is_not_touched_by_later_ones() -> None:
    config, randomness = _config(), Randomness(0, "", 0)
    kept: list[Checkpoint] = []
    digests: list[str] = []

    def keep(reached: Checkpoint) -> None:
        kept.append(reached)
        digests.append(state_digest(reached.state) + state_digest(reached.optimizer))

    train_task(_prepared(config, 0, None), _features(), 0, config, randomness, lambda epoch: None, keep=keep)
    train_task(_prepared(config, 0, None), _features(), 0, config, randomness, lambda epoch: None, kept[0], keep)
    assert [state_digest(one.state) + state_digest(one.optimizer) for one in kept] == digests
    assert digests[3:] == digests[1:3]
    assert len(set(digests)) == 3


def test_training_that_was_whole_already_trains_nothing() -> None:
    config, randomness = _config(), Randomness(0, "", 0)
    whole = train_task(_prepared(config, 0, None), _features(), 0, config, randomness, lambda epoch: None)
    detector, kept, told = _prepared(config, 0, None), [], []
    again = train_task(detector, _features(), 0, config, randomness, told.append, whole, kept.append)
    assert again is whole
    assert (kept, told) == ([], [])
    assert state_digest(detector.task_state(0)) == state_digest(whole.state)


@pytest.mark.parametrize("learning_rate", [1e30])
def test_divergence_names_the_task_and_the_epoch(learning_rate: float) -> None:
    with pytest.raises(Diverged, match=r"task 0 \(leather\): the loss became .* in epoch \d of 3"):
        _run(_config(learning_rate=learning_rate, optimizer="adamw", gradient_clip=None), _features())


def test_generators_are_named_and_independent() -> None:
    one = Randomness(0, "p", 1)
    assert torch.equal(torch.rand(4, generator=one("a")), torch.rand(4, generator=one("a")))
    draws = {
        float(torch.rand(1, generator=randomness(name)))
        for randomness in (one, Randomness(1, "p", 1), Randomness(0, "q", 1), Randomness(0, "p", 2))
        for name in ("a", "b")
    }
    assert len(draws) == 8
    assert all(math.isfinite(draw) for draw in draws)
