"""Finished trials as reports read them: settings, environment, cost, and reuse of parsed rows."""

from __future__ import annotations

import json

from orchestrator.reports.finished_trials import finished_trials, flatten_settings

GAMMA = "loss.focal_gamma"


def test_trials_of_one_configuration_share_their_settings_without_the_seed(add, stored):
    for seed in (0, 12):
        add({GAMMA: 2.0}, seed)
    add({GAMMA: 3.0}, -5)
    trials = {trial.seed: trial for trial in finished_trials(stored(), None, "test")}
    assert set(trials) == {0, 12, -5}
    assert trials[0].settings is trials[12].settings
    assert trials[0].environment is trials[-5].environment
    assert "seed" not in trials[-5].settings
    assert (trials[0].settings[GAMMA], trials[-5].settings[GAMMA]) == (2.0, 3.0)


def test_a_configuration_that_names_another_seed_keeps_it(add, stored):
    for own_seed in (1, 2):
        add({GAMMA: 2.0}, settings={"training.seed": own_seed})
    found = {trial.settings["training.seed"] for trial in finished_trials(stored(), None, "test")}
    assert found == {1, 2}


def test_a_knob_that_is_newer_than_the_trial_has_the_value_it_ran_with(add, stored):
    from moleflow.settings.knob_history import values_before_knob_existed

    add({GAMMA: 2.0})
    (trial,) = finished_trials(stored(), None, "test")
    before = values_before_knob_existed()
    assert before
    assert before.items() <= dict(trial.settings).items()


def test_the_environment_holds_everything_that_digits_depend_on(add, stored):
    add({GAMMA: 2.0}, cuda="13.0", tf32=True, packages='{"timm":"1.0.31","scipy":"1.17"}')
    (trial,) = finished_trials(stored(), None, "test")
    assert trial.environment == {
        "dataset": "embedded",
        "code_digest": "c0de" * 16,
        "device": "cpu",
        "device_model": "Model A",
        "torch": "2.13.0",
        "cuda": "13.0",
        "tf32": "true",
        "dtype": "float32",
        "threads": "1",
        "package timm": "1.0.31",
        "package scipy": "1.17",
    }


def test_cost_counts_every_attempt_and_saves_only_the_work_of_others(add, stored):
    add({GAMMA: 2.0}, attempt=1, status="failed", seconds_spent=100.0)
    add({GAMMA: 2.0}, attempt=2, status="interrupted", seconds_spent=50.0, code_digest="old" * 20)
    add({GAMMA: 2.0}, attempt=3, seconds_spent=10.0, seconds_reused=300.0, git_commit="0123456789abcdef")
    (trial,) = finished_trials(stored(), None, "test")
    assert (trial.seconds_spent, trial.seconds_reused) == (10.0, 300.0)
    assert trial.seconds_lost == 150.0
    assert trial.seconds_saved == 200.0  # The first attempt may have trained 100 s of it, the second nothing.
    assert sorted(trial.unfinished) == ["failed", "interrupted"]
    assert trial.git == "git 0123456789ab"


def test_only_selected_trials_are_returned_in_the_order_of_their_ids(add, stored):
    ids = [add({GAMMA: float(gamma)}) for gamma in range(4)]
    store = stored()
    assert [trial.trial_id for trial in finished_trials(store, None, "test")] == sorted(ids)
    assert [trial.trial_id for trial in finished_trials(store, set(ids[1:3]), "test")] == sorted(ids[1:3])
    assert finished_trials(store, None, "validation") == []


def test_nested_settings_become_dotted_paths():
    nested = json.loads('{"a": {"b": {"c": 1}, "d": [2]}, "e": {}, "f": null}')
    assert flatten_settings(nested) == {"a.b.c": 1, "a.d": [2], "e": {}, "f": None}
