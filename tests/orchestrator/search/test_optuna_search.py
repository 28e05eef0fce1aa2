"""Ask and tell: the trials that are handed out, and the values that Optuna gets."""

from __future__ import annotations

import math

import optuna
import pytest

from moleflow.errors import InvalidInput
from orchestrator.execution.backend import SourceSignal
from orchestrator.search import space as space_module
from orchestrator.search.drivers import fail_trials_of_dead_drivers
from orchestrator.search.tried_configurations import REASON, REPEATED, TRIALS, exhausted_sentence
from orchestrator.sweep.trial import Trial

FOUR = {"space": {"lora_rank": {"choice": [2, 4, 8, 16]}}}
RATE = "training.learning_rate"


def test_many_trials_are_in_flight_and_each_end_frees_one_place_at_once(driven):
    one = driven({"seeds": 1}, {"max_running": 4}, trials=20)
    running = [one.ask() for _ in range(4)]
    assert len({trial.id for trial in running}) == 4
    assert one.search.ask() is SourceSignal.WAIT
    for _ in range(16):
        slowest, *_, fastest = running
        one.finish(fastest, 0.5)
        running = [*running[:-1], one.ask()]
        assert one.search.ask() is SourceSignal.WAIT
    assert running[0] is slowest
    assert one.states.count("RUNNING") == 4
    assert len({trial.params[RATE] for trial in one.trials}) == 20
    for trial in running:
        one.finish(trial, 0.5)
    assert one.search.ask() is SourceSignal.DONE


def test_optuna_gets_the_mean_over_the_seeds_when_all_have_ended(driven):
    one = driven({"seeds": 3}, trials=1)
    seeds = [one.ask() for _ in range(3)]
    assert [trial.config.seed for trial in seeds] == [0, 1, 2]
    assert len({trial.config.training.learning_rate for trial in seeds}) == 1
    assert one.started == [[trial.id for trial in seeds]]
    assert one.search.ask() is SourceSignal.WAIT
    for trial, auroc in zip(reversed(seeds), (0.3, 0.6, 0.9), strict=True):
        assert one.states == ["RUNNING"]
        one.finish(trial, auroc)
    (complete,) = one.trials
    assert complete.value == pytest.approx(0.6)
    assert complete.user_attrs[TRIALS] == [trial.id for trial in seeds]
    assert one.search.ask() is SourceSignal.DONE


def test_values_of_another_drivers_trial_are_read_from_the_rows(driven):
    one = driven({"seeds": 1}, trials=1)
    trial = one.ask()
    one.stored[trial.id] = {"image_auroc": 0.7, "seconds": 1.0, "parameters": 10.0}
    one.end(trial, "elsewhere")
    assert one.trials[0].value == 0.7


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_finite_space_is_asked_for_each_configuration_once_and_then_ends(driven, sampler):
    space = {"image_score": {"choice": ["max", "quantile", "top_k"]}, "smoothing": {"choice": [0, 2, 4]}}
    one = driven({"seeds": 1}, trials=40, sampler=sampler, space=space)
    assert one.search.trials_left == 9
    ran = one.run(lambda trial: 0.9 if trial.config.scoring.image_score == "top_k" else 0.5)
    assert len(ran) == 9 == len({trial.id for trial in ran})
    assert one.search.trials_left == 0
    assert exhausted_sentence(one.study, one.space).endswith("each of its 9 configurations was tried")
    assert one.states.count("COMPLETE") == 9
    repeated = [trial for trial in one.trials if trial.state.name == "FAIL"]
    assert {trial.user_attrs[REASON] for trial in repeated} == {REPEATED}


def test_running_configurations_are_not_suggested_again(driven):
    one = driven({"seeds": 1}, trials=40, **FOUR)
    running = []
    while isinstance(trial := one.search.ask(), Trial):
        running.append(trial)
    assert sorted(trial.config.lora.rank for trial in running) == [2, 4, 8, 16]
    for trial in running:
        one.finish(trial, 0.5)
    assert one.search.ask() is SourceSignal.DONE


def test_two_drivers_share_a_finite_space(driven):
    one = driven({"seeds": 1}, trials=40, **FOUR)
    other = driven({"seeds": 1}, {"name": "other"}, trials=40, **FOUR)
    ranks = [driver.ask().config.lora.rank for driver in (one, other, one, other)]
    assert sorted(ranks) == [2, 4, 8, 16]
    assert one.search.ask() is other.search.ask() is SourceSignal.WAIT


def test_conditions_and_exclusions_make_a_finite_space_smaller(driven):
    space = {"focal_gamma": {"choice": [0, 1, 2]}, "focal_form": {"choice": ["joint", "relative"]}}
    also = {"seeds": 1, "when": {"focal_form": {"focal_gamma": "> 0"}}, "exclude": [{"focal_gamma": 2}]}
    one = driven(also, trials=40, space=space)
    factors = [trial.factors for trial in one.run(lambda _: 0.5)]
    assert sorted(f"{f['loss.focal_gamma']:g} {f.get('loss.focal_form')}" for f in factors) == [
        "0 None", "1 joint", "1 relative",
    ]  # fmt: skip


def test_a_larger_space_is_not_asked_for_one_configuration_twice(driven, monkeypatch):
    monkeypatch.setattr(space_module, "MOST_LISTED", 3)
    one = driven({"seeds": 1}, trials=4, **FOUR)
    assert one.space.listed is None
    assert len({trial.id for trial in one.run(lambda _: 0.5)}) == 4
    assert exhausted_sentence(one.study, one.space) == ""


def test_configurations_that_a_dead_driver_left_are_tried_again(driven):
    one = driven({"seeds": 1}, trials=4, **FOUR)
    rank = one.ask().config.lora.rank
    fail_trials_of_dead_drivers(one.study, one.folder, "other")
    other = driven({"seeds": 1}, {"name": "other"}, trials=4, **FOUR)
    assert sorted(trial.config.lora.rank for trial in other.run(lambda _: 0.5)) == [2, 4, 8, 16]
    assert rank in (2, 4, 8, 16)


def test_stored_values_are_told_at_once_and_only_missing_seeds_run(driven):
    one = driven({"seeds": 2}, trials=20, **FOUR)
    for rank, seeds in ((2, 2), (4, 2), (8, 1)):
        for trial in one.space.trials({"lora.rank": rank})[:seeds]:
            one.stored[trial.id] = {"image_auroc": 0.5, "seconds": 1.0, "parameters": 1.0}
    ran = one.run(lambda trial: 0.7)
    assert sorted((trial.config.lora.rank, trial.config.seed) for trial in ran) == [(8, 1), (16, 0), (16, 1)]
    worth = {trial.params["lora.rank"]: trial.value for trial in one.trials if trial.state.name == "COMPLETE"}
    assert worth == pytest.approx({"2": 0.5, "4": 0.5, "8": 0.6, "16": 0.7})


def test_a_failed_seed_fails_its_configuration_and_takes_a_place_of_the_budget(driven):
    one = driven({"seeds": 3}, trials=2)
    first, second = one.ask(), one.ask()
    one.fail(first)
    assert one.states == ["RUNNING"]
    one.finish(second, 0.9)
    assert one.states == ["FAIL"]
    assert one.trials[0].user_attrs[REASON] == "failed: ValueError: no"
    assert {trial.config.seed for trial in one.run(lambda _: 0.5)} == {0, 1, 2}
    assert one.states == ["FAIL", "COMPLETE"]


@pytest.mark.parametrize(("ends", "state"), [(("failed", "pruned"), "FAIL"), (("pruned", "failed"), "PRUNED")])
def test_the_first_reason_decides_how_a_configuration_ends(driven, ends, state):
    one = driven({"seeds": 2}, trials=1)
    for trial, end in zip((one.ask(), one.ask()), ends, strict=True):
        one.fail(trial) if end == "failed" else one.end(trial, end)
    assert one.states == [state]
    assert one.trials[0].user_attrs.get(REASON) == ("failed: ValueError: no" if state == "FAIL" else None)


def test_excluded_and_impossible_ones_take_no_place_of_the_budget(driven):
    space = {"position": {"choice": [True, False]}, "spatial": {"choice": [True, False]}, **FOUR["space"]}
    also = {"seeds": 1, "exclude": [{"lora_rank": [8, 16]}]}
    one = driven(also, trials=6, space=space)
    ran = one.run(lambda _: 0.5)
    assert {trial.config.lora.rank for trial in ran} <= {2, 4}
    assert one.states.count("COMPLETE") == 6
    reasons = {trial.user_attrs[REASON] for trial in one.trials if trial.state.name == "FAIL"}
    assert "excluded" in reasons <= {"excluded", REPEATED}


def test_a_space_without_a_possible_configuration_is_an_error(driven):
    one = driven({"exclude": [{"lora_rank": [2, 4, 8, 16]}]}, **FOUR)
    with pytest.raises(InvalidInput, match="every configuration is excluded or impossible; the last one: excluded"):
        one.search.ask()
    excluded = {"exclude": [{"learning_rate": "> 0"}]}
    two = driven(excluded, {"folder": one.folder.with_name("two")})
    with pytest.raises(InvalidInput, match="100 suggestions in a row were excluded or impossible; the last one: exc"):
        two.search.ask()


def test_after_the_hours_no_configuration_starts_and_open_ones_end(driven):
    one = driven({"seeds": 2}, trials=50, hours=2)
    first = one.ask()
    one.clock.now = 2 * 3600 - 1
    one.finish(first, 0.5)
    one.finish(one.ask(), 0.5)
    third = one.ask()
    one.clock.now = 2 * 3600 + 1
    fourth = one.ask()
    assert one.search.ask() is SourceSignal.WAIT
    one.finish(third, 0.5)
    one.finish(fourth, 0.5)
    assert one.search.ask() is SourceSignal.DONE
    assert one.states == ["COMPLETE", "COMPLETE"]


def test_trials_left_counts_open_and_future_configurations(driven):
    one = driven({"seeds": 3}, trials=4)
    assert one.search.trials_left == 12
    trial = one.ask()
    assert one.search.trials_left == 11
    one.finish(trial, 0.5)
    one.run(lambda _: 0.5)
    assert one.search.trials_left == 0


@pytest.mark.parametrize("kind", ["interrupted", "cancelled"])
def test_an_interrupted_configuration_stays_open_for_the_next_driver(driven, kind):
    one = driven({"seeds": 2}, trials=2)
    first, second = one.ask(), one.ask()
    one.end(first, kind)
    one.finish(second, 0.5)
    one.run(lambda _: 0.5)
    assert one.states == ["RUNNING", "COMPLETE"]


def test_constraints_and_costs_reach_optuna_and_the_best_one_keeps_them(driven):
    one = driven({"seeds": 2}, trials=3, constraints={"seconds": 100, "pixel_auroc": 0.5})
    costs = ((0.9, 200.0, 0.6), (0.8, 50.0, 0.4), (0.7, 50.0, 0.6))
    for auroc, seconds, pixel in costs:
        for trial in (one.ask(), one.ask()):
            one.finish(trial, auroc, seconds=seconds, pixel_auroc=pixel)
    assert [trial.constraints for trial in one.trials] == [
        {"seconds": 100, "pixel_auroc": pytest.approx(-0.1)},
        {"seconds": -50, "pixel_auroc": pytest.approx(0.1)},
        {"seconds": -50, "pixel_auroc": pytest.approx(-0.1)},
    ]
    assert one.study.best_trial.number == 2


def test_several_objectives_keep_their_order_and_may_be_costs(driven):
    objectives = {"image_auroc": "maximize", "parameters": "minimize"}
    one = driven({"seeds": 1}, trials=3, sampler="nsga2", objectives=objectives)
    for auroc, parameters in ((0.9, 30), (0.8, 10), (0.7, 20)):
        one.finish(one.ask(), auroc, parameters=parameters)
    assert [trial.values for trial in one.trials] == [[0.9, 30], [0.8, 10], [0.7, 20]]
    assert [trial.number for trial in one.study.best_trials] == [0, 1]
    assert one.study.metric_names == ["image_auroc", "parameters"]


def test_a_metric_that_is_not_defined_fails_the_configuration_with_its_name(driven):
    one = driven({"seeds": 1}, trials=1, objectives={"aupro": "maximize"})
    one.finish(one.ask(), 0.5)
    assert one.states == ["FAIL"]
    assert one.trials[0].user_attrs[REASON] == "failed: aupro is not defined on the validation images"


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_one_worker_and_one_seed_make_one_search(driven, sampler, tmp_path):
    found = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        one = driven({"seeds": 1}, {"folder": folder}, trials=14, sampler=sampler)
        one.run(lambda trial: 1 - abs(math.log10(trial.config.training.learning_rate) + 2) / 4)
        found.append([(trial.params, trial.value) for trial in one.trials])
    assert found[0] == found[1]


def test_tpe_learns_where_the_best_ones_are(driven):
    one = driven({"seeds": 1}, trials=40, sampler="tpe")
    one.run(lambda trial: 1 - abs(math.log10(trial.config.training.learning_rate) + 2) / 4)
    late = [abs(math.log10(trial.params[RATE]) + 2) for trial in one.trials[20:]]
    early = [abs(math.log10(trial.params[RATE]) + 2) for trial in one.trials[:10]]
    assert sum(late) / len(late) < 0.5 * sum(early) / len(early)


def test_a_configuration_that_another_driver_failed_stays_failed(driven):
    one = driven({"seeds": 1}, trials=2)
    trial = one.ask()
    one.study.tell(0, state=optuna.trial.TrialState.FAIL)
    one.finish(trial, 0.9)
    one.run(lambda _: 0.5)
    assert one.states == ["FAIL", "COMPLETE", "COMPLETE"]
    assert REASON not in one.trials[0].user_attrs
