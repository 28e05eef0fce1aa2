"""The tree of distinct stages, and the order in which trials go through it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from moleflow.settings.config import TrialConfig, digest, reach
from orchestrator.plan.stage_tree import StageTree, stage_tree
from orchestrator.sweep import expansion
from orchestrator.sweep.sweep import make_sweep
from orchestrator.sweep.trial import Inputs, Trial

TASKS = ["leather", "grid", "transistor"]
BASE = {"extends": "demo", "data": {"tasks": TASKS}}
INPUTS = Inputs({task: f"digest of {task}" for task in TASKS}, "weights", "generated")


def trials_of(version: str, grid: dict[str, list[object]], seeds: int = 1, **more: object) -> list[Trial]:
    document = {"name": "tree", "version": version, "base": BASE, "grid": grid, "seeds": seeds, **more}
    sweep = make_sweep(document, "the test", Path(), data_root=None, environment={})
    return expansion.trials_of(sweep, expansion.expand(sweep).variants, lambda _: INPUTS)


def counts(trials: list[Trial]) -> tuple[int, int]:
    """The stages of all trials: each counted for every trial, and the distinct ones."""
    stages = [stage for chain in stage_tree(trials).chains.values() for stage in chain]
    return len(stages), len(set(stages))


def test_settings_that_only_score_share_all_training() -> None:
    assert counts(trials_of("v3", {"image_score": ["max", "top_k", "quantile"], "smoothing": [0.0, 4.0]}, 2)) == (36, 6)


def test_a_setting_that_does_not_reach_task_0_shares_task_0() -> None:
    assert counts(trials_of("v1", {"lora.scaling": [0.5, 1.0, 2.0]}, 2)) == (18, 2 * (1 + 3 * 2))


def test_task_orders_share_their_prefixes() -> None:
    orders = [["leather", "grid"], ["leather", "transistor"], ["grid", "leather"], ["leather", "grid", "transistor"]]
    assert counts(trials_of("v3", {"data.tasks": orders})) == (9, 1 + 2 + 2 + 1)


@pytest.mark.parametrize("axis", [{"learning_rate": [0.001, 0.01]}, {"blocks": [2, 4]}, {"train_images": [4, 8]}])
def test_a_setting_that_reaches_the_first_task_shares_nothing(axis: dict[str, list[object]]) -> None:
    assert counts(trials_of("v3", axis)) == (6, 6)


def test_seeds_share_nothing() -> None:
    assert counts(trials_of("v3", {}, 3)) == (9, 9)


def test_changed_images_of_a_later_task_share_the_earlier_stages() -> None:
    first, second = trials_of("v3", {"image_score": ["max", "top_k"]})
    elsewhere = Trial(second.id, second.config, {}, Inputs({**INPUTS.data, "grid": "edited"}, "weights", ""))
    other_weights = Trial("other", second.config, {}, Inputs(INPUTS.data, "others", ""))
    assert counts([first, elsewhere]) == (6, 5)
    assert counts([first, other_weights]) == (6, 6)


def test_trials_share_a_stage_exactly_if_equal_settings_reach_it_and_all_before_it() -> None:
    rng = random.Random(1)
    choices: dict[str, list[object]] = {
        "data.tasks": [["leather"], ["leather", "grid"], ["leather", "grid", "transistor"], ["grid", "leather"]],
        "data.validation_fraction": [0.0, 0.2],
        "data.validation_seed": [0, 1],
        "backbone.projection_seed": [0, 1],
        "features.position_scale": [1.0, 2.0],
        "features.position": [True, False],
        "flow.cpcf": [True, False],
        "flow.permutation": ["soft", "hard"],
        "lora.task0": [True, False],
        "lora.scaling": ["alpha/rank", 1.0, 2.0],
        "adapter.enabled": [True, False],
        "adapter.task0_identity": [0.5, 0.9],
        "attention.enabled": [True, False],
        "attention.hidden": [64, 256],
        "loss.focal_gamma": [0.0, 2.0],
        "loss.focal_form": ["joint", "relative"],
        "training.warmup_epochs": [0, 2],
        "training.schedule": ["cosine", "constant"],
        "training.final_fraction": [0.0, 0.01],
        "scoring.smoothing": [0.0, 4.0],
        "seed": [0, 1],
    }
    defaults: dict[str, object] = {path: values[0] for path, values in choices.items()}
    configs = []
    for _ in range(300):
        some = {path: rng.choice(choices[path]) for path in rng.sample(sorted(choices), 5)}
        nested: dict[str, object] = {}
        for path, value in (defaults | some).items():
            group, _, name = path.rpartition(".")
            of_group = nested.setdefault(group, {}) if group else nested
            assert isinstance(of_group, dict)
            of_group[name] = value
        configs.append(TrialConfig.model_validate(nested))
    # The later ones share groups with an earlier one, as the variants of a sweep do.
    configs += [c.model_copy(update={"loss": rng.choice(configs).loss}) for c in configs[:100]]
    trials = [Trial(f"{n:012x}", config, {}, INPUTS) for n, config in enumerate(configs)]
    chains = stage_tree(trials).chains
    stages, expected = [], []
    for trial in trials:
        tasks = trial.config.data.tasks
        before: tuple[object, ...] = ()
        for k, task in enumerate(tasks):
            before = (*before, digest(reach(trial.config, "training", k)), INPUTS.data[task])
            stages.append(chains[trial.id][k])
            expected.append(before)
    assert 100 < len(set(stages)) < len(stages) - 100
    assert len(set(zip(stages, expected, strict=True))) == len(set(stages)) == len(set(expected))


def test_a_trial_follows_the_first_one_through_the_last_stage_they_share() -> None:
    tree = StageTree({"a": (0, 1, 2), "b": (0, 1, 3), "c": (0, 4), "d": (0, 1, 3), "e": (5,)})
    assert [tree.after(name) for name in "abcde"] == [(), ("a",), ("a",), ("b",), ()]


def test_a_task_of_several_classes_is_one_stage_in_any_order_of_its_classes() -> None:
    joint = [[["leather", "grid"], "transistor"], [["grid", "leather"], "transistor"], ["leather", "grid"]]
    first, turned, single = trials_of("v3", {"data.tasks": joint})
    assert counts([first]) == (2, 2)
    assert counts([first, turned]) == (4, 2)
    assert counts([first, single]) == (4, 4)
