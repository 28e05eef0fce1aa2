"""A run whose terminal is closed: it ends in order, or runs to its end if SIGHUP is ignored."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from orchestrator.records.attempts import FINISHED, INTERRUPTED, RUNNING, AttemptFolder
from orchestrator.results.store import ResultStore

pytestmark = pytest.mark.process
FOLDER = Path("results/small")
END_S = 120  # Time for a run to end by itself on a busy machine.


@dataclass
class OnTerminal:
    """A command line that leads the session of a pseudo-terminal, and the other end of that."""

    process: subprocess.Popen[bytes]
    master: int
    seen: bytearray = field(default_factory=bytearray)
    is_open: bool = True

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has the other end open any more.
            while self.is_open:
                if select.select([self.master], [], [], 0.05)[0]:
                    self.seen.extend(os.read(self.master, 65536))

    def close(self) -> None:
        """Close the terminal, as its window does."""
        if self.is_open:
            self.is_open = False
            self._reader.join()  # A read that is under way would keep it open.
            os.close(self.master)

    def members(self) -> list[int]:
        """The living processes of its session."""
        found = []
        for pid in psutil.pids():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(pid) == self.process.pid and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                    found.append(pid)
        return found


@pytest.fixture
def on_terminal(place: Path) -> Iterator[Callable[..., OnTerminal]]:
    """Start a command line on a terminal of its own."""
    started: list[OnTerminal] = []

    def begin(*words: str, prefix: tuple[str, ...] = (), hangup: signal.Handlers = signal.SIG_DFL) -> OnTerminal:
        master, slave = os.openpty()

        def own_terminal() -> None:
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            signal.signal(signal.SIGHUP, hangup)

        environment = {k: v for k, v in os.environ.items() if k not in ("MOLEFLOW_DATA", "NO_COLOR")}
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "orchestrator.cli", *words],
            cwd=place,
            env=environment | {"MOLEFLOW_CACHE": str(place / "cache"), "TERM": "xterm-256color"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            preexec_fn=own_terminal,
        )
        os.close(slave)
        started.append(OnTerminal(process, master))
        return started[-1]

    yield begin
    for one in started:
        for pid in one.members():
            os.kill(pid, signal.SIGKILL)
        one.process.wait()
        one.close()


def states(place: Path) -> list[str]:
    return sorted(record.state for record in AttemptFolder(place / FOLDER / "attempts").all())


def statuses(place: Path) -> list[str]:
    return sorted(ResultStore(place / FOLDER).read("attempts")["status"].to_pylist())


@pytest.fixture
def train(place: Path, features: None, edit: Callable[..., Path], wait_until: Callable) -> Callable[[], None]:
    """Write a sweep of a short and a long trial, and wait until the long one trains."""
    edit(grid=None, list=[{"epochs": 2}, {"epochs": 300}], seeds=1, report=None)

    def wait() -> None:
        wait_until(lambda: states(place) == [FINISHED, RUNNING])
        wait_until(lambda: list((place / "cache/stages/claims").glob("*")))

    return wait


@pytest.mark.parametrize("backend", [["--workers", "1"], ["--backend", "inline"]])
def test_a_run_ends_within_seconds_of_its_terminal_and_resumes(backend, place, train, on_terminal, command, wait_until):
    running = on_terminal("sweep.yaml", *backend)
    train()
    running.close()
    assert running.process.wait(timeout=20) == 130
    wait_until(lambda: not running.members())
    assert states(place) == [FINISHED, INTERRUPTED]
    assert statuses(place) == ["finished", "interrupted"]
    assert (place / FOLDER / "report.md").exists()

    again = command("sweep.yaml", "--backend", "inline")
    assert again.code == 0
    assert "1 done, 1 to run" in again.out
    assert states(place) == [FINISHED, FINISHED, INTERRUPTED]


def test_under_nohup_it_runs_to_its_end(place, train, on_terminal, wait_until):
    running = on_terminal("sweep.yaml", "--workers", "1", prefix=("nohup",))
    train()
    running.close()
    assert running.process.wait(timeout=END_S) == 0
    wait_until(lambda: not running.members())
    assert states(place) == [FINISHED, FINISHED]
    assert "report:" in (place / "nohup.out").read_text()


def test_with_hangups_ignored_it_runs_to_its_end_though_each_print_fails(place, train, on_terminal, wait_until):
    """As after `trap '' HUP`: the picture and the last lines go to a terminal that is gone."""
    running = on_terminal("sweep.yaml", "--workers", "1", hangup=signal.SIG_IGN)
    train()
    running.close()
    assert running.process.wait(timeout=END_S) == 0
    wait_until(lambda: not running.members())
    assert states(place) == [FINISHED, FINISHED]
    assert statuses(place) == ["finished", "finished"]
    assert (place / FOLDER / "report.md").exists()


def test_a_run_outlives_the_reader_of_its_output(place, train, start):
    """As with `| tee` that has ended."""
    running = start("sweep.yaml", "--workers", "1")
    train()
    running.process.stdout.close()
    running.process.stderr.close()
    assert running.process.wait(timeout=END_S) == 0
    assert states(place) == [FINISHED, FINISHED]
    assert (place / FOLDER / "report.md").exists()
