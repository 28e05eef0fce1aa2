"""The log of one trial over its attempts and workers, each line once, with unlogged ends."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from orchestrator.monitor.trial_log import TrialLog, describe_event
from orchestrator.records.attempts import CANCELLED, FAILED, FINISHED, INTERRUPTED, WORKER_DIED, AttemptFolder
from orchestrator.records.dead_attempts import UNSEEN
from orchestrator.records.event_log import EventLog, event_logs
from orchestrator.records.events import Event

TRIAL, OTHER = "0123456789ab", "ba9876543210"
TRACE = 'Traceback (most recent call last):\n  File "x.py", line 1\nDiverged: nan\n'


@pytest.fixture
def records(tmp_path: Path) -> AttemptFolder:
    return AttemptFolder(tmp_path / "attempts")


def worker(folder: Path, name: str, attempt: int):
    """Log as the worker `name` does in an attempt."""
    log = EventLog(event_logs(folder) / f"{name}.jsonl")
    return lambda kind, trial_id=TRIAL, **facts: log(
        Event(kind, trial_id, {"attempt": attempt, "worker": name, **facts})
    )


def without_times(lines: list[str]) -> list[str]:
    return [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", "", line) for line in lines]


def test_all_attempts_and_workers_in_order_and_nothing_of_other_trials(tmp_path: Path, records: AttemptFolder) -> None:
    first, second = worker(tmp_path, "w-0", 1), worker(tmp_path, "w-1", 2)
    begun = records.begin(TRIAL, row={"worker": "w-0"})
    first("started")
    first("epoch", OTHER, task=0, tasks=1, task_name="grid", epoch=1, epochs=2, loss=1.0)
    begun.end(FAILED, error="Diverged: nan", traceback=TRACE)
    first("failed", error="Diverged: nan", traceback=TRACE)
    again = records.begin(TRIAL, row={"worker": "w-1"})
    second("started")
    second("epoch", task=0, tasks=1, task_name="grid", epoch=40, epochs=40, loss=1.23412)
    again.end(FINISHED)
    second("finished", seconds=2.04, image_auroc=0.5)
    log = TrialLog(tmp_path, TRIAL)
    assert without_times(log.read_new()) == [
        "attempt 1  w-0  started",
        f"attempt 1  w-0  failed: Diverged: nan\n{TRACE.rstrip()}",
        "attempt 2  w-1  started",
        "attempt 2  w-1  grid  epoch 40/40  loss 1.234",
        "attempt 2  w-1  finished  image AUROC 0.5000  2.0 s",
    ]
    assert log.read_new() == []


def test_an_event_without_an_attempt_stands_where_it_happened(tmp_path: Path) -> None:
    def log(name: str, *entries: tuple[float, str, dict[str, object]]) -> None:
        lines = [{"time": at, "kind": kind, "trial_id": TRIAL, **facts} for at, kind, facts in entries]
        (tmp_path / "events").mkdir(exist_ok=True)
        (tmp_path / f"events/{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    log("w-0", (10.0, "started", {"attempt": 1}), (20.0, "failed", {"attempt": 1, "error": "no luck"}))
    log("w-1", (30.0, "held", {"by": "host:7"}), (40.0, "started", {"attempt": 2}))
    assert without_times(TrialLog(tmp_path, TRIAL).read_new()) == [
        "attempt 1  w-0  started",
        "attempt 1  w-0  failed: no luck",
        "w-1  another run is at it (host:7)",
        "attempt 2  w-1  started",
    ]


def test_each_line_is_read_once(tmp_path: Path, records: AttemptFolder) -> None:
    log, tell = TrialLog(tmp_path, TRIAL), worker(tmp_path, "w-0", 1)
    assert log.read_new(last=False) == []
    begun = records.begin(TRIAL, row={"worker": "w-0"})
    tell("started")
    assert without_times(log.read_new(last=False)) == ["attempt 1  w-0  started"]
    begun.end(FINISHED)  # The worker closes the record a moment before it logs the end.
    assert log.read_new(last=False) == []
    tell("finished", seconds=1.0, image_auroc=None)
    assert without_times(log.read_new(last=False)) == ["attempt 1  w-0  finished  1.0 s"]
    assert log.read_new() == []


def test_ends_that_only_the_record_tells(tmp_path: Path, records: AttemptFolder) -> None:
    log = TrialLog(tmp_path, TRIAL)
    died = records.begin(TRIAL, row={"worker": "w-0"})
    died.end(FAILED, error="the worker process died by signal 9", error_kind=WORKER_DIED)
    assert log.read_new(last=False) == []
    assert without_times(log.read_new(last=False)) == ["attempt 1  w-0  failed: the worker process died by signal 9"]
    records.begin(TRIAL, row={"worker": "w-1"}).end(INTERRUPTED, error="cancelled", error_kind=CANCELLED)
    assert without_times(log.read_new()) == ["attempt 2  w-1  cancelled"]
    worker(tmp_path, "w-1", 2)("cancelled", error="cancelled")
    assert log.read_new() == []


def test_a_dead_attempt_without_a_recorded_end(tmp_path: Path, records: AttemptFolder) -> None:
    begun = records.begin(TRIAL, row={"worker": "w-0"})
    begun.record.path.write_text('{"state": "running", "host": "afar", "pid": 1, "row": {"worker": "w-0"}}')
    begun.stop()  # Nobody touches it.
    os.utime(begun.record.path, (1e9, 1e9))
    (line,) = TrialLog(tmp_path, TRIAL).read_new()
    assert line.startswith("2001-09-")
    assert line.endswith(f"attempt 1  w-0  failed: {UNSEEN}")


@pytest.mark.parametrize(
    ("kind", "facts", "said"),
    [
        ("features", {"done": 3, "total": 12}, "features 3/12"),
        (
            "task",
            {"task_name": "grid", "image_auroc": 0.93, "reused": True},
            "grid  done  image AUROC 0.9300  taken from the store",
        ),
        ("task", {"task_name": "grid", "image_auroc": None, "reused": False}, "grid  done"),
        ("held", {"by": "n1:7"}, "another run is at it (n1:7)"),
        ("elsewhere", {}, "another run has finished it"),
        ("fatal", {"error": "no space left"}, "stopped: no space left"),
        ("interrupted", {"error": "stopped from outside"}, "interrupted: stopped from outside"),
        ("cancelled", {"error": "cancelled"}, "cancelled"),
        ("withdrawn", {}, "withdrawn"),
    ],
)
def test_events_in_words(kind, facts, said) -> None:
    assert describe_event(Event(kind, TRIAL, facts)) == said
