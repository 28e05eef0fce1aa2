"""Pruners: they compare equal tasks and seeds, and a stopped configuration stays stopped."""

from __future__ import annotations

import math

import pytest

from orchestrator.execution.backend import SourceSignal
from orchestrator.search.samplers import with_last_step_only
from orchestrator.search.tried_trials import trials_of_study
from orchestrator.sweep.trial import Trial

EASY, HARD = 0.9, 0.5  # Values of ordinary configurations on the first and second task.


def quality(trial):
    """A quality that is best at a learning rate of 0.01, for every seed."""
    return 0.2 * (1 - abs(math.log10(trial.config.training.learning_rate) + 2) / 2)


def run(one):
    """Run a search with one worker, task by task, and return the ids of its trials in order."""
    given = []
    while isinstance(trial := one.search.ask(), Trial):
        given.append(trial.id)
        for number, level in enumerate((EASY, HARD)):
            if trial.id in one.task(trial, number, level - 0.2 + quality(trial)):
                one.end(trial, "pruned")
                break
        else:
            one.finish(trial, (EASY + HARD) / 2 - 0.2 + quality(trial))
    return given


def ordinary(one, count=6):
    """Run configurations to their ends, all with the same values."""
    for _ in range(count * len(one.space.sweep.seeds)):
        trial = one.ask()
        assert one.task(trial, 0, EASY) == set()
        assert one.task(trial, 1, HARD) == set()
        one.finish(trial, (EASY + HARD) / 2)


def test_a_seed_starts_only_after_the_seed_before(driven):
    one = driven({"seeds": 3}, pruner="median", trials=2)
    first, other = one.ask(), one.ask()
    assert (first.config.seed, other.config.seed) == (0, 0)
    assert one.search.ask() is SourceSignal.WAIT
    one.finish(first, 0.5)
    second = one.ask()
    assert (second.config.seed, second.config.training) == (1, first.config.training)
    assert one.search.ask() is SourceSignal.WAIT


def test_a_good_first_task_does_not_save_a_trial_that_is_bad_at_the_second(driven):
    one = driven({"seeds": 1}, pruner="median", trials=7)
    ordinary(one)
    trial = one.ask()
    assert one.task(trial, 0, EASY + 0.05) == set()
    assert one.task(trial, 1, HARD - 0.1) == {trial.id}
    one.end(trial, "pruned")
    assert one.states[-1] == "PRUNED"
    assert one.search.ask() is SourceSignal.DONE


def test_the_median_rule_stops_nothing_before_five_configurations_have_ended(driven):
    one = driven({"seeds": 1}, pruner="median", trials=7)
    ordinary(one, 4)
    early = one.ask()
    assert one.task(early, 0, 0.1) == set()
    assert one.task(early, 1, 0.1) == set()
    one.finish(early, 0.1)
    late = one.ask()
    assert one.task(late, 0, 0.05) == {late.id}


def test_steps_count_the_tasks_of_all_seeds(driven):
    one = driven({"seeds": 2}, pruner="median", trials=1)
    for level in (0.5, 0.7):
        trial = one.ask()
        one.task(trial, 0, level)
        one.task(trial, 1, level + 0.1)
        one.finish(trial, level)
    assert one.trials[0].intermediate_values == pytest.approx({1: 0.5, 2: 0.6, 3: 0.7, 4: 0.8})


def test_a_hard_task_is_compared_with_the_same_task_of_others(driven):
    """0.55 is less than any first task reaches, and more than the other second tasks reach."""
    one = driven({"seeds": 1}, pruner="median", trials=7)
    ordinary(one)
    trial = one.ask()
    assert one.task(trial, 0, EASY) == set()
    assert one.task(trial, 1, HARD + 0.05) == set()


def test_a_seed_is_compared_with_the_same_seed_of_others(driven):
    """The second seed is bad for all; only a configuration that is worse there is stopped."""
    one = driven({"seeds": 2}, pruner="median", trials=8)
    for _ in range(6):
        for level in (0.0, -0.3):
            trial = one.ask()
            one.task(trial, 0, EASY + level)
            one.task(trial, 1, HARD + level)
            one.finish(trial, 0.5)
    for level, stopped in ((-0.3, False), (-0.4, True)):
        trial = one.ask()
        one.task(trial, 0, EASY)
        one.task(trial, 1, HARD)
        one.finish(trial, 0.7)
        trial = one.ask()
        assert trial.config.seed == 1
        assert (trial.id in one.task(trial, 0, EASY + level)) is stopped
        one.end(trial, "pruned") if stopped else one.finish(trial, 0.4)
    assert one.states == ["COMPLETE"] * 7 + ["PRUNED"]


def test_the_other_seeds_of_a_stopped_configuration_never_run(driven):
    one = driven({"seeds": 3}, pruner="median", trials=8)
    ordinary(one)
    trial = one.ask()
    assert one.task(trial, 0, EASY - 0.3) == {trial.id}
    one.end(trial, "pruned")
    rest = one.started[6][1:]
    given = {trial.id for trial in one.run(lambda _: 0.5)}
    assert len(given) == 3
    assert not given & set(rest)
    assert not {trial.id for trial in trials_of_study(one.study, one.space)} & set(rest)
    assert one.states[6] == "PRUNED"


def test_a_trial_that_ends_before_it_is_stopped_is_pruned_all_the_same(driven):
    one = driven({"seeds": 2}, pruner="median", trials=7)
    ordinary(one)
    trial = one.ask()
    assert one.task(trial, 1, 0.1) == set()  # The first task's value is still missing.
    assert one.task(trial, 0, 0.1) == {trial.id}
    one.finish(trial, 0.1)
    assert one.states[-1] == "PRUNED"
    assert one.search.ask() is SourceSignal.DONE


def test_a_configuration_stopped_at_its_last_task_is_complete(driven):
    one = driven({"seeds": 1}, pruner="median", trials=7)
    ordinary(one)
    trial = one.ask()
    one.task(trial, 0, EASY)
    assert one.task(trial, 1, 0.1) == {trial.id}
    one.finish(trial, 0.3)
    assert one.states[-1] == "COMPLETE"
    assert one.trials[-1].value == 0.3


def test_a_trial_that_was_stopped_for_another_configuration_stops_its_own_too(driven):
    """Its mean would else be over the other seeds, or over none."""
    one = driven({"seeds": 2}, pruner="median", trials=2)
    trial = one.ask()
    one.end(trial, "pruned")
    assert one.states == ["PRUNED"]


def test_a_task_that_is_reported_again_after_an_interruption_is_reported_once(driven):
    one = driven({"seeds": 1}, pruner="median", trials=1)
    trial = one.ask()
    for number in (0, 0, 1):
        one.task(trial, number, 0.5)
    assert one.trials[0].intermediate_values == {1: 0.5, 2: 0.5}


def test_the_median_rule_sees_the_last_step_only(driven):
    one = driven({"seeds": 1}, pruner="median", trials=1)
    trial = one.ask()
    assert with_last_step_only(one.trials[0]) is one.trials[0]
    one.task(trial, 0, 0.9)
    one.task(trial, 1, 0.4)
    assert with_last_step_only(one.trials[0]).intermediate_values == {2: 0.4}


@pytest.mark.parametrize("name", ["median", "asha", "hyperband", "wilcoxon"])
def test_every_pruner_stops_bad_ones_and_keeps_the_best(driven, name):
    seeds, trials = (5, 12) if name == "wilcoxon" else (3, 25)
    one = driven({"seeds": seeds}, pruner=name, trials=trials)
    given = run(one)
    assert set(one.states) == {"COMPLETE", "PRUNED"}
    assert len(given) == len(set(given)) < trials * seeds
    qualities = [-abs(math.log10(trial.params["training.learning_rate"]) + 2) for trial in one.trials]
    assert one.states[qualities.index(max(qualities))] == "COMPLETE"
    assert one.states[qualities.index(min(qualities))] == "PRUNED"
    mean = {
        state: sum(q for q, s in zip(qualities, one.states, strict=True) if s == state) / one.states.count(state)
        for state in ("COMPLETE", "PRUNED")
    }
    assert mean["COMPLETE"] > mean["PRUNED"]


def test_without_a_pruner_nothing_is_stopped_and_all_seeds_run_at_once(driven):
    one = driven({"seeds": 2}, trials=8)
    ordinary(one)
    seeds = [one.ask(), one.ask()]
    assert [one.task(trial, 0, 0.0) for trial in seeds] == [set(), set()]
    assert one.trials[6].intermediate_values == {}
