"""Stored configurations as trials of Optuna, and studies that go on in an edited space."""

from __future__ import annotations

import optuna
import pytest

from moleflow.errors import InvalidInput
from moleflow.settings.config import canonical_json
from orchestrator.results.store import ResultStore
from orchestrator.search.continued_study import continued_study, is_edited
from orchestrator.search.drivers import driver_heartbeat
from orchestrator.search.objective import stored_values
from orchestrator.search.storage import open_study
from orchestrator.search.stored_configurations import as_optuna_trials, stored_configurations
from orchestrator.search.tried_configurations import REASON, TRIALS, UNTRIED
from orchestrator.search.tried_trials import trials_of_study

RATE, RANK, GAMMA = "training.learning_rate", "lora.rank", "loss.focal_gamma"
RANKS = {"lora_rank": {"choice": [2, 4, 8]}}


@pytest.fixture
def keep(add):
    """Store a finished validation trial with an image AUROC, or one that ended otherwise."""

    def store(trial, auroc=0.5, status="finished", **columns):
        config = canonical_json(trial.config.model_dump(mode="json"))
        add(
            dict(trial.factors), trial.config.seed, image=(auroc, auroc), split="validation",
            trial_id=trial.id, config=config, status=status, **columns,
        )  # fmt: skip

    return store


def trials_of(space, stored):
    store = stored()
    return as_optuna_trials(space, store, stored_configurations(space, store))


def test_a_finished_configuration_has_the_mean_over_its_seeds_and_its_constraints(space_of, keep, stored):
    space = space_of({"seeds": 2}, space=RANKS, constraints={"image_auroc": 0.7})
    for trial, auroc in zip(space.trials({RANK: 4}), (0.5, 0.7), strict=True):
        keep(trial, auroc)
    (trial,) = trials_of(space, stored)
    assert trial.state.name == "COMPLETE"
    assert trial.params == {RANK: "4"}
    assert trial.value == pytest.approx(0.6)
    assert trial.constraints == {"image_auroc": pytest.approx(0.1)}
    assert trial.user_attrs[TRIALS] == [one.id for one in space.trials({RANK: 4})]


def test_failed_pruned_and_unfinished_ones_keep_their_state(space_of, keep, stored):
    space = space_of({"seeds": 2}, space=RANKS, pruner="median")
    failed, pruned, begun = (space.trials({RANK: rank}) for rank in (2, 4, 8))
    keep(failed[0], status="failed", error="Diverged: task 0", error_kind="Diverged")
    keep(failed[1], 0.9)
    keep(pruned[0], 0.3, status="pruned")
    keep(begun[0], 0.4)
    found = {trial.params.get(RANK, "queued"): trial for trial in trials_of(space, stored)}
    assert found["2"].state.name == "FAIL"
    assert found["2"].user_attrs[REASON] == "failed: Diverged: task 0"
    assert found["4"].state.name == "PRUNED"
    assert found["4"].user_attrs[UNTRIED] == [pruned[1].id]
    assert found["4"].intermediate_values == {1: pytest.approx(0.3), 2: pytest.approx(0.3)}
    assert found["queued"].state.name == "WAITING"
    assert found["queued"].system_attrs["fixed_params"] == {RANK: "8"}


def test_an_attempt_that_failed_before_the_trial_finished_is_forgotten(space_of, keep, stored):
    space = space_of({"seeds": 1}, space=RANKS)
    (trial,) = space.trials({RANK: 2})
    keep(trial, status="failed", error="OSError: no", error_kind="OSError")
    keep(trial, 0.8, attempt=2)
    assert [(one.state.name, one.value) for one in trials_of(space, stored)] == [("COMPLETE", pytest.approx(0.8))]


def test_results_of_other_settings_or_outside_the_space_are_left_out(space_of, keep, stored):
    space = space_of({"seeds": 1}, space=RANKS)
    for other in (space_of({"seeds": 1, "version": "v3"}, space=RANKS), space_of({"seeds": [7]}, space=RANKS)):
        keep(other.trials({RANK: 4})[0])
    keep(space_of({"seeds": 1}, space={"lora_rank": {"choice": [16]}}).trials({RANK: 16})[0])
    keep(space.trials({RANK: 2})[0])
    assert [trial.params for trial in trials_of(space, stored)] == [{RANK: "2"}]


def went_on(one, space, folder, rebuild=False):
    """The study in the space, its sentence, and what it holds: {parameters: value}."""
    study, sentence = continued_study(one.study, space, folder, rebuild)
    return study, sentence, [(trial.params, trial.value) for trial in study.get_trials() if trial.values]


def searched_ranks(driven, keep, stored, **search):
    """A search that tried the ranks 2, 4 and 8, with a value of rank / 10."""
    one = driven({"seeds": 1}, trials=3, space=RANKS, **search)
    for trial in one.run(lambda trial: trial.config.lora.rank / 10):
        keep(trial, trial.config.lora.rank / 10)
    return one, stored().folder


def test_the_same_space_goes_on_with_the_same_study(driven, space_of, keep, stored):
    one, folder = searched_ranks(driven, keep, stored)
    again = space_of({"seeds": 1}, space=RANKS, trials=9)
    assert not is_edited(one.study, again)
    study, sentence, _ = went_on(one, again, folder)
    assert (study, sentence) == (one.study, "")


@pytest.mark.parametrize(
    ("space", "kept"),
    [
        ({"lora_rank": {"choice": [2, 4, 8, 16]}}, {"2", "4", "8"}),
        ({"lora_rank": {"choice": [8, 4]}}, {"4", "8"}),
        ({"lora_rank": {"integer": [3, 30]}}, {4, 8}),
        ({**RANKS, "focal_gamma": {"choice": [0, 2]}}, {"2", "4", "8"}),
    ],
)
def test_an_edited_space_goes_on_with_its_stored_configurations(driven, space_of, keep, stored, space, kept):
    one, folder = searched_ranks(driven, keep, stored)
    edited = space_of({"seeds": 1}, space=space, trials=5)
    study, sentence, values = went_on(one, edited, folder)
    assert sentence.startswith(f"the search goes on in the edited space: {len(kept)} stored configurations of it count")
    assert study.study_name != one.study.study_name
    assert {parameters[RANK]: value for parameters, value in values} == {
        rank: pytest.approx(int(rank) / 10) for rank in kept
    }
    assert open_study(edited.sweep, one.folder, None).study_name == study.study_name
    assert len(trials_of_study(study, edited)) == len(kept)
    # Optuna takes suggestions of the new space; in the old study it would refuse new choices.
    assert edited.distributions[RANK].contains(edited.suggest(study.ask())[RANK])


@pytest.mark.parametrize("kind", ["uniform", "loguniform"])
def test_a_range_may_become_wider_or_narrower(driven, space_of, keep, stored, kind):
    one = driven({"seeds": 1}, trials=6)
    for trial in one.run(lambda _: 0.5):
        keep(trial)
    folder = stored().folder
    rates = sorted(trial.params[RATE] for trial in one.trials)
    wider = space_of({"seeds": 1}, space={"learning_rate": {kind: [1e-5, 1]}}, trials=7)
    assert len(went_on(one, wider, folder)[2]) == 6
    middle = float(f"{rates[3]:.6g}")
    narrower = space_of({"seeds": 1}, space={"learning_rate": {kind: [middle, 1]}})
    assert len(went_on(one, narrower, folder)[2]) == 3


@pytest.mark.parametrize(
    ("also", "space"),
    [
        ({"seeds": [3]}, {"lora_rank": {"choice": [2, 4, 8, 16]}}),
        ({"seeds": 1, "version": "v3"}, {"lora_rank": {"choice": [2, 4, 8, 16]}}),
        ({"seeds": 1}, {"lora_rank": {"choice": [16, 32]}}),
    ],
)
def test_a_study_without_a_configuration_of_the_space_is_refused(driven, space_of, keep, stored, also, space):
    one, folder = searched_ranks(driven, keep, stored)
    with pytest.raises(InvalidInput, match=r"rename the sweep, and name .* search\.start_from"):
        continued_study(one.study, space_of(also, space=space), folder, False)


def test_a_space_is_not_edited_under_a_driver_that_runs(driven, space_of, keep, stored):
    one, folder = searched_ranks(driven, keep, stored)
    edited = space_of({"seeds": 1}, space={"lora_rank": {"choice": [2, 4, 8, 16]}})
    with driver_heartbeat(folder) as name:
        one.study.ask().set_user_attr("driver", name)
        with pytest.raises(InvalidInput, match="another driver runs this search with the space from before"):
            continued_study(one.study, edited, folder, False)
    assert continued_study(one.study, edited, folder, False)[1]


def test_a_study_that_a_dead_driver_left_half_made_is_not_opened(driven, space_of, keep, stored):
    one, folder = searched_ranks(driven, keep, stored)
    edited = space_of({"seeds": 1}, space={"lora_rank": {"choice": [2, 4, 8, 16]}})
    optuna.create_study(storage=one.study._storage, study_name=f"{edited.sweep.name}#2", direction="maximize")
    assert open_study(edited.sweep, one.folder, None).study_name == edited.sweep.name
    assert went_on(one, edited, folder)[0].study_name == f"{edited.sweep.name}#3"


def test_a_study_is_made_again_from_the_results(driven, space_of, keep, stored):
    one, folder = searched_ranks(driven, keep, stored)
    study, sentence, values = went_on(one, one.space, folder, rebuild=True)
    assert sentence == "the search is made again from the results: 3 stored configurations of it count as tried"
    assert {parameters[RANK]: value for parameters, value in values} == {
        trial.params[RANK]: pytest.approx(trial.value) for trial in one.trials if trial.values
    }
    assert not is_edited(study, one.space)


@pytest.mark.parametrize("database", [False, True])
def test_a_study_made_again_runs_only_what_is_missing(driven, space_of, keep, stored, tmp_path, database):
    """One configuration is complete, one failed, one lacks a seed, and one was never begun."""
    setting = {"url": f"sqlite:///{tmp_path}/study.db"} if database else {}
    search = {"space": {"lora_rank": {"choice": [2, 4, 8, 16]}}, "constraints": {"parameters": 20}}
    one = driven({"seeds": 2}, setting, trials=4, **search)
    for trial in one.space.trials({RANK: 2}):
        keep(trial, 0.4, parameters_total=30)
    keep(one.space.trials({RANK: 4})[0], status="failed", error="Diverged: task 0", error_kind="Diverged")
    keep(one.space.trials({RANK: 8})[1], 0.6, parameters_total=10)
    folder = stored().folder
    continued_study(one.study, one.space, folder, True)
    again = driven({"seeds": 2}, setting, trials=4, **search)
    assert sorted(again.states) == ["COMPLETE", "FAIL", "WAITING"]
    assert {trial.constraints["parameters"] for trial in again.trials if trial.values} == {10}
    again.stored |= stored_values(ResultStore(folder), [one.space.trials({RANK: 8})[1].id])
    ran = again.run(lambda _: 0.5)
    assert sorted((trial.config.lora.rank, trial.config.seed) for trial in ran) == [(8, 0), (16, 0), (16, 1)]
    assert again.states.count("COMPLETE") == 3
