"""A sweep under a seeded schedule of faults: its drivers, the faults, and the checks at the end."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from moleflow.files import LEFT_BEHIND_S
from moleflow.owner import owner_code
from orchestrator.records.attempts import RUNNING, AttemptFolder, AttemptRecord
from orchestrator.results.store import ResultStore

SEED = int(os.environ.get("MOLEFLOW_CHAOS_SEED", "1"))
TRIALS = int(os.environ.get("MOLEFLOW_CHAOS_TRIALS", "40")) // 2 * 2
LIMIT_S = 600.0  # for one test, on a loaded machine too; two idle cores need a quarter of it
MOST_RERUNS = 8
LOOK_EVERY_S = 0.2
EPOCHS = 20
CLAIMS = ("submitting", "burying")
WRITER = re.compile(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{12}\.tmp$")
"""The host and the process that write a temporary file."""


def command_of(pid: int, place: Path) -> str:
    """The command of a live process of the sweep in `place`: its cache is there; else empty."""
    process, mark = Path(f"/proc/{pid}"), f"MOLEFLOW_CACHE={place / 'cache'}".encode()
    with suppress(OSError):  # The process has ended, or belongs to another user. A zombie has no command.
        if mark in (process / "environ").read_bytes().split(b"\0"):
            return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def commands_of(place: Path) -> dict[int, str]:
    """The live processes of the sweep in `place`, on any node."""
    found = {int(path.name): command_of(int(path.name), place) for path in Path("/proc").glob("[0-9]*")}
    return {pid: command for pid, command in found.items() if command}


def temporary_files(*folders: Path) -> list[Path]:
    """The files that only a running process may have: temporary files, claims, checkpoints."""

    def is_temporary(path: Path, folder: Path) -> bool:
        if path.is_symlink():  # submitit leaves a hidden link to each script that it submitted.
            return False
        inside = path.relative_to(folder)
        hidden = any(name.startswith(".") for name in inside.parts) and inside.as_posix() != "parts/.tmp"
        claim = path.is_file() and (path.suffix == ".claim" or path.name in CLAIMS or "claims" in inside.parts)
        return hidden or claim or path.suffix == ".tmp" or path.name.endswith(".checkpoint.safetensors")

    return [path for folder in folders for path in folder.rglob("*") if is_temporary(path, folder)]


@dataclass
class Siege:
    """A sweep, its drivers, and the faults that are put in.

    Attributes:
        place: the folder in which its command runs.
        results: the results folder, as this process sees it.
        words: the arguments of the command.
        prefix: the words before the program.
        random: draws the time and the victim of each fault.
        harms: the number of faults by name.

    """

    place: Path
    results: Path
    words: tuple[str, ...]
    prefix: tuple[str, ...]
    random: random.Random
    harms: Counter[str] = field(default_factory=Counter)
    drivers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _seen: ResultStore | None = None  # It looks at each part once.
    _end: float = field(default_factory=lambda: time.monotonic() + LIMIT_S)

    def start(self) -> subprocess.Popen[bytes]:
        """Start one more driver."""
        environment = {k: v for k, v in os.environ.items() if k != "MOLEFLOW_DATA"}
        with self._output(len(self.drivers)).open("wb") as output:
            driver = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "orchestrator.cli", *self.words],
                cwd=self.place,
                env=environment | {"MOLEFLOW_CACHE": str(self.place / "cache")},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.drivers.append(driver)
        return driver

    def driving(self) -> list[subprocess.Popen[bytes]]:
        """The drivers that are alive."""
        return [driver for driver in self.drivers if driver.poll() is None]

    def records(self) -> list[AttemptRecord]:
        """Every attempt."""
        return AttemptFolder(self.results / "attempts").all()

    def finished(self) -> int:
        """The number of finished trials."""
        if not (self.results / "parts").is_dir():
            return 0
        self._seen = self._seen or ResultStore(self.results)
        return len(self._seen.finished())

    def at_work(self) -> list[AttemptRecord]:
        """The running attempts whose process is alive."""
        ours = commands_of(self.place)
        return [r for r in self.records() if r.content.get("state") == RUNNING and r.content.get("pid") in ours]

    def one_at_work(self) -> AttemptRecord:
        """A running attempt; waits for one."""
        found: list[AttemptRecord] = self.until(self.at_work, "a trial that is being worked on", driven=True)
        return self.random.choice(found)

    def signal_worker(self, number: int) -> None:
        """Signal a process that is running a trial."""
        while True:
            with suppress(ProcessLookupError):  # It may end at this very moment.
                return os.kill(self.one_at_work().content["pid"], number)

    def kill_writer(self) -> None:
        """Kill a process between the write of a part's temporary file and its renaming."""
        while True:
            self.one_at_work()
            for path, pid in self._being_written():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                self.until(lambda pid=pid: not command_of(pid, self.place), "a killed writer to be gone")
                if path.exists():
                    return

    def kill_driver(self) -> None:
        """Kill one of the drivers, without its workers."""
        self.random.choice(self.until(self.driving, "a driver", driven=True)).kill()

    def kill_everything(self) -> None:
        """Kill all drivers and workers in the middle of a trial."""
        self.one_at_work()
        self._kill()
        self.until(lambda: not commands_of(self.place), "what was killed to be gone")

    def part(self) -> Path:
        """A file of a part with results."""
        found = (self.results / "parts").glob  # Parts of drivers hold only dead attempts.
        parts = self.until(lambda: {*found("*/2*.parquet")} - {*found("*/*-driver-*")}, "a part", driven=True)
        return Path(self.random.choice(sorted(parts)))

    def checkpoints(self) -> list[Path]:
        """The checkpoints of interrupted stages."""
        return sorted((self.place / "cache/stages").glob("??/[!.]*.checkpoint.safetensors"))

    def until(self, true: Callable[[], Any], what: str, driven: bool = False) -> Any:
        """Wait for a true result of a function; if `driven`, keep a driver alive meanwhile."""
        while not (found := true()):
            if driven and not self.driving():
                if self.finished() >= TRIALS:
                    self._begin_anew()
                self.start()
            assert time.monotonic() < self._end, f"waited in vain for {what}, {LIMIT_S:.0f} s in all; {self.state()}"
            time.sleep(LOOK_EVERY_S)
        return found

    def cut(self, path: Path) -> None:
        """Truncate a file at a random place."""
        os.truncate(path, self.random.randrange(path.stat().st_size))

    def flip(self, path: Path) -> None:
        """Flip one bit of a file."""
        with path.open("r+b") as file:
            place = self.random.randrange(path.stat().st_size)
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1 << self.random.randrange(8)]))

    def run(self, harms: Mapping[str, tuple[int, Callable[[], object]]]) -> None:
        """Start two drivers, put in the faults during half of the sweep, and end it."""
        order = [name for name, (count, _) in harms.items() for _ in range(count)]
        self.random.shuffle(order)
        due = sorted(self.random.randrange(1, TRIALS // 2) for _ in order)
        self.start()
        self.start()
        self.harms["two drivers at once"] += 1
        for name, count in zip(order, due, strict=True):
            self.until(lambda count=count: self.finished() >= count, f"{count} finished trials", driven=True)
            harms[name][1]()
            self.harms[name] += 1
        self.end()

    def end(self) -> None:
        """Let the drivers end, then run the command again until all trials have finished."""
        self.until(lambda: not self.driving(), "the drivers to end")
        for _ in range(MOST_RERUNS):
            last = self.start()
            self.until(lambda: not self.driving(), "the command that was given again to end")
            if last.returncode == 0:
                break
        else:
            raise AssertionError(f"given {MOST_RERUNS} times again, the command never ended well; {self.state()}")
        self.until(lambda: not commands_of(self.place), "every process to be gone")

    def let_an_hour_pass(self) -> int:
        """Make the files of writers that died on other hosts an hour older; give the command again.

        Nothing but its age tells this host that such a writer died. Returns the number of files.
        """
        here = owner_code().partition("-")[0]
        hosts = {path: WRITER.search(path.name) for path in temporary_files(self.results)}
        left = [path for path, host in hosts.items() if host and host[1] != here]
        for path in left:
            changed = path.stat().st_mtime - LEFT_BEHIND_S - 60
            os.utime(path, (changed, changed))
        if left:
            self.end()
        return len(left)

    def said(self) -> list[str]:
        """The output of each driver."""
        return [self._output(n).read_text(errors="replace") for n in range(len(self.drivers))]

    def state(self) -> str:
        """The state of the sweep, for a message."""
        attempts = Counter(record.state for record in self.records())
        left = "\n".join(commands_of(self.place).values())
        counts = f"seed {SEED}, harms {dict(self.harms)}, exit codes {[d.poll() for d in self.drivers]}, attempts {dict(attempts)}"
        return f"{counts}\nprocesses:\n{left}\nlast words of the last driver:\n{''.join(self.said()[-1:])[-2000:]}"

    def stop(self) -> None:
        """End all processes, even after a failed test."""
        self._kill()
        for driver in self.drivers:
            driver.wait()

    def _being_written(self) -> Iterator[tuple[Path, int]]:
        """The temporary files of parts as they appear for some seconds, and their live writers."""
        for _ in range(5000):
            for path in (self.results / "parts/.tmp").iterdir():
                writer = WRITER.search(path.name)
                if writer and command_of(int(writer[2]), self.place):
                    yield path, int(writer[2])
            time.sleep(0.001)

    def _begin_anew(self) -> None:
        """Damage every part and train again: all trials finished before all faults were put in."""
        self.harms["all parts cut, all stages removed"] += 1
        assert self.harms["all parts cut, all stages removed"] < 4, f"no harm finds its mark; {self.state()}"
        self.until(lambda: not commands_of(self.place), "every process to be gone")
        for path in (self.results / "parts/attempts").glob("2*.parquet"):
            self.cut(path)
        shutil.rmtree(self.place / "cache/stages")
        self._seen = None

    def _kill(self) -> None:
        for pid in commands_of(self.place):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _output(self, number: int) -> Path:
        return self.place / f"driver-{number:02}.txt"


def write_sweep(place: Path, images: Path, furnish: Callable[..., Path]) -> None:
    """The small sweep with many seeds, and enough epochs to interrupt a trial."""
    furnish(place, images, grid={"focal_gamma": [0, 2]}, seeds=TRIALS // 2)
    base = yaml.safe_load((place / "base.yaml").read_text())
    base["training"]["epochs"] = EPOCHS
    (place / "base.yaml").write_text(yaml.safe_dump(base))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, images: Path, furnish: Callable[..., Path]) -> Path:
    """The results of the sweep without faults, run inline in its own process."""
    place = tmp_path_factory.mktemp("undisturbed")
    write_sweep(place, images, furnish)
    alone = Siege(place, place / "results/small", ("sweep.yaml", "--backend", "inline", "--quiet"), (), random.Random())
    try:
        driver = alone.start()
        alone.until(lambda: not alone.driving(), "it")
        assert driver.returncode == 0, alone.state()
    finally:
        alone.stop()
    return alone.results


@pytest.fixture
def siege(tmp_path: Path, images: Path, furnish: Callable[..., Path]) -> Iterator[Callable[..., Siege]]:
    """Prepare the sweep: `siege(words, results, prefix)`."""
    made: list[Siege] = []

    def make(words: tuple[str, ...], results: Path | None = None, prefix: tuple[str, ...] = ()) -> Siege:
        where = results or tmp_path / "results/small"
        made.append(Siege(tmp_path, where, ("sweep.yaml", "--quiet", *words), prefix, random.Random(SEED)))
        return made[0]

    write_sweep(tmp_path, images, furnish)
    yield make
    for one in made:
        one.stop()


@pytest.fixture
def nothing_is_lost(
    undisturbed: Path, digits: Callable[[Path], Any], capfd: pytest.CaptureFixture[str]
) -> Callable[[Siege], None]:
    """Print the counts; every trial must finish once, with the digits of a run without faults."""

    def check(siege: Siege) -> None:
        wanted = ResultStore(undisturbed).finished()
        rows = ResultStore(siege.results).read("attempts", ["trial_id", "attempt", "status"]).to_pylist()
        trials = Counter(row["trial_id"] for row in rows if row["status"] == "finished")
        attempts = Counter((row["trial_id"], row["attempt"]) for row in rows)
        lost = wanted.keys() - trials.keys()
        doubled = [name for name, times in (trials + attempts).items() if times > 1]
        old = siege.let_an_hour_pass()
        left = temporary_files(siege.results, siege.place / "cache")
        ends = Counter(record.content.get("state") for record in siege.records())
        with capfd.disabled():
            done = ", ".join(f"{n} x {name}" for name, n in sorted(siege.harms.items()))
            print(f"\nseed {SEED} (MOLEFLOW_CHAOS_SEED): {siege.harms.total()} harms: {done}")
            print(
                f"driver starts {len(siege.drivers)}, attempts {ends.total()} {dict(ends)}, trials {len(trials)}, "
                f"lost {len(lost)}, doubled {len(doubled)}, temporary files left {len(left)}, "
                f"for an hour {old}"
            )
        assert len(wanted) == TRIALS
        assert trials.keys() == wanted.keys()
        assert doubled == []
        assert ResultStore(siege.results).damaged == ()
        assert digits(siege.results) == digits(undisturbed)
        assert ends[RUNNING] == 0
        assert left == []
        assert [said for said in siege.said() if "Traceback" in said] == []

    return check
