"""Pruning with real workers: a pruned trial keeps its rows, and the other seeds do not run."""

from __future__ import annotations

import optuna
import pytest

from orchestrator.results.store import ResultStore
from orchestrator.search.storage import open_journal


@pytest.mark.process
def test_a_stopped_configuration_has_no_further_attempts_now_or_later(place, features, furnish_search, command):
    furnish_search(place, trials=6, pruner="asha", sampler="random", finalists=1)
    ended = command("sweep.yaml", "--backend", "inline", "--quiet")
    assert ended.code == 0, ended.err
    results = place / "results" / "search"
    study = optuna.load_study(study_name="search", storage=open_journal(results))
    pruned = [trial for trial in study.get_trials() if trial.state.name == "PRUNED"]
    assert pruned
    assert {trial.state.name for trial in study.get_trials()} == {"PRUNED", "COMPLETE"}
    store = ResultStore(results)
    ends = {row["trial_id"]: row["status"] for row in store.read("attempts").to_pylist()}
    for trial in pruned:
        first, *rest = [ends.get(trial_id) for trial_id in trial.user_attrs["trials"]]
        assert "pruned" in (first, *rest)
        assert set(rest[rest.index("pruned") + 1 :] if "pruned" in rest else rest) <= {None}
        assert len(trial.intermediate_values) < 4 or rest[-1] == "pruned"
    rows = store.read("metrics").to_pylist()
    values = {(r["trial_id"], r["task"]): r["image_auroc"] for r in rows if r["task"] == r["after_task"]}
    for trial in study.get_trials():
        for step, value in trial.intermediate_values.items():
            seed, task = divmod(step - 1, 2)
            assert values[trial.user_attrs["trials"][seed], task] == value
    page = (results / "search.md").read_text()
    assert f"{len(pruned)} pruned" in page
    assert "pruning saved about" in page
    before = store.read("attempts").num_rows
    again = command("sweep.yaml", "--backend", "inline", "--quiet")
    assert again.code == 0, again.err
    assert ResultStore(results).read("attempts").num_rows == before
    counted = command("plan", "sweep.yaml")
    assert counted.code == 0, counted.err
    assert "0 to run" in counted.out
