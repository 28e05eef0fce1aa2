"""What a results folder holds beside a plan's trials."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moleflow.source import code_digest
from orchestrator.planning import Planned
from orchestrator.prepared import Options, prepare
from orchestrator.results.store import ResultStore
from orchestrator.spec import load_sweep
from orchestrator.stage_tree import stage_tree
from orchestrator.trained import trained_beside
from orchestrator.trial import Trial


@pytest.fixture
def known(finished: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ResultStore, list[Trial]]:
    """A results folder, and the trials of the sweep that made it."""
    monkeypatch.chdir(finished)
    options = Options(out=finished / "results/small", cache=finished / "cache")
    planned: tuple[Planned, ...] = prepare(load_sweep(finished / "sweep.yaml"), options).plan.trials
    return ResultStore(finished / "results/small"), [of.trial for of in planned]


def test_the_trials_that_are_not_planned_are_read_back_as_they_were(known: tuple[ResultStore, list[Trial]]) -> None:
    store, trials = known
    found = {trial.id: trial for trial in trained_beside(store, {trials[0].id}, code_digest())}
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
    assert trained_beside(known[0], (), "other code") == []
