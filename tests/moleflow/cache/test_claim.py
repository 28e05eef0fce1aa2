from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

import moleflow.cache.claim
from moleflow.cache.claim import (
    Claim,
    Heartbeat,
    create_exclusively,
    is_stale,
    process_alive,
    process_identity,
    process_started,
    try_claim,
    wait_for,
)


def dead_process() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


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


def test_a_dead_process_of_this_host_is_taken_over_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.claim", host=socket.gethostname(), pid=dead_process(), started=None)
    assert is_stale(path)
    with taken(path):
        assert is_of(path, process_identity())
    assert list(tmp_path.iterdir()) == []


def test_a_later_process_of_the_same_number_is_not_the_owner(tmp_path: Path) -> None:
    path = write(tmp_path / "a.claim", host=socket.gethostname(), pid=os.getpid(), started="1")
    assert is_stale(path)
    write(path, age=10_000, **process_identity())
    assert not is_stale(path)  # This very process, however long ago it touched the file.


def test_another_host_is_judged_by_its_heartbeat(tmp_path: Path) -> None:
    path = write(tmp_path / "a.claim", age=50, host="elsewhere", pid=dead_process(), started=None)
    assert not is_stale(path, stale_after=60)
    assert try_claim(path, stale_after=60) is None
    assert is_stale(path, stale_after=40)
    with taken_after(path, 40):
        assert json.loads(path.read_text())["host"] == socket.gethostname()


def test_a_claim_is_stale_after_a_minute_of_which_its_owner_touches_it_every_five_seconds(tmp_path: Path) -> None:
    path = write(tmp_path / "a.claim", age=57, host="elsewhere", pid=1)
    assert not is_stale(path)
    wait_for(lambda: not is_stale(path), path)
    assert try_claim(path) is None
    write(path, age=63, host="elsewhere", pid=1)
    assert is_stale(path)
    wait_for(lambda: False, path)
    assert moleflow.cache.claim.HEARTBEAT_S == 5


def test_the_age_is_taken_by_the_clock_that_is_given(tmp_path: Path) -> None:
    """A file server's clock may differ from this host's."""
    path = write(tmp_path / "a.claim", host="elsewhere", pid=1)
    written = path.stat().st_mtime
    assert not is_stale(path, now=written + 59)
    assert is_stale(path, now=written + 61)


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
        assert create_exclusively(tmp_path / name, name)
        claims.append(Claim(tmp_path / name, name, heartbeat))
    (thread,) = set(threading.enumerate()) - before
    for path in (tmp_path / "a", tmp_path / "b", tmp_path / "a"):
        assert is_touched(path)
    claims[0].release()
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").write_text("taken over by another")
    os.utime(tmp_path / "b", (1, 1))
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


def test_two_that_find_the_same_claim_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slower one must not remove the claim that the faster one has made meanwhile."""
    path = write(tmp_path / "a.claim", host=socket.gethostname(), pid=dead_process(), started=None)
    judge = moleflow.cache.claim.is_stale
    faster: list[Claim] = []

    def judge_then_be_overtaken(path: Path, stale_after: float = 60.0) -> bool:
        verdict = judge(path, stale_after)
        if not faster:
            monkeypatch.setattr(moleflow.cache.claim, "is_stale", judge)
            faster.append(taken(path))
        return verdict

    monkeypatch.setattr(moleflow.cache.claim, "is_stale", judge_then_be_overtaken)
    assert try_claim(path) is None
    assert is_of(path, process_identity())
    faster[0].release()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_was_taken_over_is_not_released_by_its_first_owner(tmp_path: Path) -> None:
    path = tmp_path / "a.claim"
    slow = taken(path)
    write(path, age=100, host="elsewhere", pid=1, started=None)  # Another host took over.
    slow.release()
    assert path.exists()


def test_processes_alive_and_dead() -> None:
    me = os.getpid()
    assert process_alive(me)
    assert process_alive(me, process_started(me))
    assert not process_alive(dead_process())
    assert process_started(dead_process()) is None
    assert not any(process_alive(number) for number in (-1, 0, 2**40))


def test_a_process_is_known_by_its_start_since_boot() -> None:
    """The kernel has it in clock ticks (field 22 of /proc/<pid>/stat), as earlier code stored."""
    ticks = Path(f"/proc/{os.getpid()}/stat").read_text().split()[21]
    started = process_started(os.getpid()) or 0.0
    assert started == pytest.approx(int(ticks) / os.sysconf("SC_CLK_TCK"), abs=1.01)
    assert process_alive(os.getpid(), ticks)
    assert not process_alive(os.getpid(), "1")
    assert not process_alive(os.getpid(), started + 2)
    assert not process_alive(os.getpid(), started - 2)


def test_setting_the_clock_makes_no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set clock moves the time of boot, and with it the time of day of every start."""
    started = process_started(os.getpid()) or 0.0
    boot = psutil.boot_time()
    monkeypatch.setattr(psutil, "boot_time", lambda: boot + 3600)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: boot + 3600 + started)
    assert process_alive(os.getpid(), started)


def test_a_process_of_another_user_is_alive() -> None:
    """A process that may not signal the owner of a claim does not take it for dead."""
    program = f"""
import os
from moleflow.cache.claim import process_alive
if os.geteuid() == 0:
    os.setuid(65534)
owner = {os.getpid()} if os.getuid() == 65534 else 1
try:
    os.kill(owner, 0)
except PermissionError:
    print(process_alive(owner))
"""
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert told.stdout == "True\n"


def test_a_process_that_proc_hides_is_alive_if_the_kernel_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mounted with `hidepid`, /proc shows nobody the processes of other users."""

    def hidden(pid: int) -> None:
        raise psutil.NoSuchProcess(pid)

    def refuse(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(psutil, "Process", hidden)
    assert not process_alive(dead_process(), 1.0)
    monkeypatch.setattr(os, "kill", refuse)
    assert process_alive(1, 1.0)


def test_a_zombie_counts_as_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert not process_alive(process.pid)
    assert process_started(process.pid) is None
    process.wait()


def test_a_full_disk_leaves_no_claim(
    tmp_path: Path, no_file_larger_than: Callable[[int], AbstractContextManager[None]]
) -> None:
    """An empty file would keep every other worker waiting for a minute."""
    with no_file_larger_than(0), pytest.raises(OSError, match="File too large"):
        try_claim(tmp_path / "a.claim")
    assert list(tmp_path.iterdir()) == []
    with taken(tmp_path / "a.claim"):
        pass


def test_waiting_ends_when_ready_free_or_stale(tmp_path: Path) -> None:
    path = tmp_path / "a.claim"
    wait_for(lambda: False, path)  # Free.
    write(path, host=socket.gethostname(), pid=dead_process(), started=None)
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
    with pytest.raises(FileExistsError):
        try_claim(tmp_path / "file" / "a.claim")
