"""One prepared script for a machine with a GPU: first whether it is right, then how fast it is.

    python benchmarks/gpu.py [--device cuda] [--epochs 2] [--minutes 14] [--versions v3 v4]

Right: every version learns the embedded images on the CPU and on the GPU; the largest difference
of each metric is printed. Then the same sweep runs on the GPU again, with two trials at once in
`local` and on Ray: all digits have to equal those of the first time. On a GPU, one training step
of each version runs with torch's watch for waits; versions whose step waits are named.

Fast: variants of v7 with the settings of base efficientnet, one process, then all of them as lanes
of one batched flow (`training.lanes`), with `training.products` bfloat16 and tf32 (on a GPU), and
with `training.compile`: trials per GPU-hour, and the largest differences of their metrics from the
first run. Compiled trials run twice, since the first run builds kernels; both runs have to give
equal digits. Then 2 and 4 processes that share the GPU (`trials_per_gpu`). Features are stored
before.

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
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import yaml

from moleflow.environment import open_environment
from moleflow.models.detector import Detector
from moleflow.settings.knobs import resolve, version_layer
from moleflow.training.train_task import Randomness, optimizer_of, train_step

VERSIONS = ["v1", "v2", "v3", "v4", "v4.1", "v5", "v6", "v7", "decoflow"]
METRICS = ("image_auroc", "pixel_auroc", "image_ap", "aupro")
KEYS = ["version", "factors", "seed", "after_task", "task", "split", "image", "task_name", "trial_id"]
SETTINGS: dict[str, dict[str, object]] = {
    "bfloat16": {"products": "bfloat16"},
    "tf32": {"products": "tf32"},
    "compile": {"compile": True},
}
"""The knobs of training that the float32 trials are compared with, by name."""


class Runs:
    """Runs of sweeps in a folder of their own, for as long as there are minutes left."""

    def __init__(self, place: Path, device: str, minutes: float, versions: list[str]) -> None:
        self.place, self.device, self.versions = place, device, versions
        self.end = time.monotonic() + 60 * minutes

    def sweep(self, name: str, base: Mapping[str, object], **keys: object) -> Path:
        """The file of a sweep on the embedded images."""
        path = self.place / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"name": name, "base": dict(base), **keys}))
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

    def trial_ids(self, out: str) -> set[object]:
        """The ids of a run's trials."""
        return {row["trial_id"] for row in self.rows(out, "attempts")}


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


def metric_differences(runs: Runs, one: str, other: str, version: str) -> Iterator[float]:
    """The largest absolute difference of each metric between two runs of a version."""
    pairs = list(zip(runs.rows(one, "metrics"), runs.rows(other, "metrics"), strict=True))
    for metric in METRICS:
        both = [(a[metric], b[metric]) for a, b in pairs if a["version"] == version]
        apart = [abs(float(a) - float(b)) for a, b in both if a is not None and b is not None]  # type: ignore[arg-type]
        yield float(np.max(apart, initial=0.0))


def is_right(runs: Runs, epochs: int) -> bool:
    """Compare devices, runs and backends; print what differs."""
    base = {"extends": "demo", "training": {"epochs": epochs}}
    sweep = runs.sweep("versions", base, grid={"version": runs.versions}, seeds=1, resources={"trials_per_gpu": 2})
    ran = {}
    for out, backend in {
        "cpu": "inline",
        "inline": "inline",
        "again": "inline",
        "local": "local",
        "ray": "ray",
    }.items():
        runs.forget_stages()
        ran[out] = runs.run(sweep, out, "--backend", backend, device="cpu" if out == "cpu" else "")
        print(f"{out}: {'not run' if ran[out] is None else f'{ran[out]:.0f} s'}")
    if ran["cpu"] is not None and ran["inline"] is not None:
        print(f"\n| version | {' | '.join(METRICS)} |\n|---|{'---:|' * len(METRICS)}")
        for version in runs.versions:
            apart = metric_differences(runs, "cpu", "inline", version)
            print(f"| {version} | {' | '.join(f'{value:.4f}' for value in apart)} |")
        print(f"largest differences between cpu and {runs.device}\n")
    right = ran["inline"] is not None
    for out in ("again", "local", "ray"):
        if ran["inline"] is not None and ran[out] is not None:
            differing = differing_digits(runs, "inline", out)
            right = right and not differing
            print(f"{out}: {'equal digits' if not differing else 'DIFFERENT: ' + ', '.join(differing)}")
    return right


def report_waits(runs: Runs) -> None:
    """Print the versions whose training step waits for the GPU."""
    if runs.device == "cpu":
        print("waits of a step: left out, they are those of a GPU")
        return
    device = open_environment("cuda").device
    waiting = []
    for version in runs.versions:
        config = resolve([version_layer(version, "this benchmark")])
        randomness = Randomness(0, "", 0)
        detector = Detector(config, (14, 14, 152), randomness)
        detector.add_task(0, randomness)
        detector.to(device)
        optimizer = optimizer_of(detector.trainable(0).values(), config.training)
        images = torch.randn(16, 14, 14, 152, generator=randomness("images")).to(device)
        train_step(detector, images, 0, config, optimizer)
        torch.cuda.set_sync_debug_mode("error")
        try:
            train_step(detector, images, 0, config, optimizer)
        except RuntimeError as error:
            waiting.append(f"{version} ({str(error).splitlines()[0]})")
        finally:
            torch.cuda.set_sync_debug_mode("default")
    print(f"steps that wait for the GPU: {', '.join(waiting) or 'none'}")


def measure_speed(runs: Runs, epochs: int, trials: int) -> bool:
    """Print trials per GPU-hour: by lanes, precision, and processes that share the GPU.

    Returns:
        False if compiled trials gave other digits the second time, or a knob did not reach trials.
    """

    def sweep(name: str, **knobs: object) -> Path:
        # `demo` is `efficientnet` on the embedded images; without data, no other base would count.
        base = {"extends": "demo", "training": {"batch_size": 16, "learning_rate": 3e-3, "epochs": epochs, **knobs}}
        gammas = [2.0 * n / trials for n in range(trials)]
        return runs.sweep(f"speed-{name}", base, version="v7", grid={"focal_gamma": gammas}, seeds=1)

    def timed(name: str, file: Path, processes: int = 1) -> float | None:
        runs.forget_stages()
        return runs.run(file, name, "--backend", "local", "--workers", str(processes))

    plain = sweep("float32")
    if runs.run(plain, "features", command="prefetch") is None:
        return True
    alone = timed("float32", plain)
    if alone is None:
        return True
    print(f"\n| training | {trials} trials, seconds | trials per GPU-hour | {' | '.join(METRICS)} |")
    print(f"|---|---:|---:|{'---:|' * len(METRICS)}")
    print(f"| float32 | {alone:.1f} | {trials * 3600 / alone:.0f} |{' - |' * len(METRICS)}")
    same = True
    for name, knobs in {"lanes": {"lanes": trials}, **SETTINGS}.items():
        if name == "tf32" and runs.device == "cpu":
            print("tf32: left out, a CPU has no such products")
            continue
        file = sweep(name, **knobs)
        first = timed(f"{name}-first", file) if name == "compile" else None
        seconds = timed(name, file)
        if seconds is None:
            continue
        if runs.trial_ids(name) == runs.trial_ids("float32"):
            same = False
            print(f"{name}: DIFFERENT trials were asked for, these are those of float32")
        apart = " | ".join(f"{value:.4f}" for value in metric_differences(runs, "float32", name, "v7"))
        print(f"| {name} | {seconds:.1f} | {trials * 3600 / seconds:.0f} | {apart} |")
        if first is not None:
            differing = differing_digits(runs, f"{name}-first", name)
            same = same and not differing
            said = "equal digits" if not differing else "DIFFERENT: " + ", ".join(differing)
            print(f"{name}: {first:.1f} s the first time, with the building of kernels; {said}")
    print("metrics: largest differences from float32")
    for processes in (2, 4):
        seconds = timed(f"float32-{processes}", plain, processes)
        if seconds is not None:
            print(
                f"{processes} processes: {seconds:.1f} s, {trials * 3600 / seconds:.0f} trials per GPU-hour", flush=True
            )
    return same


def main() -> None:
    """Check, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=14.0)
    parser.add_argument("--versions", nargs="+", choices=VERSIONS, default=VERSIONS, help="those of the first part")
    given = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # What was seen stays, should it be killed.
    with tempfile.TemporaryDirectory(prefix="moleflow-gpu-", ignore_cleanup_errors=True) as place:
        runs = Runs(Path(place), given.device, given.minutes, given.versions)
        right = is_right(runs, given.epochs)
        report_waits(runs)
        right = measure_speed(runs, given.epochs, given.trials) and right
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
