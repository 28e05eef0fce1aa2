"""The tree of distinct stages, and who leads whom through it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from moleflow.errors import InvalidInput
from moleflow.settings.config import TrialConfig, digest, reach
from orchestrator.execution.backend import SourceSignal
from orchestrator.execution.planned_trials import PlannedTrials
from orchestrator.plan.stage_tree import StageTree, stage_tree
from orchestrator.records.events import Event
from orchestrator.sweep import expansion
from orchestrator.sweep.sweep import make_sweep
from orchestrator.sweep.trial import Inputs, Trial

TASKS = ["leather", "grid", "transistor"]
BASE = {"extends": "demo", "data": {"tasks": TASKS}}
INPUTS = Inputs({task: f"digest of {task}" for task in TASKS}, "weights", "generated")


def trials_of(version: str, grid: dict[str, list[object]], seeds: int = 1, **more: object) -> list[Trial]:
    document = {"name": "tree", "version": version, "base": BASE, "grid": grid, "seeds": seeds, **more}
    return expansion.trials(make_sweep(document, "the test", Path(), data_root=None, environment={}), INPUTS)


def counts(trials: list[Trial]) -> tuple[int, int]:
    tree = stage_tree(trials)
    return tree.without_sharing, tree.distinct


def test_settings_that_only_score_share_all_training() -> None:
    assert counts(trials_of("v3", {"image_score": ["max", "top_k", "quantile"], "smoothing": [0.0, 4.0]}, 2)) == (36, 6)


def test_a_setting_without_reach_at_task_0_shares_it() -> None:
    assert counts(trials_of("v1", {"lora.scaling": [0.5, 1.0, 2.0]}, 2)) == (18, 2 * (1 + 3 * 2))


def test_task_orders_share_their_prefixes() -> None:
    orders = [["leather", "grid"], ["leather", "transistor"], ["grid", "leather"], ["leather", "grid", "transistor"]]
    assert counts(trials_of("v3", {"data.tasks": orders})) == (9, 1 + 2 + 2 + 1)


@pytest.mark.parametrize("axis", [{"learning_rate": [0.001, 0.01]}, {"blocks": [2, 4]}, {"train_images": [4, 8]}])
def test_what_reaches_the_first_task_shares_nothing(axis: dict[str, list[object]]) -> None:
    assert counts(trials_of("v3", axis)) == (6, 6)


def test_seeds_share_nothing() -> None:
    assert counts(trials_of("v3", {}, 3)) == (9, 9)


def test_other_images_of_a_later_task_share_what_comes_before() -> None:
    first, second = trials_of("v3", {"image_score": ["max", "top_k"]})
    elsewhere = Trial(second.id, second.config, {}, Inputs({**INPUTS.data, "grid": "edited"}, "weights", ""))
    other_weights = Trial("other", second.config, {}, Inputs(INPUTS.data, "others", ""))
    assert counts([first, elsewhere]) == (6, 5)
    assert counts([first, other_weights]) == (6, 6)


def test_trials_share_a_stage_exactly_where_equal_settings_reach_it_and_all_before_it() -> None:
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
    usual: dict[str, object] = {path: values[0] for path, values in choices.items()}
    configs = []
    for _ in range(300):
        some = {path: rng.choice(choices[path]) for path in rng.sample(sorted(choices), 5)}
        nested: dict[str, object] = {}
        for path, value in (usual | some).items():
            group, _, name = path.rpartition(".")
            of_group = nested.setdefault(group, {}) if group else nested
            assert isinstance(of_group, dict)
            of_group[name] = value
        configs.append(TrialConfig.model_validate(nested))
    # The later ones share groups with an earlier one, as the variants of a sweep do.
    configs += [c.model_copy(update={"loss": rng.choice(configs).loss}) for c in configs[:100]]
    trials = [Trial(f"{n:012x}", config, {}, INPUTS) for n, config in enumerate(configs)]
    chains = stage_tree(trials).chains
    said, expected = [], []
    for trial in trials:
        tasks = trial.config.data.tasks
        before: tuple[object, ...] = ()
        for k, task in enumerate(tasks):
            before = (*before, digest(reach(trial.config, "training", k)), INPUTS.data[task])
            said.append(chains[trial.id][k])
            expected.append(before)
    assert 100 < len(set(said)) < len(said) - 100
    assert len(set(zip(said, expected, strict=True))) == len(set(said)) == len(set(expected))


def test_a_trial_follows_the_first_that_goes_through_the_last_stage_they_share() -> None:
    tree = StageTree({"a": (0, 1, 2), "b": (0, 1, 3), "c": (0, 4), "d": (0, 1, 3), "e": (5,)})
    assert [tree.after(name) for name in "abcde"] == [(), ("a",), ("a",), ("b",), ()]


def constant(epochs: list[object], **grid: list[object]) -> list[Trial]:
    return trials_of("v3", {"epochs": epochs, **grid}, base=BASE | {"training": {"schedule": "constant"}})


def epochs_in(tree: StageTree, trials: list[Trial]) -> list[int]:
    by_id = {trial.id: trial.config.training.epochs for trial in trials}
    return [by_id[trial_id] for trial_id in tree.chains]


@pytest.mark.parametrize("order", [[20, 40, 80], [80, 40, 20], [40, 80, 20]])
def test_more_epochs_follow_the_next_fewer_whatever_order_they_are_given_in(order: list[object]) -> None:
    trials = constant(order)
    tree = stage_tree(trials)
    assert (tree.distinct, epochs_in(tree, trials)) == (9, [20, 40, 80])
    twenty, forty, eighty = tree.chains
    assert [tree.after(name) for name in tree.chains] == [(), (twenty,), (forty,)]
    assert list(tree.shorter(tree.chains[eighty][0])) == [tree.chains[forty][0], tree.chains[twenty][0]]
    # A stage that is shared to the end says more than one that is gone on from.
    scored = constant(order, image_score=["max", "top_k"])
    tree = stage_tree(scored)
    names = list(tree.chains)
    assert epochs_in(tree, scored) == [20, 20, 40, 40, 80, 80]
    assert [tree.after(name) for name in names] == [(), *[(names[n],) for n in (0, 0, 2, 2, 4)]]


def test_only_those_that_go_on_from_one_another_change_their_places() -> None:
    trials = constant([40, 20], learning_rate=[0.001, 0.01])
    others = trials_of("v3", {"epochs": [40, 20]})  # cosine
    mixed = [trials[0], others[0], trials[1], trials[2], others[1], trials[3]]
    tree = stage_tree(mixed)
    ordered = [{trial.id: trial for trial in mixed}[trial_id] for trial_id in tree.chains]
    assert ordered == [trials[2], others[0], trials[3], trials[0], others[1], trials[1]]
    assert all(not tree.after(trial.id) for trial in others)


def test_a_cosine_and_what_reaches_the_first_task_keep_more_epochs_from_going_on() -> None:
    trials = trials_of("v3", {"epochs": [20, 40]})
    (fewer,) = stage_tree(trials).fewer.values()
    assert (fewer.epochs, fewer.goes_on) == (20, False)
    either = trials_of("v3", {"epochs": [20, 40], "schedule": ["cosine", "constant"]})[1:3]
    assert [(t.config.training.epochs, t.config.training.schedule) for t in either] == [
        (20, "constant"),
        (40, "cosine"),
    ]
    assert not stage_tree(either).fewer
    assert not stage_tree([constant([20])[0], constant([40], learning_rate=[0.5])[0]]).fewer
    # What reaches later tasks alone does not.
    assert stage_tree(
        [
            constant([20])[0],
            trials_of("v3", {}, base=BASE | {"training": {"epochs": 40, "schedule": "constant", "warmup_epochs": 0}})[
                0
            ],
        ]
    ).fewer


def test_more_epochs_wait_until_the_first_task_of_fewer_is_trained() -> None:
    trials = constant([80, 40, 20])
    eighty, forty, twenty = trials
    search = PlannedTrials([twenty, forty, eighty], stage_tree(trials))
    assert (search.ask(), search.ask()) == (twenty, SourceSignal.WAIT)
    search.heard(twenty, Event("task", twenty.id, {"task": 0, "tasks": 3}))
    assert (search.ask(), search.ask()) == (forty, SourceSignal.WAIT)
    search.heard(forty, Event("task", forty.id, {"task": 0, "tasks": 3}))
    assert (search.ask(), search.ask()) == (eighty, SourceSignal.DONE)


@pytest.mark.parametrize("end", ["failed", "cancelled", "interrupted", "withdrawn", "pruned", "elsewhere"])
def test_fewer_epochs_that_are_over_strand_nobody(end: str) -> None:
    trials = constant([20, 40, 80])
    search = PlannedTrials(trials, stage_tree(trials))
    assert (search.ask(), search.ask()) == (trials[0], SourceSignal.WAIT)
    search.tell(trials[0], Event(end, trials[0].id))  # type: ignore[arg-type]
    assert (search.ask(), search.ask()) == (trials[1], SourceSignal.WAIT)


def test_followers_wait_until_their_stage_is_trained_and_others_go_first() -> None:
    a, b, other = [*trials_of("v1", {"lora.scaling": [0.5, 1.0]}), *trials_of("v3", {})]
    search = PlannedTrials([a, b, other], stage_tree([a, b, other]))
    assert [search.ask(), search.ask(), search.ask()] == [a, other, SourceSignal.WAIT]
    search.heard(other, Event("task", other.id, {"task": 0, "tasks": 3}))
    assert search.ask() is SourceSignal.WAIT
    search.heard(a, Event("task", a.id, {"task": 0, "tasks": 3}))
    assert [search.ask(), search.ask()] == [b, SourceSignal.DONE]


@pytest.mark.parametrize("end", ["failed", "cancelled", "interrupted", "withdrawn", "pruned", "finished", "elsewhere"])
def test_a_leader_that_is_over_strands_nobody_and_the_next_one_leads(end: str) -> None:
    trials = trials_of("v3", {"image_score": ["max", "top_k", "quantile"]})
    search = PlannedTrials(trials, stage_tree(trials))
    assert (search.ask(), search.ask()) == (trials[0], SourceSignal.WAIT)
    search.tell(trials[0], Event(end, trials[0].id))  # type: ignore[arg-type]
    assert search.ask() is trials[1]
    trained = end in ("finished", "elsewhere")
    assert search.ask() is (trials[2] if trained else SourceSignal.WAIT)


def test_nobody_waits_for_a_leader_that_another_process_is_at() -> None:
    trials = trials_of("v3", {"image_score": ["max", "top_k"]})
    search = PlannedTrials(trials, stage_tree(trials))
    assert (search.ask(), search.ask()) == (trials[0], SourceSignal.WAIT)
    search.heard(trials[0], Event("held", trials[0].id))
    assert search.ask() is trials[1]


def test_random_plans_are_given_out_once_and_no_stage_is_ever_trained_by_two_at_a_time() -> None:
    rng = random.Random(0)
    for _ in range(200):
        trials, chains = [], {}
        some = trials_of("v3", {}, rng.randint(1, 12))
        stages: dict[tuple[int, int], int] = {}
        for trial in some:
            chain: list[int] = []
            for _ in range(3):
                parent = chain[-1] if chain else -1
                chain.append(stages.setdefault((parent, rng.randint(0, 1)), len(stages)))
            trials.append(trial)
            chains[trial.id] = tuple(chain)
        search = PlannedTrials(trials, StageTree(chains))
        running: dict[str, tuple[Trial, int]] = {}
        trained: set[int] = set()
        given: list[str] = []
        while True:
            answer = search.ask() if len(running) < 3 else SourceSignal.WAIT
            if isinstance(answer, Trial):
                given.append(answer.id)
                running[answer.id] = (answer, 0)
                at = [next((s for s in chains[name] if s not in trained), None) for name in running]
                busy = [stage for stage in at if stage is not None]
                assert len(busy) == len(set(busy))
                continue
            if answer is SourceSignal.DONE and not running:
                break
            assert running, "it waits although nothing runs"
            name = rng.choice(list(running))
            trial, task = running[name]
            if rng.random() < 0.1:
                del running[name]
                search.tell(trial, Event("failed", name))
                continue
            trained.add(chains[name][task])
            search.heard(trial, Event("task", name, {"task": task, "tasks": 3}))
            running[name] = (trial, task + 1)
            if task == 2:
                del running[name]
                search.tell(trial, Event("finished", name))
        assert sorted(given) == sorted(chains)


def test_images_that_are_not_there_are_refused_before() -> None:
    with pytest.raises(InvalidInput, match="no images of 'leather'"):
        expansion.trials(
            make_sweep({"name": "x", "version": "v3", "base": "demo"}, "t", Path(), data_root=None, environment={}),
            Inputs({}, "", ""),
        )
