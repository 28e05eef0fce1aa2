"""The space: the knobs that Optuna is asked for, and the factors of its answers."""

from __future__ import annotations

import itertools

import optuna
import pytest

from moleflow.errors import InvalidInput
from orchestrator.search.samplers import make_sampler

CONDITIONAL = {
    "space": {"focal_form": {"choice": ["joint", "relative"]}, "focal_gamma": {"uniform": [0, 2]}},
}
VALUES = {
    "layers": {"choice": [[1], [1, 2], [2, 3]]},
    "projection": {"choice": [None, 8]},
    "position": {"choice": [True, False]},
    "scaling": {"choice": ["alpha/rank", 0.5]},
    "lora_rank": {"integer": [1, 64]},
    "learning_rate": {"loguniform": [1e-4, 1e-2]},
    "focal_gamma": {"uniform": [0, 2]},
}


def asked(space, parameters):
    """Return the factors for fixed parameters, and the parameters that Optuna was asked for."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    study.enqueue_trial(parameters)
    trial = study.ask()
    return space.suggest(trial), trial.params


def test_a_knob_with_a_condition_is_asked_for_after_its_condition_and_only_where_that_holds(space_of):
    space = space_of({"when": {"focal_form": {"focal_gamma": "> 1"}}}, **CONDITIONAL)
    without, seen = asked(space, {"loss.focal_gamma": 0.5, "loss.focal_form": "joint"})
    assert without == {"loss.focal_gamma": 0.5}
    assert list(seen) == ["loss.focal_gamma"]
    both, seen = asked(space, {"loss.focal_gamma": 1.5, "loss.focal_form": "joint"})
    assert list(both.items()) == [("loss.focal_form", "joint"), ("loss.focal_gamma", 1.5)]
    assert list(seen) == ["loss.focal_gamma", "loss.focal_form"]


def test_a_condition_may_look_at_a_knob_that_the_base_sets(space_of):
    base = {"extends": "base.yaml", "epochs": 20}
    space = space_of({"base": base, "when": {"focal_form": {"epochs": ">= 10"}}}, **CONDITIONAL)
    assert "loss.focal_form" in asked(space, {})[0]
    assert "loss.focal_form" in space.base()
    with pytest.raises(
        InvalidInput, match=r"when.loss.focal_form: training.epochs: given > 20, but its only values are: 20"
    ):
        space_of({"base": base, "when": {"focal_form": {"epochs": "> 20"}}}, **CONDITIONAL)


def test_a_condition_looks_at_the_version_that_was_suggested(space_of):
    search = {"space": {"version": {"choice": ["v3", "v4"]}, "grid_size": {"choice": [2, 4]}}}
    space = space_of({"when": {"grid_size": {"spatial": True}}}, **search)
    assert asked(space, {"version": "v3"})[0] == {"version": "v3"}
    found = asked(space, {"version": "v4", "lora.grid_size": "2"})[0]
    assert found == {"version": "v4", "lora.grid_size": 2}
    assert [trial.config.version for trial in space.trials(found)] == ["v4", "v4"]
    assert space.trials(found)[0].config.lora.spatial


def test_every_kind_of_value_comes_back_from_optuna_as_the_knob_keeps_it(space_of):
    space = space_of(space=VALUES)
    for drawn in itertools.product([(1,), (1, 2)], [None, 8], [True, False], ["alpha/rank", 0.5], [1, 64]):
        names = ("backbone.layers", "backbone.projection", "features.position", "lora.scaling", "lora.rank")
        settings = {**dict(zip(names, drawn, strict=True)), "training.learning_rate": 0.00123, "loss.focal_gamma": 1.5}
        parameters = space.parameters(settings)
        assert space.factors(parameters) == settings
        found, seen = asked(space, parameters)
        assert found == settings
        assert seen == parameters
        flat = space.trials(found)[0].config
        assert (flat.backbone.layers, flat.backbone.projection, flat.lora.rank) == (drawn[0], drawn[1], drawn[4])
    assert parameters["backbone.layers"] == "1,2"
    assert parameters["backbone.projection"] == "8"


def test_numbers_have_six_digits_and_stay_within_their_bounds(space_of):
    space = space_of(space={"learning_rate": {"loguniform": [0.00012345612, 0.0123456789]}})
    at = "training.learning_rate"
    assert space.factors({at: 0.00123456789}) == {at: 0.00123457}
    assert space.factors({at: 0.00012345612}) == {at: 0.00012345612}
    assert space.factors({at: 0.0123456789}) == {at: 0.0123456789}
    assert [repr(v) for v in asked(space, {at: 0.00123456789})[0].values()] == ["0.00123457"]


def test_the_base_is_one_of_the_configurations_even_if_its_value_is_outside(space_of):
    space = space_of(
        space={"lora_rank": {"choice": [4, 8]}, "epochs": {"integer": [1, 5]}, "version": {"choice": ["v3"]}}
    )
    base = space.base()
    assert base == {"lora.rank": 2, "training.epochs": 2, "version": "v7"}
    assert {(t.config.lora.rank, t.config.version, t.config.data.evaluate) for t in space.test_trials(base)} == {
        (2, "v7", "all")
    }
    assert space.parameters(base) == {"training.epochs": 2}


def test_excluded_configurations_and_a_space_without_validation_images(space_of):
    search = {"space": {"lora_rank": {"choice": [2, 4]}, "test_images": {"integer": [2, 9]}}}
    space = space_of({"exclude": [{"lora_rank": 4}]}, **search)
    assert not space.is_excluded({"lora.rank": 2})
    assert space.is_excluded({"lora.rank": 4})
    with pytest.raises(InvalidInput, match="validation_anomalies is none"):
        space_of({"base": {"extends": "base.yaml", "validation_anomalies": "none", "evaluate": "test"}}).trials({})


def test_a_trial_of_the_search_sees_validation_images_alone_and_has_every_seed(space_of):
    trials = space_of({"seeds": [3, 5]}).trials({"training.learning_rate": 0.01})
    assert [trial.config.seed for trial in trials] == [3, 5]
    assert {trial.config.data.evaluate for trial in trials} == {"validation"}
    assert {trial.config.data.validation_anomalies for trial in trials} == {"synthetic"}
    assert len({trial.id for trial in trials}) == 2


@pytest.mark.parametrize("name", ["random", "tpe", "gp", "cmaes", "nsga2", "qmc"])
def test_every_sampler_fills_the_space_and_repeats_itself_under_a_seed(space_of, name):
    """The space has conditions and choices, and each suggestion has a new sampler."""
    space = space_of({"when": {"focal_form": {"focal_gamma": "> 1"}}}, **CONDITIONAL)

    def suggestions(seed):
        study = optuna.create_study(direction="maximize")
        found = []
        for number in range(14):
            study.sampler = make_sampler(name, seed, number)
            trial = study.ask()
            found.append(space.suggest(trial))
            study.tell(trial, found[-1]["loss.focal_gamma"])
        return found

    first = suggestions(0)
    assert suggestions(0) == first
    assert suggestions(2**32 - 1) != first  # The largest that a sweep file takes.
    assert len({str(one) for one in first}) > 10
    assert all(("loss.focal_form" in one) is (one["loss.focal_gamma"] > 1) for one in first)
