"""Requests to stop trials: seen by drivers before a trial starts, and by workers while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from moleflow.code_digest import code_digest
from moleflow.errors import InvalidInput
from orchestrator.backends.inline import InlineBackend
from orchestrator.driver.prepare import Options, prepare, worker_config
from orchestrator.execution.backend import SourceSignal, WorkItem
from orchestrator.execution.planned_trials import PlannedTrials
from orchestrator.execution.trial_source import TrialSource
from orchestrator.execution.worker import Worker
from orchestrator.plan.plan import make_plan
from orchestrator.records.attempts import CANCELLED, FINISHED, INTERRUPTED, AttemptFolder
from orchestrator.records.events import Event
from orchestrator.records.stop_requests import StopRequests, cancel_requests, prune_requests
from orchestrator.results.store import ResultStore
from orchestrator.sweep.sweep import load_sweep
from orchestrator.sweep.trial import Trial


def test_requests_are_set_for_one_trial_or_all_until_they_are_cleared(tmp_path: Path) -> None:
    requests = cancel_requests(tmp_path)
    assert not requests.is_set("0123456789ab")
    requests.add(["0123456789ab"])
    assert requests.is_set("0123456789ab")
    assert not requests.is_set("ba9876543210")
    requests.add(None)
    assert requests.is_set("ba9876543210")
    requests.clear()
    assert not requests.is_set("0123456789ab")


@pytest.mark.parametrize("requests_of", [cancel_requests, prune_requests])
def test_no_request_is_written_through_a_link_out_of_the_folder(
    tmp_path: Path, requests_of: Callable[[Path], StopRequests]
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "sweep").mkdir()
    requests = requests_of(tmp_path / "sweep")
    requests.folder.symlink_to(tmp_path / "outside")
    with pytest.raises(InvalidInput, match=r"is a link to .*outside, out of the results folder; remove the link$"):
        requests.add(["0123456789ab"])
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_running_trial_checks_the_folder_every_two_seconds_at_most(tmp_path: Path, monkeypatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    requests = cancel_requests(tmp_path)
    assert not requests.is_set_throttled("0123456789ab")
    requests.add(["0123456789ab"])
    now[0] += 1.99
    assert not requests.is_set_throttled("0123456789ab")
    now[0] += 0.01
    assert requests.is_set_throttled("0123456789ab")
    assert requests.is_set_throttled("ba9876543210") is False


def test_cancellations_and_early_stops_are_kept_apart(tmp_path: Path) -> None:
    cancel_requests(tmp_path).add(["0123456789ab"])
    assert cancel_requests(tmp_path).is_set("0123456789ab")
    assert not prune_requests(tmp_path).is_set("0123456789ab")


def test_a_cancelled_trial_is_not_handed_out(place, features, edit) -> None:
    prepared = prepare(load_sweep(edit()), Options(out=place / "results/small", cache=place / "cache"))
    unwanted = {prepared.trials[1].id}
    source = TrialSource(PlannedTrials(prepared.trials), prepared.sweep.resources, 0, cancelled=unwanted.__contains__)
    handed = []
    while isinstance(item := source.next(), WorkItem):
        handed.append(item.trial.id)
        source.events(Event("finished", item.trial.id))
    assert item is SourceSignal.DONE
    assert handed == [trial.id for trial in prepared.trials if trial.id not in unwanted]
    assert source.tally.cancelled == list(unwanted)


def test_a_cancelled_trial_ends_at_its_next_epoch_and_runs_again_later(place, features, edit) -> None:
    sweep = load_sweep(edit(grid=None, seeds=1, report=None))
    prepared = prepare(sweep, Options(out=place / "results/small", cache=place / "cache"))
    (trial,) = prepared.trials
    requests, told = cancel_requests(prepared.folder), []

    def tell(event: Event) -> None:
        told.append(event)
        if len(told) == 1:
            assert event.kind == "started"
            requests.add([trial.id])

    worker = Worker(replace(worker_config(prepared, Options()), worker="w"), tell)
    worker.run(trial)
    worker.flush()
    assert told[-1].kind == "cancelled"
    assert sum(event.kind == "epoch" for event in told) <= 1
    requests.clear()
    worker.run(trial)
    worker.flush()
    assert told[-1].kind == "finished"
    records = AttemptFolder(prepared.folder / "attempts").of_trial(trial.id)
    assert [(r.state, r.content.get("error_kind")) for r in records] == [(INTERRUPTED, CANCELLED), (FINISHED, None)]


class StopsAfterTheFirstTask(PlannedTrials):
    """A search that has seen enough of trial `of` when its first task ends."""

    of = ""

    def on_event(self, trial: Trial, event: Event) -> set[str]:
        return {self.of} & {trial.id}


def test_a_pruned_trial_keeps_its_first_task_and_continues_from_it(place, features, edit) -> None:
    sweep = load_sweep(edit(grid=None, seeds=2, report=None))
    chosen = Options(out=place / "results/small", cache=place / "cache", backend="inline")
    prepared = prepare(sweep, chosen)
    search = StopsAfterTheFirstTask(prepared.trials)
    search.of = prepared.trials[0].id
    requests = prune_requests(prepared.folder)
    source = TrialSource(search, sweep.resources, 0, prune=lambda trial_id: requests.add([trial_id]))
    InlineBackend(worker_config(prepared, chosen)).run(source, source.events)
    assert source.tally.pruned == [search.of]
    assert source.tally.finished == [prepared.trials[1].id]
    store = ResultStore(prepared.folder)
    assert store.pruned() == {search.of}
    rows = store.read("metrics").to_pylist()
    assert {(r["task_name"], r["status"]) for r in rows if r["trial_id"] == search.of} == {("bolt", "pruned")}
    assert len({r["scores_digest"] for r in rows if r["task_name"] == "bolt" and r["after_task"] == 0}) == 2
    again = make_plan(prepared.trials, store.finished(), code_digest(), pruned=store.pruned())
    assert [planned.state for planned in again.trials] == ["pruned", "done"]
    requests.clear()
    left = make_plan(prepared.trials, store.finished(), code_digest()).of("to run")
    assert [trial.id for trial in left] == [search.of]
    whole = TrialSource(PlannedTrials(left), sweep.resources, 0)
    InlineBackend(worker_config(prepared, chosen)).run(whole, whole.events)
    assert ResultStore(prepared.folder).pruned() == frozenset()
    curves = [r for r in ResultStore(prepared.folder).read("curves").to_pylist() if r["trial_id"] == search.of]
    assert {(r["task_name"], r["reused"]) for r in curves if r["status"] == "finished"} == {
        ("bolt", True),
        ("cloth", False),
    }
