"""The best of a study, and what finished trials are worth."""

from __future__ import annotations

import pytest

from moleflow.errors import InvalidInput
from orchestrator.records.events import Event
from orchestrator.results.store import ResultStore
from orchestrator.search.objective import metric_values, stored_values
from orchestrator.search.tried_trials import best_trials, trials_of_study

RANKS = {"lora_rank": {"choice": [2, 4, 8, 16]}}


def test_the_best_ones_come_in_order_and_each_configuration_once(driven):
    one = driven({"seeds": 1}, trials=30, space=RANKS)
    one.run(lambda trial: trial.config.lora.rank / 100)
    assert [trial.params["lora.rank"] for trial in best_trials(one.study)] == ["16", "8", "4", "2"]
    assert [trial.params["lora.rank"] for trial in best_trials(one.study, 2)] == ["16", "8"]
    first = {trial.params["lora.rank"]: trial.number for trial in reversed(one.trials)}
    assert [trial.number for trial in best_trials(one.study)] == [first[rank] for rank in ("16", "8", "4", "2")]


def test_what_is_minimised_or_breaks_a_constraint_is_not_the_best(driven):
    search = {"objectives": {"parameters": "minimize"}, "constraints": {"image_auroc": 0.6}}
    one = driven({"seeds": 1}, trials=3, **search)
    for auroc, parameters in ((0.9, 30), (0.5, 10), (0.7, 20)):
        one.finish(one.ask(), auroc, parameters=parameters)
    assert [trial.number for trial in best_trials(one.study)] == [2, 0]


def test_of_several_objectives_those_count_that_no_other_beats_in_all(driven):
    objectives = {"image_auroc": "maximize", "parameters": "minimize"}
    one = driven({"seeds": 1}, trials=4, sampler="nsga2", objectives=objectives)
    for auroc, parameters in ((0.7, 20), (0.8, 10), (0.9, 30), (0.9, 40)):
        one.finish(one.ask(), auroc, parameters=parameters)
    assert [trial.number for trial in best_trials(one.study)] == [2, 1]


def test_failed_and_pruned_ones_are_never_the_best(driven):
    one = driven({"seeds": 1}, trials=3)
    one.fail(one.ask())
    one.end(one.ask(), "pruned")
    one.finish(one.ask(), 0.1)
    assert [trial.number for trial in best_trials(one.study)] == [2]


def test_the_trials_of_a_study_are_those_that_were_asked_for(driven):
    one = driven({"seeds": 2}, trials=30, space=RANKS)
    ran = one.run(lambda _: 0.5)
    found = trials_of_study(one.study, one.space)
    assert {trial.id for trial in found} == {trial.id for trial in ran}
    assert [trial.factors for trial in found[:2]] == [ran[0].factors] * 2


@pytest.mark.parametrize(
    "change", [{"space": {"lora_rank": {"choice": [2, 4, 8]}}}, {"space": {"epochs": {"integer": [1, 2]}}}]
)
def test_a_study_of_another_space_is_refused(driven, space_of, change):
    one = driven({"seeds": 2}, trials=3, space=RANKS)
    one.run(lambda _: 0.5)
    with pytest.raises(InvalidInput, match="the study holds results of other settings, choices, seeds or images"):
        trials_of_study(one.study, space_of({"seeds": 2}, **change))


def test_wider_bounds_leave_a_study_what_it_is_and_narrower_ones_do_not(driven, space_of):
    one = driven({"seeds": 1}, trials=8)
    one.run(lambda _: 0.5)
    wider = space_of({"seeds": 1}, space={"learning_rate": {"loguniform": [1e-5, 1]}})
    assert len(trials_of_study(one.study, wider)) == 8
    narrower = space_of({"seeds": 1}, space={"learning_rate": {"loguniform": [1e-2, 2e-2]}})
    with pytest.raises(InvalidInput, match="the study holds results of other settings"):
        trials_of_study(one.study, narrower)


def test_stored_values_are_means_over_classes_of_the_last_task(searched):
    store = ResultStore(searched.results)
    ids = sorted({row["trial_id"] for row in store.read("attempts").to_pylist()})
    values = stored_values(store, ids)
    assert values.keys() == set(ids)
    rows = store.read("metrics").to_pylist()
    for trial_id in ids:
        last = [r for r in rows if (r["trial_id"], r["split"], r["after_task"]) == (trial_id, "validation", 1)]
        assert len(last) == 2
        for metric in ("image_auroc", "pixel_ap"):
            assert values[trial_id][metric] == pytest.approx(sum(row[metric] for row in last) / 2)
        assert values[trial_id]["parameters"] > 0
        assert values[trial_id]["seconds"] > 0
    assert stored_values(store, ["nobody"]) == {}
    assert "image_auroc" in next(value for value in stored_values(store, ids, "test").values() if len(value) > 2)


def test_what_a_worker_did_not_tell_is_left_to_the_rows():
    facts = {"validation": {"image_auroc": 0.5}, "parameters": 7, "cost": 1.5}
    whole = metric_values(Event("finished", "a", facts))
    assert whole == {"image_auroc": 0.5, "parameters": 7.0, "seconds": 1.5}
    for name in facts:
        assert metric_values(Event("finished", "a", {**facts, name: None})) is None
