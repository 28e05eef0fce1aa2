"""The learning-rate schedule, reproducible randomness, and training that diverges."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from moleflow.config import Training, TrialConfig
from moleflow.errors import Diverged
from moleflow.knobs import Layer, resolve
from moleflow.models.detector import Detector
from moleflow.training import Randomness, learning_rate, train_task

SHAPE = (3, 3, 8)


def _config(**knobs: object) -> TrialConfig:
    return resolve([Layer("test", {"flow.blocks": 2, "lora.rank": 2, "epochs": 3, "batch_size": 4} | knobs)])


def _run(config: TrialConfig, features: torch.Tensor) -> tuple[dict[str, torch.Tensor], list, dict[str, torch.Tensor]]:
    randomness = Randomness(config.seed, "", 0)
    detector = Detector(config, SHAPE, randomness)
    detector.add_task(0, randomness)
    epochs, optimizer = train_task(detector, features, 0, config, randomness, lambda epoch: None)
    return detector.task_state(0), epochs, optimizer


def _features(count: int = 10) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))


def test_cosine_runs_from_the_peak_to_its_final_share() -> None:
    knobs = Training(epochs=10, learning_rate=1.0, final_fraction=0.01)
    rates = [learning_rate(knobs, 0, step, 5) for step in range(50)]
    assert rates[0] == 1.0
    assert rates[-1] == pytest.approx(0.01)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))


def test_later_tasks_warm_up() -> None:
    knobs = Training(epochs=10, learning_rate=1.0, warmup_epochs=2)
    rates = [learning_rate(knobs, 1, step, 5) for step in range(50)]
    assert rates[0] == pytest.approx(1 / 11)
    assert all(later > earlier for earlier, later in itertools.pairwise(rates[:11]))
    assert rates[10] == 1.0
    assert learning_rate(Training(epochs=1, warmup_epochs=5), 1, 0, 3) > 0


def test_constant_schedule_is_constant() -> None:
    assert {learning_rate(Training(schedule="constant", learning_rate=0.5), 0, step, 5) for step in range(200)} == {0.5}


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


def test_drop_last_leaves_out_the_incomplete_batch() -> None:
    _, _, dropped = _run(_config(drop_last=True), _features(10))
    _, _, kept = _run(_config(drop_last=False), _features(10))
    steps = {name.split("/")[-1]: int(value) for name, value in dropped.items() if name.endswith("/step")}
    assert steps == {"step": 3 * 2}
    assert {int(value) for name, value in kept.items() if name.endswith("/step")} == {3 * 3}


def test_fewer_images_than_a_batch_make_one_batch() -> None:
    _, epochs, _ = _run(_config(batch_size=64), _features(5))
    assert len(epochs) == 3


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
