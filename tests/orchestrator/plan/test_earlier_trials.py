"""Finished trials of a results folder that are not in the plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moleflow.code_digest import code_digest
from orchestrator.driver.prepare import Options, prepare
from orchestrator.plan.earlier_trials import earlier_finished_trials
from orchestrator.plan.plan import PlannedTrial
from orchestrator.plan.stage_tree import stage_tree
from orchestrator.results.store import ResultStore
from orchestrator.sweep.sweep import load_sweep
from orchestrator.sweep.trial import Trial


@pytest.fixture
def known(finished: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ResultStore, list[Trial]]:
    """A results folder, and the trials of the sweep that made it."""
    monkeypatch.chdir(finished)
    options = Options(out=finished / "results/small", cache=finished / "cache")
    planned: tuple[PlannedTrial, ...] = prepare(load_sweep(finished / "sweep.yaml"), options).plan.trials
    return ResultStore(finished / "results/small"), [of.trial for of in planned]


def test_the_trials_that_are_not_planned_are_read_back_as_they_were(known: tuple[ResultStore, list[Trial]]) -> None:
    store, trials = known
    found = {trial.id: trial for trial in earlier_finished_trials(store, {trials[0].id}, code_digest())}
    assert found.keys() == {trial.id for trial in trials[1:]}
    for trial in trials[1:]:
        again = found[trial.id]
        assert json.loads(again.config.model_dump_json()) | {"backbone": None} == json.loads(
            trial.config.model_dump_json()
        ) | {"backbone": None}
        assert (again.inputs.data, again.inputs.weights) == (trial.inputs.data, trial.inputs.weights)
        # It goes through the same stages.
        chains = stage_tree([trial, Trial("again", again.config, {}, again.inputs)]).chains
        assert chains[trial.id] == chains["again"]


def test_what_other_code_trained_is_of_no_use(known: tuple[ResultStore, list[Trial]]) -> None:
    assert earlier_finished_trials(known[0], (), "other code") == []
