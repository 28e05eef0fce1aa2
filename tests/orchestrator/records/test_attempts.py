"""Attempt records: owned by one worker, numbered in order, died with their process."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import moleflow.cache.claim
from moleflow import files
from moleflow.owner import process_identity
from orchestrator.records.attempts import (
    DIED,
    FAILED,
    FINISHED,
    RUNNING,
    Attempt,
    AttemptFolder,
    AttemptRecord,
    write_json,
)

TRIAL = "0123456789ab"


@pytest.fixture
def records(tmp_path: Path) -> AttemptFolder:
    return AttemptFolder(tmp_path / "attempts")


def owned(records: AttemptFolder, number: int = 1, age: float = 0.0, **owner: object) -> Path:
    """A record that says `running`, of another owner."""
    path = records.folder / f"{TRIAL}-{number}.json"
    write_json(path, {"trial_id": TRIAL, "attempt": number, "state": RUNNING, "started_at": time.time() - age, **owner})
    os.utime(path, (time.time() - age, time.time() - age))
    return path


@pytest.fixture
def judged_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts of other hosts are judged at the first look."""
    monkeypatch.setattr(moleflow.cache.claim, "WATCHED_S", 0.0)
    monkeypatch.setattr(moleflow.cache.claim, "LOOK_EVERY_S", 0.0)


def test_attempts_are_numbered_in_order_and_keep_their_facts(records):
    first = records.begin(TRIAL, row={"device": "cpu"})
    assert isinstance(first, Attempt)
    first.end(FAILED, error="no luck", traceback="Traceback")
    second = records.begin(TRIAL)
    second.end(FINISHED)
    records.begin("ba9876543210").end(FINISHED)
    assert [(r.attempt, r.state) for r in records.of_trial(TRIAL)] == [(1, FAILED), (2, FINISHED)]
    content = records.of_trial(TRIAL)[0].content
    assert content["row"] == {"device": "cpu"}
    assert (content["error"], content["traceback"]) == ("no luck", "Traceback")
    assert (content["host"], content["pid"]) == (socket.gethostname(), os.getpid())
    assert len(records.all()) == 3


def test_an_attempt_that_runs_is_held_and_a_withdrawn_one_leaves_its_number(records):
    first = records.begin(TRIAL)
    held = records.begin(TRIAL)
    assert isinstance(held, AttemptRecord)
    assert (held.attempt, held.state) == (1, RUNNING)
    first.withdraw()
    assert records.all() == []
    again = records.begin(TRIAL)
    assert again.number == 1
    again.end(FINISHED)


def test_of_many_threads_one_gets_the_attempt(records):
    begun = []
    barrier = threading.Barrier(8)

    def begin():
        barrier.wait()
        begun.append(records.begin(TRIAL))

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [one for one in begun if isinstance(one, Attempt)]
    assert len(winners) == 1
    assert len(begun) == 8
    assert len(records.all()) == 1
    winners[0].end(FINISHED)


RACE = """
import sys, time
from pathlib import Path
from orchestrator.records.attempts import Attempt, AttemptFolder
records, start = AttemptFolder(Path(sys.argv[1])), Path(sys.argv[2])
print("ready", flush=True)
while not start.exists():
    time.sleep(0.001)
won = [n for n in range(20) if isinstance(records.begin(f"{n:012x}"), Attempt)]
print(*won)
sys.stdin.read()
"""


@pytest.mark.process
def test_of_many_processes_one_gets_each_attempt(records, tmp_path):
    command = [sys.executable, "-c", RACE, str(records.folder), str(tmp_path / "start")]
    racers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    (tmp_path / "start").touch()
    won = [racer.stdout.readline().split() for racer in racers]  # All are alive until each has said what it won.
    for racer in racers:
        racer.communicate("")
    assert sorted(int(n) for one in won for n in one) == list(range(20))
    assert {record.state for record in records.all()} == {DIED}


def test_an_attempt_has_died_with_its_process(records, dead_pid):
    owned(records, **{**process_identity(), "pid": dead_pid, "started": None})
    assert records.of_trial(TRIAL)[0].state == DIED
    after = records.begin(TRIAL)
    assert after.number == 2
    after.end(FINISHED)


def test_a_later_process_of_the_same_number_is_another_one(records):
    owned(records, **{**process_identity(), "started": "1"})
    assert records.of_trial(TRIAL)[0].state == DIED


def test_another_hosts_attempt_lives_as_long_as_its_heartbeat(records):
    owned(records, host="elsewhere", pid=1, age=30)
    assert records.of_trial(TRIAL)[0].state == RUNNING
    assert isinstance(records.begin(TRIAL), AttemptRecord)
    owned(records, host="elsewhere", pid=1, age=3600)
    assert records.of_trial(TRIAL)[0].state == DIED


@pytest.mark.usefixtures("judged_at_once")
def test_an_incomplete_record_reads_as_died_once_it_is_old(records):
    path = owned(records)
    path.write_text('{"trial_id": ')
    assert records.of_trial(TRIAL)[0].state == RUNNING  # A worker may be writing it.
    os.utime(path, (1, 1))
    assert records.of_trial(TRIAL)[0].state == DIED
    assert records.begin(TRIAL).number == 2


def test_other_files_are_no_records(records):
    records.folder.mkdir()
    for name in ("notes.json", f".{TRIAL}-1.json.77.tmp", f"{TRIAL}-x.json"):
        (records.folder / name).write_text("{}")
    assert records.all() == []


def test_a_driver_writes_the_end_of_a_dead_attempt(records):
    path = owned(records, host="elsewhere", pid=1, age=3600)
    records.close(records.of_trial(TRIAL)[0], FAILED, ended_at=5.0, error="lightning")
    content = json.loads(path.read_text())
    assert (content["state"], content["error"], content["ended_at"]) == (FAILED, "lightning", 5.0)
    assert content["host"] == "elsewhere"


def test_an_incomplete_record_has_no_content(tmp_path):
    folder = AttemptFolder(tmp_path)
    folder.begin("0123456789ab").end(FINISHED)
    (record,) = folder.all()
    assert (record.stored_state, record.content["state"]) == (FINISHED, FINISHED)
    record.path.write_text(record.text[:-5])
    (cut,) = folder.of_trial("0123456789ab")
    assert (cut.stored_state, dict(cut.content)) == (RUNNING, {})


def test_the_end_that_a_driver_writes_is_synced_and_the_worker_s_own_is_not(records, disk_calls):
    attempt = records.begin(TRIAL)
    del disk_calls[:]
    path = attempt.record.path
    attempt.end(FINISHED)
    assert disk_calls == [f"rename unsynced to {path}"]
    del disk_calls[:]
    records.close(records.of_trial(TRIAL)[0], FAILED, ended_at=5.0)
    assert disk_calls == ["sync file", f"rename synced to {path}"]


def test_an_end_has_a_time_and_its_error(records):
    attempt = records.begin(TRIAL)
    before = time.time()
    attempt.end(FAILED, error="no luck")
    content = records.of_trial(TRIAL)[0].content
    assert before <= content["ended_at"] <= time.time()
    assert content["started_at"] <= content["ended_at"]
    assert [earlier.content["error"] for earlier in records.begin(TRIAL).earlier] == ["no luck"]


def test_a_record_that_cannot_be_read_has_no_text(records, monkeypatch):
    owned(records)

    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(files, "read", refuse)
    (record,) = records.all()
    assert (record.text, record.content, record.stored_state) == ("", {}, RUNNING)


def test_a_folder_in_the_place_of_a_record_is_an_error(records):
    (records.folder / f"{TRIAL}-1.json").mkdir(parents=True)
    with pytest.raises(files.NotAFile, match="it is no regular file"):
        records.all()
    with pytest.raises(files.NotAFile):
        records.begin(TRIAL)


@pytest.mark.parametrize("text", ["[1, 2]", "3", '"text"', "{"])
def test_json_that_is_no_object_is_damage(records, text):
    path = owned(records)
    path.write_text(text)
    (record,) = records.of_trial(TRIAL)
    assert (record.content, record.stored_state) == ({}, RUNNING)


def test_an_ended_attempt_never_reads_as_died(records, dead_pid):
    path = owned(records, host=socket.gethostname(), pid=dead_pid, started=None, age=3600)
    content = json.loads(path.read_text()) | {"state": FINISHED}
    path.write_text(json.dumps(content))
    os.utime(path, (1e9, 1e9))
    assert records.of_trial(TRIAL)[0].state == FINISHED


def test_attempts_are_listed_by_trial_and_number(records):
    for trial in ("ba9876543210", TRIAL):
        for _ in range(11):
            records.begin(trial).end(FAILED)
    listed = [(record.trial_id, record.attempt) for record in records.all()]
    assert listed == [(trial, number) for trial in (TRIAL, "ba9876543210") for number in range(1, 12)]
    chosen = records.of_trials([TRIAL, "000000000000"])
    assert {trial: [record.attempt for record in found] for trial, found in chosen.items()} == {TRIAL: [*range(1, 12)]}


def test_records_that_cannot_be_read_end_the_search_for_the_next_number(records, monkeypatch):
    """A broken disk; each look used to find one more attempt, for ever."""
    records.begin(TRIAL).end(FINISHED)

    def broken(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(files, "read", broken)
    assert [record.attempt for record in records.of_trial(TRIAL)] == [1]
