from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import moleflow.cache.claim
from moleflow.cache.claim import (
    Claim,
    Heartbeat,
    is_stale,
    looks_stale,
    try_claim,
    wait_for,
)
from moleflow.files import create_exclusively
from moleflow.owner import process_identity


@pytest.fixture
def judged_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims of other hosts are judged at the first look."""
    monkeypatch.setattr(moleflow.cache.claim, "WATCHED_S", 0.0)
    monkeypatch.setattr(moleflow.cache.claim, "LOOK_EVERY_S", 0.0)


def write(path: Path, age: float = 0.0, **facts: object) -> Path:
    """A claim file as another process would have left it."""
    path.write_text(json.dumps(facts))
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def is_of(path: Path, who: dict[str, str | int | float | None]) -> bool:
    """True if the claim file names this owner."""
    found: dict[str, str | int | float | None] = json.loads(path.read_text())
    return who.items() <= found.items()


def taken(path: Path) -> Claim:
    """The claim at `path`, which is free."""
    claim = try_claim(path)
    assert claim is not None
    return claim


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a.claim"
    with taken(path):
        assert is_of(path, process_identity())
        assert try_claim(path) is None
        assert not is_stale(path)
    assert not path.exists()
    taken(path).release()
    assert list(path.parent.iterdir()) == []


def test_a_claim_is_given_back_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.claim"
    with pytest.raises(ZeroDivisionError), taken(path):
        raise ZeroDivisionError
    assert not path.exists()


def test_many_that_try_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.claim"
    for _ in range(20):
        together = threading.Barrier(8)
        won: list[Claim] = []

        def race(together: threading.Barrier = together, won: list[Claim] = won) -> None:
            together.wait()
            claim = try_claim(path)
            if claim is not None:
                won.append(claim)

        threads = [threading.Thread(target=race) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        won[0].release()


def test_a_dead_process_of_this_host_is_taken_over_at_once(tmp_path: Path, dead_pid: int) -> None:
    path = write(tmp_path / "a.claim", **{**process_identity(), "pid": dead_pid, "started": None})
    assert is_stale(path)
    with taken(path):
        assert is_of(path, process_identity())
    assert list(tmp_path.iterdir()) == []


def test_a_later_process_of_the_same_number_is_not_the_owner(tmp_path: Path) -> None:
    path = write(tmp_path / "a.claim", **{**process_identity(), "started": "1"})
    assert is_stale(path)
    write(path, age=10_000, **process_identity())
    assert not is_stale(path)  # This very process, however long ago it touched the file.


@pytest.mark.usefixtures("judged_at_once")
def test_another_host_is_judged_by_its_heartbeat(tmp_path: Path, dead_pid: int) -> None:
    path = write(tmp_path / "a.claim", age=50, host="elsewhere", pid=dead_pid, started=None)
    assert not is_stale(path, stale_after=60)
    assert try_claim(path, stale_after=60) is None
    assert is_stale(path, stale_after=40)
    with taken_after(path, 40):
        assert json.loads(path.read_text())["host"] == socket.gethostname()


@pytest.mark.usefixtures("judged_at_once")
def test_a_claim_is_stale_after_a_minute_of_which_its_owner_touches_it_every_five_seconds(tmp_path: Path) -> None:
    path = write(tmp_path / "a.claim", age=57, host="elsewhere", pid=1)
    assert not is_stale(path)
    wait_for(lambda: not is_stale(path), path)
    assert try_claim(path) is None
    write(path, age=63, host="elsewhere", pid=1)
    assert is_stale(path)
    wait_for(lambda: False, path)
    assert moleflow.cache.claim.HEARTBEAT_S == 5


def test_the_age_is_taken_by_the_clock_that_stamps_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judged_at_once: None
) -> None:
    """A host whose clock runs an hour ahead takes nobody for dead."""
    path = write(tmp_path / "a.claim", host="elsewhere", pid=1)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    assert not is_stale(path)
    assert looks_stale(path)  # For showing only: it writes nothing, so it cannot ask for that clock.


def test_an_owner_whose_clock_runs_behind_is_watched_before_it_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some filesystems stamp files with the clock of the host that touches them."""
    passed = 0.0
    monkeypatch.setattr(moleflow.cache.claim.time, "monotonic", lambda: passed)
    path = write(tmp_path / "a.claim", age=3600, host="elsewhere", pid=1)
    for _ in range(10):  # It touches its file every five seconds.
        assert not is_stale(path)
        passed += 5.0
        then = path.stat().st_mtime + 5.0
        os.utime(path, (then, then))
    assert not is_stale(path)
    passed += 14.0
    assert not is_stale(path)
    passed += 2.0
    assert is_stale(path)


def test_an_owner_whose_clock_runs_ahead_is_found_dead_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed = 0.0
    monkeypatch.setattr(moleflow.cache.claim.time, "monotonic", lambda: passed)
    path = write(tmp_path / "a.claim", age=-3600, host="elsewhere", pid=1)
    for seconds in (0.0, 20.0, 59.0):
        passed = seconds
        assert not is_stale(path)
    passed = 61.0
    assert is_stale(path)


@pytest.mark.parametrize("differs", ["host", "boot", "pid_namespace"])
def test_a_pid_of_another_place_is_not_looked_up_here(tmp_path: Path, differs: str, dead_pid: int) -> None:
    """Containers on one host may share its name, and have process numbers of their own."""
    path = write(tmp_path / "a.claim", **{**process_identity(), "pid": dead_pid, differs: "another"})
    assert not is_stale(path)
    path = write(tmp_path / "a.claim", **{**process_identity(), "pid": dead_pid})
    assert is_stale(path)


def taken_after(path: Path, seconds: float) -> Claim:
    """The claim at `path`, whose heartbeat is older than `seconds`."""
    claim = try_claim(path, stale_after=seconds)
    assert claim is not None
    return claim


def test_an_earlier_start_of_the_same_job_on_another_host_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.claim", host="another", pid=1, job="7_0")
    assert not is_stale(path)
    monkeypatch.setenv("MOLEFLOW_JOB", "7_1")
    assert not is_stale(path)
    monkeypatch.setenv("MOLEFLOW_JOB", "7_0")
    assert is_stale(path)
    with taken(path):
        assert is_of(path, {"job": "7_0", "host": socket.gethostname()})
        assert not is_stale(path)


@pytest.mark.usefixtures("judged_at_once")
@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"host": 3}', '{"pid": "x"}'])
def test_an_unreadable_claim_is_judged_by_its_age(tmp_path: Path, content: str) -> None:
    """Empty is also what a reader sees between the creation of a claim and its first line."""
    path = tmp_path / "a.claim"
    path.write_text(content)
    assert not is_stale(path, stale_after=60)
    os.utime(path, (1, 1))
    assert is_stale(path, stale_after=60)


def test_a_claim_that_is_not_there_is_not_stale(tmp_path: Path) -> None:
    assert not is_stale(tmp_path / "a.claim")


def test_one_heartbeat_keeps_many_claims_alive_until_each_is_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moleflow.cache.claim, "HEARTBEAT_S", 0.01)
    before = set(threading.enumerate())
    heartbeat = Heartbeat()
    claims = []
    for name in ("a", "b"):
        assert create_exclusively(tmp_path / name, name.encode())
        claims.append(Claim(tmp_path / name, name, heartbeat))
    (thread,) = set(threading.enumerate()) - before
    for path in (tmp_path / "a", tmp_path / "b", tmp_path / "a"):
        assert is_touched(path)
    claims[0].release()
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").write_text("taken over by another")
    os.utime(tmp_path / "b", (1, 1))
    while heartbeat._touched[tmp_path / "b"] > 0:  # Until it has seen that.
        time.sleep(0.01)
    claims.append(taken(tmp_path / "c"))  # With a heartbeat of its own.
    assert is_touched(tmp_path / "c")
    assert (tmp_path / "b").stat().st_mtime == 1
    for claim in claims[1:]:
        claim.release()
    thread.join(timeout=30)
    assert not thread.is_alive()
    Claim(tmp_path / "b", "taken over by another", heartbeat)
    assert is_touched(tmp_path / "b")
    heartbeat.remove(tmp_path / "b")


def is_touched(path: Path) -> bool:
    """True if a heartbeat touches the file soon after its time was set back."""
    os.utime(path, (1, 1))
    deadline = time.monotonic() + 30
    while path.stat().st_mtime == 1 and time.monotonic() < deadline:
        time.sleep(0.005)
    return path.stat().st_mtime > 1


def test_two_that_find_the_same_claim_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead_pid: int) -> None:
    """The slower one must not remove the claim that the faster one has made meanwhile."""
    path = write(tmp_path / "a.claim", **{**process_identity(), "pid": dead_pid, "started": None})
    judge = moleflow.cache.claim._is_stale
    faster: list[Claim] = []

    def judge_then_be_overtaken(path: Path, content: str, stale_after: float) -> bool:
        verdict = judge(path, content, stale_after)
        if not faster:
            monkeypatch.setattr(moleflow.cache.claim, "_is_stale", judge)
            faster.append(taken(path))
        return verdict

    monkeypatch.setattr(moleflow.cache.claim, "_is_stale", judge_then_be_overtaken)
    assert try_claim(path) is None
    assert is_of(path, process_identity())
    faster[0].release()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_was_taken_over_is_not_released_by_its_first_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.claim"
    monkeypatch.setattr(moleflow.cache.claim, "SURE_S", 0.0)  # Its owner was suspended.
    slow = taken(path)
    write(path, age=100, host="elsewhere", pid=1, started=None)  # Another host took over.
    slow.release()
    assert path.exists()


def test_a_full_disk_leaves_no_claim(
    tmp_path: Path, no_file_larger_than: Callable[[int], AbstractContextManager[None]]
) -> None:
    """An empty file would keep every other worker waiting for a minute."""
    with no_file_larger_than(0), pytest.raises(OSError, match="File too large"):
        try_claim(tmp_path / "a.claim")
    assert list(tmp_path.iterdir()) == []
    with taken(tmp_path / "a.claim"):
        pass


def test_waiting_ends_when_ready_free_or_stale(tmp_path: Path, dead_pid: int) -> None:
    path = tmp_path / "a.claim"
    wait_for(lambda: False, path)  # Free.
    write(path, **{**process_identity(), "pid": dead_pid, "started": None})
    wait_for(lambda: False, path)  # Stale.
    path.unlink()
    polls = 0

    def ready() -> bool:
        nonlocal polls
        polls += 1
        return polls == 3

    with taken(path):
        wait_for(ready, path, poll=0.001)
        assert polls == 3
        releasing = threading.Timer(0.05, path.unlink)
        releasing.start()
        wait_for(lambda: False, path, poll=0.001)
        assert not path.exists()
        releasing.join()


def test_pauses_between_looks_grow_up_to_two_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with taken(tmp_path / "a.claim"):
        wait_for(lambda: sum(pauses) >= 3600, tmp_path / "a.claim")
    assert pauses[0] <= 0.05
    assert max(pauses) <= 2
    assert len(pauses) < 3000
    assert pauses == sorted(pauses)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        try_claim(tmp_path / "file" / "a.claim")
