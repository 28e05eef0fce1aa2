from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from moleflow.owner import process_alive, process_started


def test_processes_alive_and_dead(dead_pid: int) -> None:
    me = os.getpid()
    assert process_alive(me)
    assert process_alive(me, process_started(me))
    assert not process_alive(dead_pid)
    assert process_started(dead_pid) is None
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
from moleflow.owner import process_alive
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


def test_a_process_that_proc_hides_is_alive_if_the_kernel_knows_it(
    monkeypatch: pytest.MonkeyPatch, dead_pid: int
) -> None:
    """Mounted with `hidepid`, /proc shows nobody the processes of other users."""

    def hidden(pid: int) -> None:
        raise psutil.NoSuchProcess(pid)

    def refuse(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(psutil, "Process", hidden)
    assert not process_alive(dead_pid, 1.0)
    monkeypatch.setattr(os, "kill", refuse)
    assert process_alive(1, 1.0)


def test_a_zombie_counts_as_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert not process_alive(process.pid)
    assert process_started(process.pid) is None
    process.wait()
