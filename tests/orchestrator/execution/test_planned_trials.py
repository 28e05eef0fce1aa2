"""The trials of a plan, one at a time: trials wait for stages that others are training."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

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
    sweep = make_sweep(document, "the test", Path(), data_root=None, environment={})
    return expansion.trials_of(sweep, expansion.expand(sweep).variants, lambda _: INPUTS)


def test_followers_wait_until_their_stage_is_trained_and_others_go_first() -> None:
    a, b, other = [*trials_of("v1", {"lora.scaling": [0.5, 1.0]}), *trials_of("v3", {})]
    search = PlannedTrials([a, b, other], stage_tree([a, b, other]))
    assert [search.ask(), search.ask(), search.ask()] == [a, other, SourceSignal.WAIT]
    search.on_event(other, Event("task", other.id, {"task": 0, "tasks": 3}))
    assert search.ask() is SourceSignal.WAIT
    search.on_event(a, Event("task", a.id, {"task": 0, "tasks": 3}))
    assert [search.ask(), search.ask()] == [b, SourceSignal.DONE]


@pytest.mark.parametrize("end", ["failed", "cancelled", "interrupted", "withdrawn", "pruned", "finished", "elsewhere"])
def test_after_the_end_of_a_leader_the_next_trial_leads(end: str) -> None:
    trials = trials_of("v3", {"image_score": ["max", "top_k", "quantile"]})
    search = PlannedTrials(trials, stage_tree(trials))
    assert (search.ask(), search.ask()) == (trials[0], SourceSignal.WAIT)
    search.tell(trials[0], Event(end, trials[0].id))  # type: ignore[arg-type]
    assert search.ask() is trials[1]
    trained = end in ("finished", "elsewhere")
    assert search.ask() is (trials[2] if trained else SourceSignal.WAIT)


def test_no_trial_waits_for_a_leader_that_another_process_is_running() -> None:
    trials = trials_of("v3", {"image_score": ["max", "top_k"]})
    search = PlannedTrials(trials, stage_tree(trials))
    assert (search.ask(), search.ask()) == (trials[0], SourceSignal.WAIT)
    search.on_event(trials[0], Event("held", trials[0].id))
    assert search.ask() is trials[1]


def test_random_plans_are_handed_out_once_and_no_two_trials_train_one_stage() -> None:
    rng = random.Random(0)
    twelve = trials_of("v3", {}, 12)
    for _ in range(200):
        trials, chains = [], {}
        some = twelve[: rng.randint(1, 12)]
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
            search.on_event(trial, Event("task", name, {"task": task, "tasks": 3}))
            running[name] = (trial, task + 1)
            if task == 2:
                del running[name]
                search.tell(trial, Event("finished", name))
        assert sorted(given) == sorted(chains)
