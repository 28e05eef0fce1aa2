"""The driver's side of a Ray run: memory, deaths and missing ends."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.tune.experiment import Trial as TuneTrial

from moleflow.settings.config import TrialConfig
from orchestrator.backends.ray.tune_source import KEPT_OF_A_RESULT, NoMoreTrials, TuneSource
from orchestrator.execution.backend import SourceSignal, WorkerConfig, WorkItem
from orchestrator.records.event_log import EventLog, event_logs
from orchestrator.records.events import ENDS, Event
from orchestrator.records.stop_requests import prune_requests
from orchestrator.sweep.file_schema import Resources
from orchestrator.sweep.trial import Inputs, Trial

pytestmark = pytest.mark.ray


def test_neither_tune_nor_the_source_keeps_the_trials_that_have_ended(place, features, on_ray):
    looks = []
    of_other_tests = [one for one in gc.get_objects() if type(one) is TuneTrial]

    def listen(event):
        if event.kind not in ENDS:
            return
        known = gc.get_objects()
        sources = [one for one in known if type(one) is TuneSource and one.setup.folder.is_relative_to(place)]
        ours = [one for one in known if type(one) is TuneTrial and one not in of_other_tests]
        over = [one for one in ours if one.status == TuneTrial.TERMINATED]
        looks.append((sources, over))

    tally = on_ray(listen, workers=1)
    assert len(tally.finished) == 4
    (source,), over = looks[-1]
    assert not source.open_trials
    assert not source.placed
    assert len(over) >= 3
    for trial in over:
        assert trial.config["placed"].trial is None
        assert trial.evaluated_params["placed"].trial is None
        assert set(trial.last_result) <= KEPT_OF_A_RESULT | {"experiment_tag"}
        assert trial.metric_analysis["image_auroc"]["max"] > 0
        assert "pid" not in trial.last_result
        assert "time_total_s" not in trial.metric_analysis


A, B = "a" * 12, "b" * 12


class Given:
    """A source that has some items and then a signal."""

    def __init__(self, *names: str) -> None:
        inputs = Inputs({}, "", "")
        self._left = [WorkItem(Trial(n, TrialConfig(), {}, inputs), (), Resources()) for n in names]
        self.then = SourceSignal.WAIT

    def next(self) -> WorkItem | SourceSignal:
        return self._left.pop(0) if self._left else self.then


class Run:
    """A TuneSource whose Tune, workers and clock are the test."""

    def __init__(self, folder: Path, max_items: float = 10.0) -> None:
        self.folder, self.now = folder, 0.0
        self.given = Given(A, B)
        self.events: list[Event] = []
        setup = WorkerConfig("s", folder, folder, folder, "d", "ray", "ray-1", "cpu", 1, False, {})
        self.source = TuneSource(setup, self.given, self.events.append, max_items, lambda: self.now)

    def tell(self, kind: str, trial_id: str, worker: str = "ray-1-x") -> None:
        """Write an event into the log of a worker."""
        EventLog(event_logs(self.folder) / f"{worker}.jsonl")(Event(kind, trial_id, {"attempt": 1}))  # type: ignore[arg-type]

    def record(self, trial_id: str, state: str, worker: str = "ray-1-x") -> None:
        """Write the attempt record of a process on another host whose heartbeat has stopped."""
        (self.folder / "attempts").mkdir(exist_ok=True)
        path = self.folder / "attempts" / f"{trial_id}-1.json"
        row = {"worker": worker}
        content = {"trial_id": trial_id, "attempt": 1, "state": state, "started_at": 1e9, "host": "elsewhere"}
        path.write_text(json.dumps({**content, "pid": 1, "row": row}))
        os.utime(path, (1e9, 1e9))

    @property
    def kinds(self) -> list[tuple[str, str]]:
        return [(event.kind, event.trial_id) for event in self.events]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    return lambda **more: Run(tmp_path, **more)


def test_tune_gets_at_most_as_many_items_as_allowed(run: Callable[..., Run]) -> None:
    tuned = run(max_items=1).source
    assert isinstance(tuned.next("t1"), WorkItem)
    assert tuned.next("t2") is SourceSignal.WAIT
    assert tuned.open_trials == {A}


def test_a_done_source_ends_the_run_although_trials_are_running(run: Callable[..., Run]) -> None:
    tuned = run()
    tuned.source.next("t1")
    tuned.given._left.clear()
    tuned.given.then = SourceSignal.DONE
    with pytest.raises(NoMoreTrials):
        tuned.source.next("t2")


def test_events_of_open_trials_are_read_from_the_logs_seldom_but_ends_at_once(run: Callable[..., Run]) -> None:
    tuned = run()
    tuned.source.next("t1")
    tuned.tell("started", A)
    tuned.tell("finished", B)  # It is not open.
    tuned.tell("started", A, worker="ray-2-x")  # Another driver's worker.
    tuned.now = 3.9
    tuned.source.read_logs()
    assert tuned.kinds == []
    tuned.now = 4.1
    tuned.source.read_logs()
    assert tuned.kinds == [("started", A)]
    tuned.source.on_complete("t1")  # Its end is not in the log yet.
    tuned.tell("finished", A)
    tuned.now = 4.4
    tuned.source.read_logs()
    assert tuned.source.open_trials == set()


def test_a_stop_by_tune_is_a_request_to_the_worker(run: Callable[..., Run], tmp_path: Path) -> None:
    tuned = run()
    tuned.source.next("t1")
    tuned.source.on_early_stop("t1")
    assert prune_requests(tmp_path).is_set(A)
    assert tuned.source.open_trials == {A}


def test_the_death_of_a_process_fails_its_trial_only(run: Callable[..., Run]) -> None:
    tuned = run()
    tuned.source.next("t1")
    tuned.source.next("t2")
    tuned.record(B, "running", worker="ray-1-other")
    tuned.source.on_death("t1", "OutOfMemoryError")
    assert tuned.kinds == [("failed", A)]
    assert tuned.events[0].facts["error"] == "the Ray worker that ran it died (OutOfMemoryError)"
    assert tuned.events[0].facts["error_kind"] == "WorkerDied"
    assert tuned.source.open_trials == {B}


def test_an_end_that_a_worker_had_logged_before_its_death_counts(run: Callable[..., Run]) -> None:
    tuned = run()
    tuned.source.next("t1")
    tuned.tell("finished", A)
    tuned.source.on_death("t1", "")
    assert tuned.kinds == [("finished", A)]


@pytest.mark.parametrize(("state", "kind"), [("finished", "finished"), ("pruned", "pruned"), ("failed", "failed")])
def test_without_an_end_in_the_log_the_record_decides_after_ten_seconds(
    state: str, kind: str, run: Callable[..., Run]
) -> None:
    tuned = run()
    tuned.source.next("t1")
    tuned.record(A, state)
    tuned.source.on_complete("t1")
    tuned.now = 9.9
    tuned.source.read_logs()
    assert tuned.kinds == []
    tuned.now = 10.5
    tuned.source.read_logs()
    assert tuned.kinds == [(kind, A)]


def test_without_an_end_and_a_record_the_trial_has_failed(run: Callable[..., Run]) -> None:
    tuned = run()
    tuned.source.next("t1")
    tuned.source.on_complete("t1")
    tuned.now = 10.5
    tuned.source.read_logs()
    assert tuned.kinds == [("failed", A)]
    assert "died after the trial's end, before its results were written" in tuned.events[0].facts["error"]
