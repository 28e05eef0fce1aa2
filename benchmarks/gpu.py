"""One prepared script for a machine with a GPU: first whether it is right, then how fast it is.

    python benchmarks/gpu.py [--device cuda] [--epochs 2] [--minutes 10]

Right: every version learns the embedded images on the CPU and on the GPU; the largest difference
of each metric is printed. Then the same sweep runs on the GPU again, with two trials at once in
`local` and on Ray: all digits have to equal those of the first time.

Fast: trials of base efficientnet, one process, then 2 and 4 that share the GPU (`trials_per_gpu`);
trials per GPU-hour are printed. Features are stored before.

`--device cpu` runs all of it on the CPU, which tests this script and measures nothing of a GPU.
What does not fit the minutes is left out, and said to be. A wrong digit is exit code 1.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import yaml

VERSIONS = ["v1", "v2", "v3", "v4", "v4.1", "v5", "v6", "v7", "decoflow"]
METRICS = ("image_auroc", "pixel_auroc", "image_ap", "aupro")
KEYS = ["trial_id", "after_task", "task", "split", "image", "task_name"]


class Runs:
    """Runs of sweeps in a folder of their own, for as long as there are minutes left."""

    def __init__(self, place: Path, device: str, minutes: float) -> None:
        self.place, self.device, self.end = place, device, time.monotonic() + 60 * minutes

    def sweep(self, name: str, base: dict[str, object], **keys: object) -> Path:
        """The file of a sweep on the embedded images."""
        path = self.place / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"name": name, "base": base, **keys}))
        return path

    def run(self, sweep: Path, out: str, *words: str, device: str = "", command: str = "run") -> float | None:
        """Run a sweep; returns its seconds, or None if the minutes are over or it fails."""
        if (left := self.end - time.monotonic()) < 0:
            print(f"{out}: left out, the minutes are over")
            return None
        common = [sys.executable, "-m", "orchestrator.cli", command, str(sweep), "--device", device or self.device]
        folder = ["--out", str(self.place / out)] if command == "run" else []
        quiet = ["--quiet"] if command == "run" else []
        begin = time.monotonic()
        try:
            done = subprocess.run(
                [*common, *folder, *quiet, "--cache", str(self.place / "cache"), *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=left,
                check=False,
            )
        except subprocess.TimeoutExpired:
            print(f"{out}: stopped, the minutes are over")
            return None
        if done.returncode:
            print(f"{out}: exit code {done.returncode}\n{done.stdout[-2000:]}")
            return None
        return time.monotonic() - begin

    def forget_stages(self) -> None:
        """Remove the trained stages, so that the next run trains anew."""
        shutil.rmtree(self.place / "cache" / "stages", ignore_errors=True)

    def rows(self, out: str, table: str) -> list[dict[str, object]]:
        """The rows of a table of a run, in one order."""
        rows = pq.read_table(self.place / out / "parts" / table).to_pylist()
        return sorted(rows, key=lambda row: [str(row.get(key)) for key in KEYS])


def differing_digits(runs: Runs, one: str, other: str) -> list[str]:
    """The columns whose values differ between two runs of one sweep."""
    found = set()
    for table in ("metrics", "scores"):
        first, second = runs.rows(one, table), runs.rows(other, table)
        if len(first) != len(second) or not first:
            return [f"the number of {table}"]
        skipped = {"attempt", "seconds_spent", "seconds_reused", "sweep"}
        pairs = zip(first, second, strict=True)
        found |= {name for a, b in pairs for name in a if name not in skipped and a[name] != b[name]}
    return sorted(found)


def metric_differences(runs: Runs, one: str, other: str) -> Iterator[tuple[str, str, float]]:
    """(version, metric, largest absolute difference) between two runs on different devices."""
    # Trial ids leave the device out, so rows of one trial can be compared.
    pairs = list(zip(runs.rows(one, "metrics"), runs.rows(other, "metrics"), strict=True))
    for version in VERSIONS:
        for metric in METRICS:
            both = [(a[metric], b[metric]) for a, b in pairs if a["version"] == version]
            apart = [abs(float(a) - float(b)) for a, b in both if a is not None and b is not None]  # type: ignore[arg-type]
            yield version, metric, float(np.max(apart, initial=0.0))


def is_right(runs: Runs, epochs: int) -> bool:
    """Compare devices, runs and backends; print what differs."""
    base = {"extends": "demo", "training": {"epochs": epochs}}
    sweep = runs.sweep("versions", base, grid={"version": VERSIONS}, seeds=1, resources={"trials_per_gpu": 2})
    ran = {"on the CPU": runs.run(sweep, "cpu", "--backend", "inline", device="cpu")}
    for out, backend in (("inline", "inline"), ("again", "inline"), ("local", "local"), ("ray", "ray")):
        runs.forget_stages()
        ran[out] = runs.run(sweep, out, "--backend", backend)
    for name, seconds in ran.items():
        print(f"{name}: {'not run' if seconds is None else f'{seconds:.0f} s'}")
    if ran["on the CPU"] is not None and ran["inline"] is not None:
        print(f"\n| version | {' | '.join(METRICS)} |\n|---|{'---:|' * len(METRICS)}")
        apart = {(version, metric): value for version, metric, value in metric_differences(runs, "cpu", "inline")}
        for version in VERSIONS:
            print(f"| {version} | {' | '.join(f'{apart[version, metric]:.4f}' for metric in METRICS)} |")
        print(f"largest differences between cpu and {runs.device}\n")
    right = ran["inline"] is not None
    for out in ("again", "local", "ray"):
        if ran["inline"] is not None and ran[out] is not None:
            differing = differing_digits(runs, "inline", out)
            right = right and not differing
            print(f"{out}: {'equal digits' if not differing else 'DIFFERENT: ' + ', '.join(differing)}")
    return right


def measure_speed(runs: Runs, epochs: int, trials: int) -> None:
    """Print trials per GPU-hour with one process, and with several that share the GPU."""
    base = {
        "extends": "efficientnet",
        "data": {"tasks": ["leather", "grid", "transistor"]},
        "training": {"epochs": epochs},
    }
    sweep = runs.sweep("speed", base, version="v3", grid={}, seeds=trials)
    if runs.run(sweep, "features", command="prefetch") is None:
        return
    print(f"\n| processes | {trials} trials, seconds | trials per GPU-hour |\n|---:|---:|---:|")
    for processes in (1, 2, 4):
        runs.forget_stages()
        out = f"speed-{processes}"
        seconds = runs.run(sweep, out, "--backend", "local", "--workers", str(processes))
        if seconds is not None:
            print(f"| {processes} | {seconds:.1f} | {trials * 3600 / seconds:.0f} |")


def main() -> None:
    """Check, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=10.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="moleflow-gpu-", ignore_cleanup_errors=True) as place:
        runs = Runs(Path(place), given.device, given.minutes)
        right = is_right(runs, given.epochs)
        measure_speed(runs, given.epochs, given.trials)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
