"""The owner of a file that one process keeps: this process, or one that may have ended.

A process is named by its host, the boot of that host, its PID namespace, its pid and its start.
Where the first three are those of this process, the kernel says whether it still runs. Elsewhere
the same pid may be another process: containers on one host have one host name and a PID namespace
each.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import psutil

JOB_VARIABLE = "MOLEFLOW_JOB"
"""The environment variable with the scheduler's job of this process."""
# The kernel gives the time of boot in whole seconds and may round it up once and down another time.
_SAME_START_S = 1.5

PROCESS = ("host", "boot", "pid_namespace", "pid", "started")
"""The fields that name a process."""

CODE = r"[0-9a-f]{8}-\d+"
"""The pattern of an `owner_code`."""

Identity = Mapping[str, str | int | float | None]


def process_identity() -> dict[str, str | int | float | None]:
    """This process as claims and records name it: host, boot, pid_namespace, pid, started, job."""
    pid = os.getpid()
    return {**_place(), "pid": pid, "started": _started_once(pid), "job": os.environ.get(JOB_VARIABLE)}


def owner_is_gone(owner: Identity) -> bool | None:
    """True if the process in a record has ended, False if it runs, None if nobody here can know.

    Args:
        owner: a record with the fields of `process_identity`, perhaps written by earlier code or
            by a stranger.
    """
    pid = owner.get("pid")
    if not isinstance(pid, int) or any(name not in owner or owner[name] != here for name, here in _place().items()):
        return None
    # No age here: a process that is stopped, or waits for a slow disk, still owns its file.
    return not process_alive(pid, owner.get("started"))


def owner_code(pid: int | None = None) -> str:
    """A short text for file names that tells where a process runs, and its pid."""
    return f"{_place_code()}-{os.getpid() if pid is None else pid}"


def code_is_gone(code: str) -> bool | None:
    """As `owner_is_gone`, of an `owner_code`."""
    place, _, pid = code.partition("-")
    return not process_alive(int(pid)) if place == _place_code() and pid.isdigit() else None


def process_alive(pid: int, started: object = None) -> bool:
    """True if process `pid` runs on this host.

    Args:
        pid: its number.
        started: its start as `process_started` gives it, which tells it from a later process of the
            same number. A text is in clock ticks, as earlier code wrote it. None = do not compare.
    """
    try:
        now_started = _start(pid)
    except psutil.NoSuchProcess:
        # If /proc hides the processes of other users (hidepid), psutil finds none of them. The
        # kernel still tells: it refuses a signal to a process that exists.
        try:
            os.kill(pid, 0)
        except PermissionError:
            return True
        except (OSError, OverflowError):
            pass
        return False
    except (ValueError, OverflowError):  # No number of a process.
        return False
    if isinstance(started, str):
        try:
            started = float(started) / os.sysconf("SC_CLK_TCK")
        except ValueError:  # Nobody's start, so it is not compared.
            started = None
    return now_started is not None and (
        not isinstance(started, int | float) or abs(now_started - started) <= _SAME_START_S
    )


def process_started(pid: int) -> float | None:
    """Seconds from the boot of this host to the start of a process; None once it has ended."""
    try:
        return _start(pid)
    except psutil.NoSuchProcess:
        return None


def _start(pid: int) -> float | None:
    process = psutil.Process(pid)
    if process.status() == psutil.STATUS_ZOMBIE:
        return None  # It has ended; only its parent has not asked how.
    # Since boot, because a time of day changes with every setting of the clock: a live owner would
    # then be taken for a later process.
    return round(process.create_time() - psutil.boot_time(), 2)


@cache
def _started_once(pid: int) -> float | None:
    return process_started(pid)


def _place() -> dict[str, str | None]:
    """Host, boot and PID namespace of this process; None where the system names none."""
    # Read each time: a child may have been moved into a namespace of its own since it was forked.
    try:
        namespace: str | None = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = None
    return {"host": socket.gethostname(), "boot": _boot(), "pid_namespace": namespace}


@cache
def _boot() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _place_code() -> str:
    return hashlib.sha256("\n".join(map(str, _place().values())).encode()).hexdigest()[:8]
