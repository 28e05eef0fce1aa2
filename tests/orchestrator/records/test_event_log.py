"""The logs of workers: what is appended arrives once, in order, and never breaks a run or a reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.records.event_log import EventLog, LogFollower
from orchestrator.records.events import Event


def epoch(number: int, epochs: int = 40) -> Event:
    return Event("epoch", "0123456789ab", {"epoch": number, "epochs": epochs, "task": 0})


def kinds(follower: LogFollower, pattern: str = "*") -> list[str]:
    return [entry.event.kind for entry in follower.look(pattern)]


def test_each_event_is_seen_once_with_its_worker_and_its_facts(tmp_path: Path) -> None:
    log, follower = EventLog(tmp_path / "w-1.jsonl"), LogFollower(tmp_path)
    log(Event("started", "0123456789ab", {"attempt": 1}))
    (entry,) = follower.look()
    assert (entry.worker, entry.event) == ("w-1", Event("started", "0123456789ab", {"attempt": 1}))
    assert follower.look() == []
    log(Event("finished", "0123456789ab", {"seconds": 1.5}))
    assert kinds(follower) == ["finished"]


def test_progress_is_logged_once_a_second_at_most_but_for_the_last_epoch_and_all_else(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "w.jsonl")
    for event in [*(epoch(n + 1) for n in range(39)), Event("task", "0123456789ab"), epoch(40)]:
        log(event)
    seen = LogFollower(tmp_path).look()
    assert [entry.event.kind for entry in seen] == ["epoch", "task", "epoch"]
    assert [entry.event.facts.get("epoch") for entry in seen] == [1, None, 40]


def test_a_line_that_is_not_whole_waits_and_a_damaged_one_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    follower = LogFollower(tmp_path)
    path.write_bytes(b'{"time": 1, "kind": "started", "trial_id": "a"}\nnot json\n{"time": 2, "kind": "task", ')
    assert kinds(follower) == ["started"]
    with path.open("ab") as file:
        file.write(b'"trial_id": "a"}\n')
    assert kinds(follower) == ["task"]


def test_workers_are_followed_by_name(tmp_path: Path) -> None:
    for name in ("slurm-7_0", "slurm-7_1", "local-3"):
        EventLog(tmp_path / f"{name}.jsonl")(Event("started", "0123456789ab"))
    assert len(LogFollower(tmp_path).look("slurm-7_*")) == 2


@pytest.mark.parametrize("where", ["a file/w.jsonl", "missing/w.jsonl"])
def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path, where: str) -> None:
    (tmp_path / "a file").touch()
    EventLog(tmp_path / where)(Event("started", "0123456789ab"))
    assert (tmp_path / "missing/w.jsonl").exists() == (where == "missing/w.jsonl")
