"""The listeners of a run, without a backend."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from moleflow.errors import Damaged
from orchestrator.driver import driver
from orchestrator.driver.prepare import Options
from orchestrator.records.attempts import DIED, RUNNING
from orchestrator.records.events import Event


def test_events_reach_all_listeners_in_order():
    """The first listener has an event before the second one gets it."""
    calls = []
    pass_on = driver.broadcast(
        [lambda event: calls.append(("first", event)), lambda event: calls.append(("second", event))]
    )
    events = [Event("started", "a"), Event("finished", "a")]
    for event in events:
        pass_on(event)
    assert calls == [("first", events[0]), ("second", events[0]), ("first", events[1]), ("second", events[1])]


@pytest.mark.parametrize("error", [None, OSError("full"), Damaged("part")])
def test_results_are_compacted_when_finished_trials_double(monkeypatch, error):
    """After 2, 4 and 8 of 10 finished trials, even if compacting fails. Failures do not count."""
    monkeypatch.setattr(driver, "COMPACT_FROM", 2)
    finished, compacted_at = 0, []

    def compact():
        compacted_at.append(finished)
        if error is not None:
            raise error

    listen = driver._compact_as_it_grows(SimpleNamespace(compact=compact))
    for _ in range(10):
        finished += 1
        listen(Event("failed", "a"))
        listen(Event("finished", "a"))
    assert compacted_at == [2, 4, 8]


def test_the_first_compaction_comes_after_200_trials():
    """199 finished trials are too few."""
    calls = Counter()
    listen = driver._compact_as_it_grows(SimpleNamespace(compact=lambda: calls.update(["compact"])))
    for _ in range(199):
        listen(Event("finished", "a"))
    assert calls["compact"] == 0
    listen(Event("finished", "a"))
    assert calls["compact"] == 1


def attempts_of_trial_a():
    records = [SimpleNamespace(state=DIED), SimpleNamespace(state=RUNNING)]
    return records, SimpleNamespace(of_trial={"a": records}.__getitem__)


@pytest.mark.parametrize("full", [False, True])
def test_a_dead_worker_is_recorded_at_once(monkeypatch, full):
    """Only dead attempts are recorded, with the event's error. A full disk stops no run."""
    (dead, _), attempts = attempts_of_trial_a()
    recorded = []

    def record(folder, store, records, error):
        recorded.append((folder, store, records, error))
        if full:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(driver.dead_attempts, "record_dead_attempts", record)
    listen = driver._record_dead_worker(attempts, "store")
    listen(Event("failed", "a", {"error_kind": "WorkerDied", "error": "died by signal 9"}))
    assert recorded == [(attempts, "store", [dead], "died by signal 9")]


@pytest.mark.parametrize(
    "event",
    [Event("failed", "a", {"error_kind": "Diverged", "error": "nan"}), Event("finished", "a"), Event("epoch", "a")],
)
def test_other_events_record_no_dead_attempt(monkeypatch, event):
    """A failed trial whose worker lives writes its own record."""
    monkeypatch.setattr(driver.dead_attempts, "record_dead_attempts", lambda *_: pytest.fail("recorded"))
    driver._record_dead_worker(attempts_of_trial_a()[1], "store")(event)


def test_without_trials_no_backend_is_started():
    """Neither the options nor the results folder are used."""
    assert driver.run_backend(None, Options(), None, {}, 0, None) is False


@pytest.mark.parametrize(("backend", "waits"), [("local", True), ("inline", True), ("slurm", False), ("ray", True)])
def test_only_slurm_gives_out_trials_that_wait_for_a_stage(monkeypatch, tmp_path, backend, waits):
    """On SLURM the jobs themselves wait for each other; elsewhere the source holds trials back."""
    trees = []
    monkeypatch.setattr(driver, "stage_tree", lambda trials: SimpleNamespace(after=lambda trial_id: ("leader",)))
    monkeypatch.setattr(driver, "PlannedTrials", lambda trials, tree: trees.append(tree))
    sweep = SimpleNamespace(resources=None, retries=0)
    driver.trial_source_of_plan(SimpleNamespace(folder=tmp_path, sweep=sweep), Options(backend=backend), [])
    assert [tree is not None for tree in trees] == [waits]
