"""The watch over an attempt: a process without progress ends itself and leaves its traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest

from orchestrator.execution import watchdog
from orchestrator.execution.backend import WorkerConfig
from orchestrator.execution.watchdog import ProgressWatch, TimeLimitReached
from orchestrator.records.attempts import AttemptRecord
from orchestrator.records.stalls import read_stall, stall_file, stall_note

SETUP = WorkerConfig("s", Path(), Path(), Path(), "d", "local", "w", "cpu", 1, False, {}, stall_min=60)


@pytest.fixture
def record(tmp_path: Path) -> AttemptRecord:
    path = tmp_path / "0123456789ab-1.json"
    return AttemptRecord("0123456789ab", 1, path, '{"stall_min": 0.02}')


@pytest.fixture
def watched(record: AttemptRecord) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run statements in a process, under a watch of 1.2 seconds."""

    def run(statements: str, backend: str = "local") -> subprocess.CompletedProcess[str]:
        text = f"""
            import ctypes, os, sys, time
            from pathlib import Path
            from orchestrator.execution.backend import WorkerConfig
            from orchestrator.execution.watchdog import ProgressWatch

            p = Path()
            setup = WorkerConfig("s", p, p, p, "d", {backend!r}, "w", "cpu", 1, False, {{}}, stall_min=0.02)
            with ProgressWatch(Path({str(record.path)!r}), setup) as watch:
                {statements}
            print("over")
            """
        command = [sys.executable, "-c", dedent(text)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.mark.parametrize(
    ("hang", "place"),
    [
        ("open({fifo!r}).read()", "it hung in <module> (<string>:10)"),
        ("ctypes.PyDLL(None).sleep(1000)", "it hung in <module> (<string>:10)"),  # It holds the GIL.
    ],
    ids=["a read that never returns", "C code that holds the GIL"],
)
@pytest.mark.process
def test_a_process_that_hangs_ends_and_leaves_its_traceback(watched, record, tmp_path, hang, place) -> None:
    os.mkfifo(tmp_path / "fifo")
    start = time.monotonic()
    ended = watched(hang.format(fifo=str(tmp_path / "fifo")))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert 1.2 < time.monotonic() - start < 20
    stall = read_stall(record)
    assert stall is not None
    assert stall.error == f"no progress for 0.02 min (resources.stall_min), so its process was ended; {place}"
    assert stall.traceback.startswith("Timeout (0:00:01.")


@pytest.mark.process
def test_progress_and_waiting_are_no_stall_and_no_file_is_left(watched, record) -> None:
    ended = watched("for n in range(25): time.sleep(0.1); [watch.progress, watch.waiting][n % 2]()")
    assert (ended.returncode, ended.stdout) == (0, "over\n")
    assert not stall_file(record.path).exists()


@pytest.mark.process
def test_inline_nothing_ends_the_user_s_own_command(watched, record) -> None:
    assert watched("time.sleep(2)", backend="inline").stdout == "over\n"
    assert read_stall(record) is None


def test_without_a_dump_an_attempt_has_not_stalled(record) -> None:
    assert read_stall(record) is None
    stall_file(record.path).write_text("")
    assert read_stall(record) is None


def test_the_frame_is_that_of_the_thread_that_runs_the_trial(record) -> None:
    stall_file(record.path).write_text(
        "Timeout (0:01:00)!\n"
        'Thread 0x1 (most recent call first):\n  File "/p/threading.py", line 1 in wait\n\n'
        'Thread 0x2 (most recent call first):\n  File "/p/losses.py", line 7 in nll\n'
        '  File "/p/orchestrator/execution/worker.py", line 250 in _sequence\n\n'
        'Thread 0x3 (most recent call first):\n  File "/p/ray.py", line 3 in main_loop\n'
    )
    stall = read_stall(record)
    assert stall is not None
    assert stall.error.endswith("; it hung in nll (/p/losses.py:7)")


def test_the_note_comes_from_half_of_the_time_on() -> None:
    assert stall_note(1799, 60) is None
    assert stall_note(1800, 60) == "stalled: no progress for 30 min (resources.stall_min: 60)"
    assert stall_note(1e9, 0) is None


def test_the_timer_is_armed_at_most_once_a_second(record, monkeypatch) -> None:
    armed: list[float] = []
    monkeypatch.setattr(watchdog.faulthandler, "dump_traceback_later", lambda s, **_: armed.append(s))
    now = [0.0]
    with ProgressWatch(record.path, SETUP, lambda: now[0]) as watch:
        for _ in range(10_000):
            now[0] += 0.001
            watch.progress()
    assert 9 <= len(armed) <= 11
    assert set(armed) == {3601.0}


def test_the_time_limit_counts_no_waiting_and_comes_once(record) -> None:
    now = [0.0]
    watch = ProgressWatch(record.path, replace(SETUP, time_min=1), lambda: now[0])
    for step, take in ((50, watch.progress), (1000, watch.waiting), (9, watch.progress)):
        now[0] += step
        take()
        watch.check_time()
    now[0] += 2
    with pytest.raises(TimeLimitReached):
        watch.check_time()
    watch.check_time()


def test_in_a_job_the_scheduler_keeps_the_time_limit(record) -> None:
    now = [0.0]
    watch = ProgressWatch(record.path, replace(SETUP, time_min=1, job="7@uid"), lambda: now[0])
    now[0] = 1e6
    watch.check_time()
