"""Local workers under faults, on a small file system: nothing is lost and nothing runs twice."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.chaos

SIZE_KIB = 32_000
HOLD = 'mkdir -p "$1" && mount -t tmpfs -o size="$2"k tmpfs "$1" && echo mounted && exec cat'
# As root, or as a user in a user namespace.
WAYS = {("unshare", "-m"): ("nsenter", "-m"), ("unshare", "-rm"): ("nsenter", "-U", "--preserve-credentials", "-m")}


@dataclass(frozen=True)
class SmallDisk:
    """A file system at `folder`, visible after `enter`, and to this process as `seen`."""

    folder: Path
    seen: Path
    enter: tuple[str, ...]

    def remount(self, how: str) -> bool:
        """Remount it `ro` or `rw`; fails while a file is being written."""
        command = [*self.enter, "mount", "-o", f"remount,bind,{how}", str(self.folder)]
        return subprocess.run(command, capture_output=True).returncode == 0

    def fill(self) -> None:
        """Fill the disk with one file."""
        with (self.seen / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        """Remove that file."""
        (self.seen / "filler").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"
    for alone, enter in WAYS.items():
        holder = subprocess.Popen(
            [*alone, "sh", "-c", HOLD, "sh", str(folder), str(SIZE_KIB)],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        with holder:
            if holder.stdout and holder.stdout.readline() == "mounted\n":
                seen = Path(f"/proc/{holder.pid}/root{folder}")
                yield SmallDisk(folder, seen, (*enter, "--wd", f"--target={holder.pid}"))
                return
    raise AssertionError("this test mounts a small file system: run it as root, or where user namespaces are allowed")


def test_local_workers(siege, disk, nothing_is_lost):
    sweep = siege(("--workers", "2", "--out", "disk/small"), disk.seen / "small", disk.enter)

    def kill_everything():
        sweep.kill_everything()
        sweep.start()
        sweep.start()

    def write_protect():
        sweep.until(lambda: disk.remount("ro"), "the disk to become read-only", driven=True)
        sweep.until(lambda: not sweep.driving(), "the drivers to find the disk read-only")
        refused = sweep.start()
        sweep.until(lambda: not sweep.driving(), "the disk to be refused")
        assert refused.returncode == 2, sweep.state()
        sweep.until(lambda: disk.remount("rw"), "the disk to become writable")

    def fill():
        sweep.one_at_work()
        disk.fill()
        sweep.until(lambda: not sweep.driving(), "the drivers to find the disk full")
        disk.free()

    def damage_checkpoint(damage):
        checkpoints = []
        while not checkpoints:
            sweep.one_at_work()
            for driver in sweep.driving():
                driver.kill()
            sweep.until(lambda: not sweep.at_work(), "the workers to follow their drivers")
            checkpoints = sweep.checkpoints()
        for path in checkpoints:
            damage(path)

    sweep.run(
        {
            "worker killed": (3, lambda: sweep.signal_worker(signal.SIGKILL)),
            "process killed as it writes a part": (1, sweep.kill_writer),
            "worker told to end": (2, lambda: sweep.signal_worker(signal.SIGTERM)),
            "driver killed": (2, sweep.kill_driver),
            "everything killed, two drivers at once": (2, kill_everything),
            "another driver": (1, sweep.start),
            "disk read-only": (1, write_protect),
            "disk full": (1, fill),
            "part cut": (1, lambda: sweep.cut(sweep.part())),
            "part with a flipped bit": (1, lambda: sweep.flip(sweep.part())),
            "checkpoints cut": (1, lambda: damage_checkpoint(sweep.cut)),
            "checkpoints with a flipped bit": (1, lambda: damage_checkpoint(sweep.flip)),
        }
    )
    nothing_is_lost(sweep)
