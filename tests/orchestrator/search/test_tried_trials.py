"""The trials of a study, and its best configurations."""

from __future__ import annotations

import pytest

from moleflow.errors import InvalidInput
from orchestrator.search.tried_trials import best_trials, finalist_name, trials_of_study

RANKS = {"lora_rank": {"choice": [2, 4, 8, 16]}}


def test_the_best_ones_come_in_order_and_each_configuration_once(driven):
    one = driven({"seeds": 1}, trials=30, space=RANKS)
    one.run(lambda trial: trial.config.lora.rank / 100)
    assert [trial.params["lora.rank"] for trial in best_trials(one.study)] == ["16", "8", "4", "2"]
    assert [trial.params["lora.rank"] for trial in best_trials(one.study, 2)] == ["16", "8"]
    first = {trial.params["lora.rank"]: trial.number for trial in reversed(one.trials)}
    assert [trial.number for trial in best_trials(one.study)] == [first[rank] for rank in ("16", "8", "4", "2")]


def test_the_best_minimises_and_meets_the_constraints(driven):
    search = {"objectives": {"parameters": "minimize"}, "constraints": {"image_auroc": 0.6}}
    one = driven({"seeds": 1}, trials=3, **search)
    for auroc, parameters in ((0.9, 30), (0.5, 10), (0.7, 20)):
        one.finish(one.ask(), auroc, parameters=parameters)
    assert [trial.number for trial in best_trials(one.study)] == [2, 0]


def test_with_several_objectives_the_best_are_the_pareto_front(driven):
    objectives = {"image_auroc": "maximize", "parameters": "minimize"}
    one = driven({"seeds": 1}, trials=4, sampler="nsga2", objectives=objectives)
    for auroc, parameters in ((0.7, 20), (0.8, 10), (0.9, 30), (0.9, 40)):
        one.finish(one.ask(), auroc, parameters=parameters)
    assert [trial.number for trial in best_trials(one.study)] == [2, 1]


@pytest.mark.parametrize(
    ("position", "is_ranked", "name"),
    [
        (0, True, "best #17"),
        (1, True, "2nd #17"),
        (2, True, "3rd #17"),
        (10, True, "11th #17"),
        (0, False, "front #17"),
    ],
)
def test_finalists_are_named_by_their_rank_and_number(position, is_ranked, name):
    assert finalist_name(position, 17, is_ranked) == name


def test_failed_and_pruned_ones_are_never_the_best(driven):
    one = driven({"seeds": 1}, trials=3)
    one.fail(one.ask())
    one.end(one.ask(), "pruned")
    one.finish(one.ask(), 0.1)
    assert [trial.number for trial in best_trials(one.study)] == [2]


def test_the_trials_of_a_study_are_those_that_ran(driven):
    one = driven({"seeds": 2}, trials=30, space=RANKS)
    ran = one.run(lambda _: 0.5)
    found = trials_of_study(one.study, one.space)
    assert {trial.id for trial in found} == {trial.id for trial in ran}
    assert [trial.factors for trial in found[:2]] == [ran[0].factors] * 2


@pytest.mark.parametrize("change", [{"seeds": 3}, {"seeds": 2, "version": "v3"}])
def test_a_study_of_other_settings_is_refused(driven, space_of, change):
    one = driven({"seeds": 2}, trials=3, space=RANKS)
    one.run(lambda _: 0.5)
    with pytest.raises(InvalidInput, match=r"other settings, seeds or images .*rename the sweep, .*search\.start_from"):
        trials_of_study(one.study, space_of(change, space=RANKS))
