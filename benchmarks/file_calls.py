"""File-system calls of a trial in its results folder and its cache, counted by strace.

    python benchmarks/file_calls.py [--trials 2] [--backend inline]
    python benchmarks/file_calls.py --idle [--backend local] [--seconds 20]

Every trial trains three embedded classes for one epoch; the features are stored before. A sweep of
N trials and one of 2 N are counted. Their difference, by N, is a trial in steady state. What the
first sweep cost beyond its trials is the start. Both are counted with the feature packs as they
are, and with each divided into four.

With --idle two drivers of the same sweep run instead, and the calls a second of their processes are
counted: the first waits for its workers, which train, and the second for the first. On `slurm` it
runs on the cluster that `slurm/cluster.sh` starts.

The small pictures of images with anomaly maps are counted apart: the more trials there were, the
fewer are new. So are the embedded images, which lie in the cache folder, since a user's images lie
elsewhere. Reads, writes and closes of open files do not count. What the driver asks of a trial's
parts at the end of the sweep does.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import psutil
import yaml

from moleflow.cache.array_packs import PackFolder, bucket

# `?` lets strace pass over a call that this processor's Linux does not have.
TRACE = "trace=" + (
    "?open,?openat,?openat2,?creat,?stat,?lstat,?newfstatat,?fstatat64,?statx,?access,?faccessat,?faccessat2,?rename,"
    "?renameat,?renameat2,?unlink,?unlinkat,?mkdir,?mkdirat,?rmdir,?link,?linkat,?symlink,?symlinkat,?readlink,"
    "?readlinkat,?utimensat,?utimes,?chmod,?fchmod,?fchmodat,?truncate,?ftruncate,?fallocate,?getdents64,?fsync,"
    "?fdatasync,?flock,?statfs,?fstatfs,?fstat"
)
_CALL = re.compile(r"^(?P<process>\d+) +(?P<time>\d+\.\d+) (?P<name>\w+)\(")
IMAGES, PICTURES = "cache/images", "results/pictures"


class Call(NamedTuple):
    """A call: its process, its second since 1970, its name and the part of the folder."""

    process: int
    time: float
    name: str
    part: str


def write_sweep(place: Path, trials: int, epochs: int = 1) -> Path:
    """The file of a sweep of so many seeds on three embedded classes."""
    base = {"extends": "demo", "training": {"epochs": epochs}}
    path = place / f"calls-{trials}-{epochs}.yaml"
    path.write_text(yaml.safe_dump({"name": "calls", "version": "v7", "base": base, "grid": {}, "seeds": trials}))
    return path


def command(sweep: Path, out: Path, cache: Path, backend: str) -> list[str]:
    """The command that runs a sweep."""
    words = ["run", str(sweep), "--out", str(out), "--cache", str(cache), "--backend", backend, "--yes", "--quiet"]
    return [sys.executable, "-m", "orchestrator.cli", *words]


def traced(log: Path, words: list[str]) -> list[str]:
    """A command under strace, with all processes that it starts."""
    return ["strace", "-f", "--seccomp-bpf", "-y", "-ttt", "-s", "400", "-e", TRACE, "-o", str(log), *words]


def calls(log: Path, out: Path, cache: Path) -> list[Call]:
    """The calls on files in the two folders."""
    found = []
    for line in log.read_text(errors="replace").splitlines():
        if made := _CALL.match(line):
            for name, folder in (("results", out), ("cache", cache)):
                if inside := re.search(re.escape(str(folder)) + r"(?:/([^/\"<>]*))?(?:/([^\"<>]*))?", line):
                    part = _part(name, inside[1] or "", inside[2] or "")
                    # C libraries ask for an open file's facts in either way.
                    name = "fstat" if ', "", ' in line and "AT_EMPTY_PATH" in line else made["name"]
                    found.append(Call(int(made["process"]), float(made["time"]), name, part))
                    break
    return found


def _part(name: str, first: str, rest: str) -> str:
    if first.startswith("embedded-"):
        return IMAGES
    if first == "stages":
        first += "/checkpoints" if ".checkpoint." in rest else "/claims" if rest.startswith("claims") else ""
    # Pictures are written in the folder of temporary files, under names of their own.
    if rest.startswith(".tmp/") and re.search(r"\.(jpg|png)\.", rest):
        return PICTURES
    # Files right in the folder stay together; temporary ones have names of their own.
    known = rest or "." not in first.lstrip(".")
    return f"{name}/{first}" if first and known else f"{name}/(files)"


def divide_packs(cache: Path) -> int:
    """Divide every feature pack into four; return their number after it."""
    after = 0
    for folder in (cache / "features").iterdir():
        packs = PackFolder(folder)
        names: dict[str, list[str]] = {}
        for image, (name, _) in packs.index().items():
            names.setdefault(name, []).append(image)
        for name, images in names.items():
            rows, _ = packs.read(images)
            assert rows is not None
            parts = [images[start::4] for start in range(4) if images[start::4]]
            for start, part in enumerate(parts):
                assert len({bucket(image) for image in part}) == 1
                packs.write(part, rows[start::4])
            if len(parts) > 1:
                packs.discard(name)
            after += len(parts)
    return after


def count_sweep(place: Path, cache: Path, trials: int, backend: str) -> Counter[tuple[str, str]]:
    """Calls of one sweep by (name, part). Its stages are not stored before."""
    out, log = place / "results", place / "strace.log"
    for leftover in (out, cache / "stages"):
        shutil.rmtree(leftover, ignore_errors=True)
    run(traced(log, command(write_sweep(place, trials), out, cache, backend)))
    return Counter((call.name, call.part) for call in calls(log, out, cache))


def prefetch(place: Path, cache: Path) -> None:
    """Store the features of all images."""
    words = ["prefetch", str(write_sweep(place, 1)), "--cache", str(cache)]
    run([sys.executable, "-m", "orchestrator.cli", *words])


def run(words: list[str]) -> None:
    """Run a command without its output."""
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def table(title: str, start: Counter[tuple[str, str]], steady: dict[tuple[str, str], float]) -> None:
    """Print calls by part and by name: of the start, and of a trial in steady state."""
    print(f"\n{title}\n")
    for index, heading in ((1, "folder"), (0, "call")):
        names = sorted({key[index] for key in (*start, *steady) if key[1] != IMAGES or index == 1})
        print(f"| {heading} | start | a trial |\n|---|---:|---:|")
        for name in names:
            own = [key for key in {*start, *steady} if key[index] == name and (index == 1 or key[1] != IMAGES)]
            begun, each = sum(start[key] for key in own), sum(steady.get(key, 0) for key in own)
            if begun or each:
                print(f"| {name} | {begun:,.0f} | {each:,.1f} |")
        print()
    counted = {key: number for key, number in steady.items() if key[1] not in (IMAGES, PICTURES)}
    pictures = sum(number for key, number in steady.items() if key[1] == PICTURES)
    fstat = sum(number for (name, _), number in counted.items() if name == "fstat")
    print(
        f"a trial, without images: {sum(counted.values()):.1f} calls, {fstat:.1f} of them fstat of an open file; "
        f"and {pictures:.1f} for pictures of images that no trial before had",
        flush=True,
    )


def measure(place: Path, trials: int, backend: str) -> None:
    """Count both sweeps with the packs as they are, and with four times as many."""
    cache = place / "cache"
    prefetch(place, cache)
    packs = sum(1 for _ in (cache / "features").glob("*/*.npy"))
    for times in (1, 4):
        if times > 1:
            packs = divide_packs(cache)
        few, many = (count_sweep(place, cache, number, backend) for number in (trials, 2 * trials))
        steady = {key: (many[key] - few[key]) / trials for key in {*few, *many}}
        start = Counter({key: round(few[key] - trials * steady[key]) for key in few})
        table(f"{packs} feature packs, {trials} and {2 * trials} trials on {backend}", start, steady)


def measure_idle(place: Path, seconds: float, backend: str) -> None:
    """Print the calls a second of two drivers and their workers while the workers train."""
    out, cache = place / "results", place / "cache"
    prefetch(place, cache)
    long = write_sweep(place, 2, epochs=100_000)
    logs = {name: place / f"{name}.log" for name in ("first driver", "second driver")}
    drivers: list[subprocess.Popen[bytes]] = []
    for log in logs.values():
        drivers.append(subprocess.Popen(traced(log, command(long, out, cache, backend)), stdout=subprocess.DEVNULL))
        await_training(out)  # The second finds every trial held.
        time.sleep(seconds)
    jobs = [one.pid for one in psutil.process_iter() if "slurmstepd" in {up.name() for up in one.parents()}]
    watches = []
    for number, job in enumerate(jobs):
        logs[f"job {number}"] = place / f"job-{number}.log"
        watches.append(
            subprocess.Popen([*traced(logs[f"job {number}"], []), "-p", str(job)], stderr=subprocess.DEVNULL)
        )
    begin = time.time()
    time.sleep(seconds)
    of_thread = {thread: owner for one in psutil.process_iter() for thread, owner in threads_of(one).items()}
    for watch in watches:
        watch.terminate()
        watch.wait()
    for started in drivers:
        for child in psutil.Process(started.pid).children():  # strace itself ignores the signal.
            child.send_signal(signal.SIGINT)
    for started in drivers:
        started.wait()
    print("| process | folder | calls a second |\n|---|---|---:|")
    for driver, log in logs.items():
        found = [call for call in calls(log, out, cache) if begin <= call.time < begin + seconds]
        each = Counter((of_thread.get(call.process, call.process), call.part) for call in found)
        for (process, part), number in sorted(each.items()):
            print(f"| {driver}, process {process} | {part} | {number / seconds:.2f} |")
        for process in sorted({process for process, _ in each}):
            total = sum(number for (one, _), number in each.items() if one == process)
            print(f"| {driver}, process {process} | **all** | **{total / seconds:.2f}** |")


def threads_of(process: psutil.Process) -> dict[int, int]:
    """{thread: its process}; empty if the process has ended."""
    with contextlib.suppress(psutil.Error):
        return {thread.id: process.pid for thread in process.threads()}
    return {}


def await_training(out: Path) -> None:
    """Return once a worker has logged an epoch."""
    while not any('"epoch"' in log.read_text() for log in out.glob("events/*.jsonl")):
        time.sleep(0.5)


def main() -> None:
    """Count, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--backend", choices=("inline", "local", "slurm", "ray"), default="inline")
    parser.add_argument("--idle", action="store_true")
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    if shutil.which("strace") is None:
        sys.exit("strace: not installed; apt-get install -y strace")
    with tempfile.TemporaryDirectory(prefix="moleflow-calls-", ignore_cleanup_errors=True) as scratch:
        if given.idle:
            measure_idle(Path(scratch), given.seconds, "local" if given.backend == "inline" else given.backend)
        else:
            measure(Path(scratch), given.trials, given.backend)


if __name__ == "__main__":
    main()
