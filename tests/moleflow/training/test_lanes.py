"""Variants that train as lanes of one batched flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from moleflow.errors import Diverged
from moleflow.settings.config import TrialConfig
from moleflow.settings.knobs import Layer, resolve, version_layer, version_names
from moleflow.training.lanes import train_lanes
from moleflow.training.train_task import Randomness, TaskTraining, new_detector, train_task

LANES = 3
TOLERANCE = 1e-3
"""Largest difference of a parameter after 6 steps from its own training: 5e-4 was the most seen, in
v6 at the larger learning rate. AdamP's first steps have the size of the learning rate whatever the
gradient, so rounding in a gradient near zero shows."""
States = dict[int, dict[str, torch.Tensor]]


def _config(version: str, **knobs: Any) -> TrialConfig:
    small = {"flow.blocks": 2, "lora.rank": 2, "epochs": 2, "batch_size": 4, "lanes": LANES}
    if version == "decoflow":
        small["auxiliary.couplings"] = 2
    return resolve([version_layer(version, "test"), Layer("test", small | knobs)])


def _variants(version: str) -> list[TrialConfig]:
    others: list[dict[str, Any]] = [{"focal_gamma": 1.5, "learning_rate": 1e-3}, {"lora.scaling": 0.7}]
    return [_config(version), *[_config(version, **knobs) for knobs in others]]


def _features(task: int) -> torch.Tensor:
    return torch.randn(11, 5, 5, 12, generator=torch.Generator().manual_seed(task))


def _training(config: TrialConfig, task: int, states: States, kept: list[Any] | None = None) -> TaskTraining:
    detector = new_detector(config, _features(0), Randomness(0, "", 0), torch.device("cpu"))
    for position in range(task + 1):
        detector.add_task(position, Randomness(0, "", position))
        if position < task:
            detector.load_task_state(position, states[position])
    detector.measure(task, _features(task))
    keep = (lambda checkpoint: None) if kept is None else kept.append
    randomness = Randomness(0, "", task)
    return TaskTraining(detector, _features(task), task, config, randomness, lambda epoch: None, None, keep)


def _in_lanes(variants: Sequence[TrialConfig], tasks: int = 2) -> list[States]:
    states: list[States] = [{} for _ in variants]
    for task in range(tasks):
        trainings = [_training(config, task, of) for config, of in zip(variants, states, strict=True)]
        assert train_lanes(trainings, LANES) == [None] * len(variants)
        for of, training in zip(states, trainings, strict=True):
            of[task] = training.checkpoint.state
    return states


def _alone(config: TrialConfig, tasks: int = 2) -> States:
    states: States = {}
    for task in range(tasks):
        detector = _training(config, task, states).detector
        randomness = Randomness(0, "", task)
        states[task] = train_task(detector, _features(task), task, config, randomness, lambda epoch: None).state
    return states


@pytest.mark.parametrize("version", version_names())
def test_every_version_trains_in_lanes_as_alone_up_to_rounding(version: str) -> None:
    variants = _variants(version)
    for config, states in zip(variants, _in_lanes(variants), strict=True):
        for task, state in _alone(config).items():
            for name, tensor in state.items():
                torch.testing.assert_close(states[task][name], tensor, atol=TOLERANCE, rtol=0.0, msg=name)


@pytest.mark.parametrize("version", ["v3", "v4", "v6", "decoflow"])
def test_a_lanes_digits_depend_neither_on_its_place_nor_on_its_neighbours(version: str) -> None:
    first, second, third = _variants(version)
    together = _in_lanes([first, second, third])
    turned = _in_lanes([third, first])
    single = _in_lanes([second])
    for one, other in ((together[0], turned[1]), (together[2], turned[0]), (together[1], single[0])):
        for task, state in one.items():
            assert all(torch.equal(tensor, other[task][name]) for name, tensor in state.items())


def test_a_lane_that_ends_early_is_left_as_it_is_and_the_others_go_on() -> None:
    short, long = _config("v3", epochs=1), _config("v3", epochs=3, focal_gamma=1.0)
    kept: list[Any] = []
    ended, other = _training(short, 0, {}), _training(long, 0, {}, kept)
    assert train_lanes([ended, other], LANES) == [None, None]
    assert [len(training.checkpoint.epochs) for training in (ended, other)] == [1, 3]
    assert [len(checkpoint.epochs) for checkpoint in kept] == [1, 2, 3]
    expected = _in_lanes([short], tasks=1)[0][0], _in_lanes([long], tasks=1)[0][0]
    for training, state in zip((ended, other), expected, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in training.checkpoint.state.items())


def test_an_early_end_leaves_the_dropout_of_the_other_lanes_as_it_is() -> None:
    short, long = _config("v6", epochs=1), _config("v6", epochs=3)
    assert long.attention.enabled and long.attention.dropout > 0
    ended, other = _training(short, 0, {}), _training(long, 0, {})
    train_lanes([ended, other], LANES)
    expected = _in_lanes([long], tasks=1)[0][0]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in other.checkpoint.state.items())


def test_a_lane_that_diverges_ends_alone() -> None:
    wild, tame = _config("v3", learning_rate=1e9, gradient_clip=None, epochs=4), _config("v3", epochs=4)
    trainings = [_training(wild, 0, {}), _training(tame, 0, {})]
    diverged, fine = train_lanes(trainings, LANES)
    assert isinstance(diverged, Diverged)
    assert fine is None
    expected = _in_lanes([tame], tasks=1)[0][0]
    state = trainings[1].checkpoint.state
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())
