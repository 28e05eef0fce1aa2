"""Event logs: each line is read once, in order; neither writing nor reading ever stops a run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from orchestrator.records.attempts import AttemptRecord
from orchestrator.records.event_log import EventLog, LogFollower, event_logs, logged_epochs
from orchestrator.records.events import Event


def epoch(number: int, epochs: int = 40) -> Event:
    facts = {"task": 0, "tasks": 2, "task_name": "leather", "loss": 1.5}
    return Event("epoch", "0123456789ab", {"epoch": number, "epochs": epochs, **facts})


def task(trial: str = "0123456789ab", **facts: object) -> Event:
    return Event("task", trial, {"task": 0, "tasks": 2, "task_name": "leather", **facts})


def kinds(follower: LogFollower, pattern: str = "*") -> list[str]:
    return [entry.event.kind for entry in follower.read_new(pattern)]


def test_each_event_is_seen_once_with_its_worker_and_its_facts(tmp_path: Path) -> None:
    log, follower = EventLog(tmp_path / "w-1.jsonl"), LogFollower(tmp_path)
    log(Event("started", "0123456789ab", {"attempt": 1}))
    (entry,) = follower.read_new()
    assert (entry.worker, entry.event) == ("w-1", Event("started", "0123456789ab", {"attempt": 1}))
    assert follower.read_new() == []
    log(Event("finished", "0123456789ab", {"seconds": 1.5}))
    assert kinds(follower) == ["finished"]


def test_progress_is_logged_once_a_second_at_most_but_for_the_last_epoch_and_all_else(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "w.jsonl")
    for event in [*(epoch(n + 1) for n in range(39)), task(), epoch(40)]:
        log(event)
    seen = LogFollower(tmp_path).read_new()
    assert [entry.event.kind for entry in seen] == ["epoch", "task", "epoch"]
    assert [entry.event.facts.get("epoch") for entry in seen] == [1, None, 40]


def test_a_line_that_is_not_whole_waits_and_a_damaged_one_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    follower = LogFollower(tmp_path)
    path.write_bytes(b'{"time": 1, "kind": "started", "trial_id": "a"}\nnot json\n{"time": 2, "kind": "held", ')
    assert kinds(follower) == ["started"]
    with path.open("ab") as file:
        file.write(b'"trial_id": "a"}\n')
    assert kinds(follower) == ["held"]


def test_workers_are_followed_by_name(tmp_path: Path) -> None:
    for name in ("slurm-7_0", "slurm-7_1", "local-3"):
        EventLog(tmp_path / f"{name}.jsonl")(Event("started", "0123456789ab"))
    assert len(LogFollower(tmp_path).read_new("slurm-7_*")) == 2


def test_logs_that_are_read_when_due_wait_for_longer_the_more_there_are(tmp_path: Path) -> None:
    now = [100.0]
    follower = LogFollower(tmp_path, clock=lambda: now[0])
    assert follower.read_due() == []  # The first call reads.
    EventLog(tmp_path / "w-1.jsonl")(Event("started", "0123456789ab"))
    pauses = []
    for _ in range(3):
        looked = now[0]
        assert follower.read_due() is None
        while follower.read_due() is None:
            now[0] += 0.5
        pauses.append(now[0] - looked)
        for name in range(40):
            EventLog(tmp_path / f"v-{len(pauses)}-{name}.jsonl")(Event("started", "0123456789ab"))
    assert pauses == [4.0, 8.0, 15.0]
    assert follower.read_due(every_s=0.5) is None
    now[0] += 0.5
    assert len(follower.read_due(every_s=0.5) or ()) == 40


@pytest.mark.parametrize("where", ["a file/w.jsonl", "missing/w.jsonl"])
def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path, where: str) -> None:
    (tmp_path / "a file").touch()
    EventLog(tmp_path / where)(Event("started", "0123456789ab"))
    assert (tmp_path / "missing/w.jsonl").exists() == (where == "missing/w.jsonl")


def test_progress_is_logged_again_after_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    log = EventLog(tmp_path / "w.jsonl")
    for seconds in (0.0, 0.9, 0.2, 0.95, 0.05):
        now[0] += seconds
        log(epoch(round(100 * (now[0] - 1000)), epochs=1000))
    assert [entry.event.facts["epoch"] for entry in LogFollower(tmp_path).read_new()] == [0, 110, 210]


def test_epochs_of_one_attempt_of_one_trial_are_counted(tmp_path: Path) -> None:
    logs = event_logs(tmp_path)
    log = EventLog(logs / "w.jsonl")
    for trial, attempt in (("0123456789ab", 1), ("0123456789ab", 2), ("0123456789ab", 2), ("ba9876543210", 2)):
        log(Event("epoch", trial, epoch(40).facts | {"attempt": attempt}))
        log(task(trial, attempt=attempt))
    record = AttemptRecord("0123456789ab", 2, tmp_path / "x.json", "")
    assert logged_epochs(tmp_path, "w", record) == 2
    assert logged_epochs(tmp_path, "", record) == 0


def test_the_last_epoch_of_a_task_is_always_logged(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "w.jsonl")
    for number in (1, 39, 40):
        log(epoch(number))
    assert [entry.event.facts["epoch"] for entry in LogFollower(tmp_path).read_new()] == [1, 40]
