"""Filesystems that several hosts share, a sweep on them, and what was stored in the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moleflow import files

HERE = Path(__file__).parent
START_S, END_S = 20.0, 150.0
KEPT_S = 60  # Seconds for which each client keeps attributes, names and listings.
TRIALS = 4

# A brick has the layers without which GlusterFS does not serve it. A client has those of a volume
# with `performance.md-cache-timeout 60` and `cache-invalidation off`, which spare the servers.
BRICK = """
volume posix
    type storage/posix
    option directory {folder}
end-volume
volume access-control
    type features/access-control
    subvolumes posix
end-volume
volume locks
    type features/locks
    subvolumes access-control
end-volume
volume io-threads
    type performance/io-threads
    subvolumes locks
end-volume
volume brick
    type debug/io-stats
    subvolumes io-threads
end-volume
volume server
    type protocol/server
    option transport-type tcp
    option transport.address-family inet
    option transport.socket.bind-address 127.0.0.1
    option transport.socket.listen-port {port}
    option auth.addr.brick.allow 127.0.0.1
    subvolumes brick
end-volume
"""
CLIENT = """
volume client-{number}
    type protocol/client
    option transport-type tcp
    option transport.address-family inet
    option remote-host 127.0.0.1
    option remote-port {port}
    option remote-subvolume brick
    option ping-timeout 5
end-volume
"""
CLIENTS = """
volume distribute
    type cluster/distribute
    subvolumes client-0 client-1
end-volume
volume utime
    type features/utime
    subvolumes distribute
end-volume
volume write-behind
    type performance/write-behind
    subvolumes utime
end-volume
volume open-behind
    type performance/open-behind
    subvolumes write-behind
end-volume
volume quick-read
    type performance/quick-read
    subvolumes open-behind
end-volume
volume md-cache
    type performance/md-cache
    option cache-invalidation off
    option md-cache-timeout {kept}
    subvolumes quick-read
end-volume
"""


def wait(condition: Callable[[], Any], what: str, seconds: float = START_S) -> Any:
    """Call a function until its result is true, and return that."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.05)
    return found


def answers(port: int) -> bool:
    """True if a server listens at a port of this machine."""
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def is_usable(mount: Path) -> bool:
    """True if a file can be made on a mount."""
    with suppress(OSError):
        (mount / ".probe").touch()
        (mount / ".probe").unlink()
        return os.path.ismount(mount)
    return False


def has_begun(process: subprocess.Popen[bytes], mount: Path) -> bool:
    """True if the process of a mount serves it, or has ended."""
    return process.poll() is not None or is_usable(mount)


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Shared(Protocol):
    """A filesystem with two mounts, which are two hosts."""

    mounts: tuple[Path, Path]


class Gluster:
    """A GlusterFS volume over two bricks on loopback, with two mounts.

    The volume files are written here, so no glusterd is needed, and one that runs is left alone.

    Args:
        folder: an empty folder.
        brick_mb: the size of each brick's disk; None = part of the disk of `folder`.
        clock: the environment that sets a clock wrong, for the client of the second mount.

    """

    def __init__(self, folder: Path, brick_mb: int | None = None, clock: Mapping[str, str] | None = None) -> None:
        self.folder, self._clock = folder, dict(clock or {})
        self.mounts = (folder / "m0", folder / "m1")
        self.disks = [folder / "disk0", folder / "disk1"]
        self._ports = [free_port(), free_port()]
        self.bricks: list[subprocess.Popen[bytes]] = []
        self.clients: list[subprocess.Popen[bytes]] = []
        for path in (*self.mounts, *self.disks):
            path.mkdir()
        try:
            for number, disk in enumerate(self.disks):
                if brick_mb is not None:
                    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={brick_mb}m", "tmpfs", disk], check=True)
                (disk / "brick").mkdir()
                self.bricks.append(self.start_brick(number))
            self.clients = [self.start_client(0), self.start_client(1)]
        except BaseException:
            self.close()
            raise

    def start_brick(self, number: int) -> subprocess.Popen[bytes]:
        """Start the server of a brick."""
        port = self._ports[number]
        volume = BRICK.format(folder=self.disks[number] / "brick", port=port)
        process = self._start("glusterfsd", f"brick{number}", volume)
        wait(lambda: answers(port) or process.poll() is not None, "a GlusterFS brick")
        assert process.poll() is None, self._said(f"brick{number}")
        return process

    def start_client(self, number: int) -> subprocess.Popen[bytes]:
        """Mount the volume."""
        mount = self.mounts[number]
        volume = "".join(CLIENT.format(number=n, port=port) for n, port in enumerate(self._ports))
        caches = [f"--attribute-timeout={KEPT_S}", f"--entry-timeout={KEPT_S}", "--negative-timeout=0"]
        process = self._start(
            "glusterfs",
            f"client{number}",
            volume + CLIENTS.format(kept=KEPT_S),
            *caches,
            str(mount),
            environment=self._clock if number else {},
        )
        wait(partial(has_begun, process, mount), "a GlusterFS mount")
        assert process.poll() is None, self._said(f"client{number}")
        return process

    def stop_brick(self, number: int) -> None:
        """Kill the server of a brick."""
        end(self.bricks[number])

    def restart_brick(self, number: int) -> None:
        """Start the server of a brick again."""
        self.bricks[number] = self.start_brick(number)

    def kill_client(self, number: int) -> None:
        """Kill the process of a mount. Whoever uses the mount gets ENOTCONN."""
        end(self.clients[number])

    def restart_client(self, number: int) -> None:
        """Mount the volume again."""
        subprocess.run(["umount", "--lazy", self.mounts[number]], check=True)
        self.clients[number] = self.start_client(number)

    def fill(self) -> None:
        """Leave no space on the bricks."""
        for disk in self.disks:
            with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
                while file.write(bytes(4096)) == 4096:
                    pass

    def free(self) -> None:
        """Give the space back, and wait until the bricks know of it: they look every 5 seconds."""
        for disk in self.disks:
            (disk / "filler").unlink()
        wait(self._has_space, "the bricks to have space")

    def _has_space(self) -> bool:
        # So many names that each brick gets some of them.
        probes = [self.mounts[0] / f"probe{number}" for number in range(16)]
        try:
            for probe in probes:
                probe.write_bytes(bytes(4096))
        except OSError:
            return False
        finally:
            for probe in probes:
                probe.unlink(missing_ok=True)
        return True

    def close(self) -> None:
        """Take everything down."""
        for mount in self.mounts:
            subprocess.run(["umount", "--lazy", mount], stderr=subprocess.DEVNULL, check=False)
        for process in (*self.clients, *self.bricks):
            end(process)
        for disk in self.disks:
            if os.path.ismount(disk):
                subprocess.run(["umount", "--lazy", disk], check=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(
        self, program: str, name: str, volume: str, *words: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        path = self.folder / f"{name}.vol"
        path.write_text(volume)
        files = [f"--volfile={path}", f"--log-file={self.folder / name}.log", f"--pid-file={self.folder / name}.pid"]
        return subprocess.Popen(
            [program, "--no-daemon", "--log-level=WARNING", *files, *words], env={**os.environ, **(environment or {})}
        )

    def _said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]


class NfsLike:
    """Two mounts of one folder that behave as NFS clients do; see `nfs_like.py`."""

    def __init__(self, folder: Path, keep: float = KEPT_S) -> None:
        self.folder, self._keep = folder, keep
        self.mounts = (folder / "m0", folder / "m1")
        self.served, self._faults, self._log = folder / "served", folder / "faults.json", folder / "faults.log"
        for path in (*self.mounts, self.served):
            path.mkdir()
        self._faults.write_text("{}")
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for mount in self.mounts:
                self._processes.append(self._start(mount))
            for mount, process in zip(self.mounts, self._processes, strict=True):
                wait(partial(has_begun, process, mount), "a FUSE mount")
                assert process.poll() is None, Path(f"{mount}.log").read_text()
        except BaseException:
            self.close()
            raise

    def fail(self, **every: int) -> None:
        """Let each Nth call of a kind fail from now on: `fail(rename=7)`."""
        temporary = self._faults.with_suffix(".new")
        temporary.write_text(json.dumps({kind: {"every": n} for kind, n in every.items()}))
        temporary.replace(self._faults)

    def failed(self) -> Counter[str]:
        """The number of faults so far, by kind."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return Counter(line.split()[0] for line in lines)

    def close(self) -> None:
        """Take the mounts down."""
        for mount in self.mounts:
            subprocess.run(["umount", "--lazy", mount], stderr=subprocess.DEVNULL, check=False)
        for process in self._processes:
            end(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, mount: Path) -> subprocess.Popen[bytes]:
        options = ["--keep", str(self._keep), "--faults", str(self._faults), "--log", str(self._log)]
        with Path(f"{mount}.log").open("wb") as output:
            return subprocess.Popen(
                [sys.executable, HERE / "nfs_like.py", self.served, mount, *options], stdout=output, stderr=output
            )


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and wait for its end."""
    process.kill()
    process.wait()


@pytest.fixture(scope="session")
def gluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gluster]:
    """A GlusterFS volume with two mounts."""
    volume = Gluster(tmp_path_factory.mktemp("gluster"))
    yield volume
    volume.close()


@pytest.fixture
def new_gluster(tmp_path: Path) -> Iterator[Callable[..., Gluster]]:
    """Make a GlusterFS volume for one test: `new_gluster(brick_mb=24)`."""
    made: list[Gluster] = []

    def make(**options: Any) -> Gluster:
        (folder := tmp_path / "gluster").mkdir()
        made.append(Gluster(folder, **options))
        return made[-1]

    yield make
    for volume in made:
        volume.close()


@pytest.fixture(scope="session")
def nfs_like(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NfsLike]:
    """Two mounts of one folder that behave as NFS clients do."""
    shared = NfsLike(tmp_path_factory.mktemp("nfs_like"))
    yield shared
    shared.close()


@pytest.fixture(scope="session")
def wrong_clock(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, str]]:
    """The function that returns the environment of a clock so many seconds ahead."""
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, HERE / "clock.c"], check=True)
    return lambda seconds: {"LD_PRELOAD": str(library), "CLOCK_OFFSET_S": str(seconds)}


@dataclass
class Driver:
    """A driver that runs as a process group, perhaps in a PID namespace of its own."""

    process: subprocess.Popen[str]
    output: Path

    @property
    def said(self) -> str:
        """The output so far."""
        return self.output.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """Signal the driver and its workers, in whatever namespace they are."""
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def is_stopped(self) -> bool:
        """True if one of its processes was stopped."""
        with suppress(psutil.NoSuchProcess):  # A short-lived one has ended meanwhile.
            driver = psutil.Process(self.process.pid)
            return any(each.status() == psutil.STATUS_STOPPED for each in [driver, *driver.children(recursive=True)])
        return False

    def end(self, seconds: float = END_S) -> int:
        """Wait for the end; returns the exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"no end after {seconds:.0f} s: {self.said}") from error


@dataclass
class Sweep:
    """A small sweep: the same folder seen through several mounts.

    Attributes:
        places: the folder as each host sees it.

    """

    places: tuple[Path, ...]
    outputs: Path
    drivers: list[Driver] = field(default_factory=list)

    def start(
        self,
        at: int = 0,
        host: str | None = None,
        own_pids: bool = False,
        words: tuple[str, ...] = ("--backend", "inline"),
        **environment: str,
    ) -> Driver:
        """Start a driver.

        Args:
            at: the number of the place in which it runs.
            host: its host name; None = that of this machine.
            own_pids: run in a PID namespace, so that no other driver can look its processes up.
            words: more arguments.
            environment: variables that are changed.

        """
        place = self.places[at]
        prefix: list[str] = []
        if host is not None:
            prefix += ["unshare", "--uts", "sh", "-c", f'hostname {host} && exec "$@"', "sh"]
        if own_pids:
            # The shell is process 1, which no signal from within can stop.
            prefix += ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", '"$@"; exit $?', "sh"]
        unset = ("MOLEFLOW_DATA", "MOLEFLOW_FILE_RETRY_S")
        variables = {k: v for k, v in os.environ.items() if k not in unset} | {
            "MOLEFLOW_CACHE": str(place / "cache"),
            "PYTHONPATH": os.pathsep.join([str(HERE / "hooks"), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep),
            "SHARED_MARK": str(self.outputs / f"stopped{len(self.drivers)}"),
            **environment,
        }
        path = self.outputs / f"driver{len(self.drivers)}.txt"
        # After the namespaces: the shell and unshare need no wrong clock.
        changed = [f"{name}={variables.pop(name)}" for name in ("LD_PRELOAD", "CLOCK_OFFSET_S") if name in variables]
        command = [*prefix, "env", *changed, sys.executable, "-m", "orchestrator.cli", "sweep.yaml", "--quiet", *words]
        with path.open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=place,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.drivers.append(Driver(process, path))
        return self.drivers[-1]

    def both(self, first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
        """Run two drivers at once; both must end with 0."""
        drivers = [self.start(**first), self.start(**second)]
        for driver in drivers:
            assert driver.end() == 0, driver.said

    def rows(self) -> Counter[tuple[str, int, str]]:
        """The stored attempts (trial, number, status), read from the files without the project."""
        found: Counter[tuple[str, int, str]] = Counter()
        for path in sorted((self.places[0] / "results/small/parts/attempts").glob("*.parquet")):
            table = pq.read_table(pa.BufferReader(path.read_bytes()), columns=["trial_id", "attempt", "status"])
            found.update((row["trial_id"], row["attempt"], row["status"]) for row in table.to_pylist())
        return found

    def close(self) -> None:
        """End every process."""
        for driver in self.drivers:
            driver.signal(signal.SIGKILL)
            driver.process.wait()


@pytest.fixture
def sweep_in(
    images: Path, furnish: Callable[..., Path], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Sweep]]:
    """Write the small sweep into a new folder: `sweep_in(shared)`, on a plain disk without it."""
    made: list[Sweep] = []

    def make(shared: Shared | None = None, **changes: Any) -> Sweep:
        name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
        places = tuple(mount / name for mount in shared.mounts) if shared else (tmp_path / "place",)
        places[0].mkdir()
        furnish(places[0], images, **changes)
        made.append(Sweep(places, tmp_path))
        return made[-1]

    yield make
    for sweep in made:
        sweep.close()


@pytest.fixture
def once(digits: Callable[[Path], Any], small_run: Path) -> Callable[..., None]:
    """The check that each trial finished once, with the digits of a run on a plain disk."""

    def check(sweep: Sweep, lost: int = 0) -> None:
        """`lost` is the number of attempts whose process died; each is a failed row."""
        rows = sweep.rows()
        attempts = Counter((trial, number) for trial, number, _ in rows.elements())
        assert [name for name, times in attempts.items() if times > 1] == []
        statuses = Counter(status for _, _, status in rows.elements())
        assert statuses == Counter({"finished": TRIALS, "failed": lost} if lost else {"finished": TRIALS}), rows
        finished = Counter(trial for trial, _, status in rows.elements() if status == "finished")
        assert list(finished.values()) == [1] * TRIALS
        assert digits(sweep.places[0] / "results/small") == digits(small_run / "results/small")
        assert list((sweep.places[0] / "results").rglob(".*.tmp")) == []
        done = [driver.said for driver in sweep.drivers if driver.process.returncode == 0]
        assert [said for said in done if "Traceback" in said] == []

    return check


@pytest.fixture
def sees_changes() -> Callable[[Sequence[Path]], None]:
    """Check that one mount sees at once what the other removed and replaced."""

    def check(mounts: Sequence[Path]) -> None:
        here, there = (mount / "status" for mount in mounts)
        here.mkdir()
        for name in ("removed", "replaced"):
            (here / name).write_text("old")
            assert files.read(there / name) == b"old"
        (here / "removed").unlink()
        files.write_atomically(here / "replaced", b"newer")
        assert files.stat_now(there / "removed") is None
        assert not files.exists(there / "removed")
        replaced = files.stat_now(there / "replaced")
        assert replaced is not None
        assert replaced.st_size == 5
        assert files.read(there / "replaced") == b"newer"

    return check
