"""Pruners: like is compared with like, seeds come in order, and what was stopped stays stopped."""

from __future__ import annotations

import math

import pytest

from orchestrator.execution.backend import SourceSignal
from orchestrator.search.samplers import wilcoxon_steps
from orchestrator.search.tried_trials import trials_of_study
from orchestrator.sweep.trial import Trial

EASY, HARD = 0.9, 0.5  # What ordinary configurations reach on the first and on the second task.


def worth(trial):
    """Best at a learning rate of 0.01, whatever the seed."""
    return 0.2 * (1 - abs(math.log10(trial.config.training.learning_rate) + 2) / 2)


def run(one):
    """One worker that hands over task by task; ids of the trials that it was given, in order."""
    given = []
    while isinstance(trial := one.search.ask(), Trial):
        given.append(trial.id)
        for number, level in enumerate((EASY, HARD)):
            if trial.id in one.task(trial, number, level - 0.2 + worth(trial)):
                one.end(trial, "pruned")
                break
        else:
            one.finish(trial, (EASY + HARD) / 2 - 0.2 + worth(trial))
    return given


def ordinary(one, count=6):
    """Run so many configurations to their ends, all with the same values."""
    for _ in range(count * len(one.space.sweep.seeds)):
        trial = one.ask()
        assert one.task(trial, 0, EASY) == set()
        assert one.task(trial, 1, HARD) == set()
        one.finish(trial, (EASY + HARD) / 2)


def test_seeds_come_in_order_and_the_next_one_only_after_the_one_before(driven):
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


def test_a_hard_task_is_compared_with_the_same_task_of_others(driven):
    """0.55 at the second task is less than what anybody reaches at the first, and more than others reach at the second."""
    one = driven({"seeds": 1}, pruner="median", trials=7)
    ordinary(one)
    trial = one.ask()
    assert one.task(trial, 0, EASY) == set()
    assert one.task(trial, 1, HARD + 0.05) == set()


def test_a_seed_is_compared_with_the_same_seed_of_others(driven):
    """The second seed is bad for all: who is as bad there as the others is not stopped, who is worse is."""
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


def test_the_rest_of_the_seeds_of_a_stopped_configuration_is_never_given_out(driven):
    one = driven({"seeds": 3}, pruner="median", trials=8)
    ordinary(one)
    trial = one.ask()
    assert one.task(trial, 0, EASY - 0.3) == {trial.id}
    one.end(trial, "pruned")
    rest = one.begun[6][1:]
    given = {trial.id for trial in one.run(lambda _: 0.5)}
    assert len(given) == 3
    assert not given & set(rest)
    assert not {trial.id for trial in trials_of_study(one.study, one.space)} & set(rest)
    assert one.states[6] == "PRUNED"


def test_what_ended_before_the_mark_reached_it_is_pruned_all_the_same(driven):
    one = driven({"seeds": 2}, pruner="median", trials=7)
    ordinary(one)
    trial = one.ask()
    assert one.task(trial, 1, 0.1) == set()  # The first task's value is still missing.
    assert one.task(trial, 0, 0.1) == {trial.id}
    one.finish(trial, 0.1)
    assert one.states[-1] == "PRUNED"
    assert one.search.ask() is SourceSignal.DONE


def test_what_is_stopped_at_its_last_task_is_complete_for_all_its_values_are_known(driven):
    one = driven({"seeds": 1}, pruner="median", trials=7)
    ordinary(one)
    trial = one.ask()
    one.task(trial, 0, EASY)
    assert one.task(trial, 1, 0.1) == {trial.id}
    one.finish(trial, 0.3)
    assert one.states[-1] == "COMPLETE"
    assert one.trials[-1].value == 0.3


def test_a_trial_that_was_stopped_for_another_configuration_stops_its_own_too(driven):
    """Without this its mean would be over the seeds that are left, or over none."""
    one = driven({"seeds": 2}, pruner="median", trials=2)
    trial = one.ask()
    one.end(trial, "pruned")
    assert one.states == ["PRUNED"]


def test_a_task_that_is_told_again_after_an_interruption_is_reported_once(driven):
    one = driven({"seeds": 1}, pruner="median", trials=1)
    trial = one.ask()
    for number in (0, 0, 1):
        one.task(trial, number, 0.5)
    assert one.trials[0].intermediate_values == {1: 0.5, 2: 0.5}


def test_only_the_present_step_is_shown_to_the_median_rule(driven):
    one = driven({"seeds": 1}, pruner="median", trials=1)
    trial = one.ask()
    assert wilcoxon_steps("median", one.trials[0]) is one.trials[0]
    one.task(trial, 0, 0.9)
    one.task(trial, 1, 0.4)
    assert wilcoxon_steps("median", one.trials[0]).intermediate_values == {2: 0.4}
    assert wilcoxon_steps("asha", one.trials[0]).intermediate_values == {1: 0.9, 2: 0.4}


@pytest.mark.parametrize("name", ["median", "asha", "hyperband", "wilcoxon"])
def test_every_pruner_stops_bad_ones_and_keeps_the_best(driven, name):
    seeds, trials = (5, 12) if name == "wilcoxon" else (3, 25)
    one = driven({"seeds": seeds}, pruner=name, trials=trials)
    given = run(one)
    assert set(one.states) == {"COMPLETE", "PRUNED"}
    assert len(given) == len(set(given)) < trials * seeds
    quality = [-abs(math.log10(trial.params["training.learning_rate"]) + 2) for trial in one.trials]
    assert one.states[quality.index(max(quality))] == "COMPLETE"
    assert one.states[quality.index(min(quality))] == "PRUNED"
    mean = {
        state: sum(q for q, s in zip(quality, one.states, strict=True) if s == state) / one.states.count(state)
        for state in ("COMPLETE", "PRUNED")
    }
    assert mean["COMPLETE"] > mean["PRUNED"]


def test_without_a_pruner_nothing_is_stopped_and_all_seeds_are_given_out_at_once(driven):
    one = driven({"seeds": 2}, trials=8)
    ordinary(one)
    seeds = [one.ask(), one.ask()]
    assert [one.task(trial, 0, 0.0) for trial in seeds] == [set(), set()]
    assert one.trials[6].intermediate_values == {}
