"""Whole sweeps: a shell loop of independent processes without a cache, as the notes' authors ran
theirs, beside this project.

    python benchmarks/sweep.py [gamma] [scoring] [order] [--data DIR] [--base BASE] [--epochs 2]
    [--images 24] [--seeds 1]

Three sweeps of v3 or v7 over three tasks: `gamma` (five gammas, three seeds), `scoring` (ways to
score an image, which share all training) and `order` (all six task orders, which share their
prefixes). Each is run

(a) trial after trial, a process each with as many threads as there are cores:
benchmarks/notes_way.py; (b) by `moleflow-sweep` with an empty cache and as many workers as there
are cores; (c) by `moleflow-sweep` again, a process and an empty cache for each trial, one thread:
nothing is shared. `--without c` leaves it out.

Prints seconds, ratio, start-up of processes apart, backbone forwards and stages trained; that (b)
and (c) agree in every digit; and how far (a) is from (b). It also prints which share of (b) its
products alone would take (aim: .9): the matrix products and convolutions of its backbone forwards,
of the training steps of the stages that it trained, and of scoring each test image once by its own
expert, measured on one thread and spread over all cores. Without --data the images are the
embedded, generated ones. `--only N` runs N trials of (a) and multiplies, and says so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import yaml
from products import products_of

from moleflow.environment import open_environment
from moleflow.features.extract import frozen_backbone
from moleflow.features.feature_cache import FeatureCache
from moleflow.settings.config import TrialConfig
from moleflow.training.train_task import Randomness, new_detector, optimizer_of, train_step
from orchestrator.driver.prepare import Options, Prepared, prepare
from orchestrator.execution.step_cost import cost_settings
from orchestrator.host.hardware import available_cores
from orchestrator.plan.cost_estimate import steps_per_epoch
from orchestrator.sweep.sweep import load_sweep

HERE = Path(__file__).parent
CORES = available_cores()
SWEEPS: dict[str, dict[str, Any]] = {
    "gamma": {"version": "v7", "grid": {"focal_gamma": [0, 0.5, 1, 2, 4]}, "seeds": 3},
    "scoring": {
        "version": "v3",
        "grid": {"image_score": ["quantile", "max", "top_k"], "smoothing": [0.0, 2.0, 4.0, 8.0]},
        "seeds": 1,
    },
    "order": {"version": "v3", "grid": {}, "seeds": 1},
}
METRICS = ("image_auroc", "pixel_auroc", "aupro")
DIGITS = ("routing_accuracy", "state_digest", "scores_digest", *METRICS)


def write_sweep(name: str, place: Path, given: argparse.Namespace) -> Path:
    """The sweep's file."""
    document = {"name": f"bench_{name}", **SWEEPS[name]}
    base: dict[str, Any] = {"extends": given.base, "training.epochs": given.epochs, "data.tasks": given.tasks}
    if given.images:
        base |= {"data.train_images": given.images, "data.test_images": given.images}
    if name == "order":
        document["grid"] = {"data.tasks": [list(order) for order in itertools.permutations(given.tasks)]}
    if given.seeds:
        document["seeds"] = given.seeds
    path = place / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document | {"base": base}))
    return path


def ours(sweep: Path, place: Path, images: Path, given: argparse.Namespace, workers: int = CORES) -> float:
    """Seconds of `moleflow-sweep` with an empty cache, on images that are there, as the loop has
    them.
    """
    words = ["run", str(sweep), "--out", str(place / "out"), "--cache", str(place / "cache"), "--workers", str(workers)]
    words += ["--data", str(images)]
    for setting in given.set or []:
        words += ["--set", setting]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "orchestrator.cli", *words, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def rows_of(out: Path) -> dict[tuple[str, int, str], dict[str, Any]]:
    """The metrics by (trial, task after which, task)."""
    files = sorted((out / "parts" / "metrics").glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return {(row["trial_id"], row["after_task"], row["task_name"]): row for row in rows}


def compared(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """One sweep in each way."""
    with tempfile.TemporaryDirectory(prefix="moleflow-bench-") as scratch:
        place = Path(scratch)
        path = write_sweep(name, place, given)
        sweep = load_sweep(path, sets=given.set or [], data_root=given.data)
        prepared = prepare(sweep, Options(out=place / "none", cache=place / "plan"))
        found: dict[str, Any] = {
            "sweep": name,
            "trials": len(prepared.trials),
            "base": given.base,
            "epochs": given.epochs,
        }
        found["b_seconds"] = ours(path, place / "b", prepared.inputs.dataset.root.absolute(), given)
        shared = rows_of(place / "b" / "out")
        found |= counts(place / "b")
        found["b_products"] = products_seconds(prepared, place / "b", found["b_forwards"])
        if "a" not in given.without:
            found |= notes_way(prepared, shared, place, given)
        if "c" not in given.without:
            found |= alone(prepared, path, shared, place, given)
        return found


def counts(place: Path) -> dict[str, Any]:
    """The work of (b): images that went through the backbone, stages that its trials went through,
    and those it trained.
    """
    curves = [row for file in (place / "out/parts/curves").glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    stages = {(row["trial_id"], row["task"]): row["reused"] for row in curves}
    return {
        "b_forwards": FeatureCache(place / "cache" / "features").count(),
        "stages": len(stages),
        "stages_trained": sum(not reused for reused in stages.values()),
    }


def products_seconds(prepared: Prepared, place: Path, forwards: int) -> float:
    """Seconds that the products of (b) alone take on all cores."""
    environment = open_environment("cpu", 1)
    config = prepared.trials[0].config
    extractor = frozen_backbone(config, environment)
    size = config.data.image_size
    images = np.zeros((1, size, size, 3), dtype=np.uint8)
    shape = extractor.extract(images).shape[1:]
    seconds = forwards * timed(lambda: extractor.extract(images))
    known: dict[tuple[str, bool], tuple[float, float]] = {}
    configs = {trial.id: trial.config for trial in prepared.trials}
    curves = [row for file in (place / "out/parts/curves").glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    for row in curves:
        if not row["reused"]:
            config = configs[row["trial_id"]]
            key = cost_settings(config).model_dump_json(), row["task"] > 0
            if key not in known:
                known[key] = model_seconds(config, shape, min(row["task"], 1))
            step, score = known[key]
            counts_of = prepared.inputs.images[row["task_name"]]
            train = min(counts_of.train, config.data.train_images or counts_of.train)
            seconds += steps_per_epoch(config.training, train) * step
            if row["epoch"] == config.training.epochs:
                seconds += min(counts_of.test, config.data.test_images or counts_of.test) * score
    return seconds / CORES


def model_seconds(config: TrialConfig, shape: torch.Size, task: int) -> tuple[float, float]:
    """Seconds of the products of a training step on a task, and of scoring an image."""
    randomness = Randomness(0, "", 0)
    images = torch.randn(config.training.batch_size, *shape)
    detector = new_detector(config, images, randomness, torch.device("cpu"))
    for number in range(task + 1):
        detector.add_task(number, randomness)
    optimizer = optimizer_of(detector.trainable(task).values(), config.training)
    step = timed(lambda: train_step(detector.train(), images, task, config, optimizer))
    detector.requires_grad_(False).eval()
    with torch.no_grad():
        return step, timed(lambda: detector(images[:1], task))


def timed(work: Callable[[], object]) -> float:
    """Median seconds of processor time of the products of some work."""
    again, found = products_of(work), []
    for turn in range(7):
        start = time.process_time()
        again()
        if turn > 1:  # The first ones draw memory.
            found.append(time.process_time() - start)
    return statistics.median(found)


def notes_way(prepared: Prepared, shared: dict[Any, Any], place: Path, given: argparse.Namespace) -> dict[str, Any]:
    """(a), as a shell loop would."""
    trials = prepared.trials[: given.only] if given.only else prepared.trials
    seconds, startup, forwards, apart = [], [], 0, 0.0
    for number, trial in enumerate(trials):
        scratch = place / "a" / str(number)
        scratch.mkdir(parents=True)
        root = str(prepared.inputs.dataset.root.absolute())
        order = {"config": trial.config.model_dump(), "threads": CORES, "scratch": str(scratch), "data_root": root}
        (scratch / "trial.json").write_text(json.dumps(order))
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, str(HERE / "notes_way.py"), str(scratch / "trial.json"), str(scratch / "found.json")],
            check=True,
        )
        seconds.append(time.perf_counter() - start)
        result = json.loads((scratch / "found.json").read_text())
        startup.append(result["startup_s"])
        forwards += result["forwards"]
        for row in result["rows"]:
            same = shared[trial.id, row["after"], row["task"]]
            apart = max(apart, *(abs(row[m] - same[m]) for m in METRICS if row[m] is not None))
    factor = len(prepared.trials) / len(trials)
    return {
        "a_seconds": sum(seconds) * factor,
        "a_startup": sum(startup) * factor,
        "a_forwards": round(forwards * factor),
        "a_trials_run": len(trials),
        "a_apart": apart,
    }


def alone(
    prepared: Prepared, path: Path, shared: dict[Any, Any], place: Path, given: argparse.Namespace
) -> dict[str, Any]:
    """(c): a process and an empty cache for each trial; whether its digits are those of (b)."""
    seconds, differing, looked = 0.0, 0, 0
    for trial in prepared.trials:
        document = yaml.safe_load(path.read_text())
        document["grid"] = {axis: [value] for axis, value in trial.factors.items() if axis in document["grid"]}
        document["grid"] = {axis: json.loads(json.dumps(values)) for axis, values in document["grid"].items()}
        document["seeds"] = [trial.config.seed]
        one = place / "c" / trial.id
        one.mkdir(parents=True)
        (one / "one.yaml").write_text(yaml.safe_dump(document))
        seconds += ours(one / "one.yaml", one, prepared.inputs.dataset.root.absolute(), given, workers=1)
        for key, row in rows_of(one / "out").items():
            looked += 1
            differing += any(row[name] != shared[key][name] for name in DIGITS)
        shutil.rmtree(one)
    return {"c_seconds": seconds, "c_rows": looked, "c_differing": differing}


def tell(found: dict[str, Any]) -> None:
    """One sweep's figures in lines."""
    print(f"\n{found['sweep']}: {found['trials']} trials, base {found['base']}, {found['epochs']} epochs")
    trained = f"{found['stages_trained']} of {found['stages']} stages trained"
    line("(b) moleflow-sweep", found["b_seconds"], f"{CORES} workers, {found['b_forwards']:,} forwards, {trained}")
    share = found["b_products"] / found["b_seconds"]
    line("    its products alone", found["b_products"], f"on {CORES} cores: {share:.2f} of (b)")
    if "a_seconds" in found:
        run = found["a_trials_run"]
        of = "" if run == found["trials"] else f", extrapolated from {run} trials"
        said = f"{found['a_forwards']:,} forwards, start-up {found['a_startup']:.1f} s{of}"
        line("(a) shell loop, no cache", found["a_seconds"], said)
        ratio = found["a_seconds"] / found["b_seconds"]
        without = (found["a_seconds"] - found["a_startup"]) / found["b_seconds"]
        print(
            f"      (a) / (b) {ratio:.1f}, without the start-up of (a) {without:.1f}; metrics apart by {found['a_apart']:.1e} at most"
        )
    if "c_seconds" in found:
        said = f"one worker; of {found['c_rows']} rows {found['c_differing']} differ from (b) in a digit or a digest"
        line("(c) nothing shared", found["c_seconds"], said)


def line(what: str, seconds: float, said: str) -> None:
    """One way's line."""
    print(f"  {what:<28}{seconds:8.1f} s   {said}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="*", choices=[*SWEEPS, []], default=[])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--base", default="demo")
    parser.add_argument("--tasks", nargs="+", default=["leather", "grid", "transistor"])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int, default=24, help="of each class, for training and for the test; 0 = all")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--set", action="append", help="as moleflow-sweep's")
    parser.add_argument("--only", type=int, help="trials of (a); the rest is extrapolated")
    parser.add_argument("--without", default="", help="ways to leave out: a, c or ac")
    parser.add_argument("--json", type=Path, help="where the figures go as well")
    asked = parser.parse_args()
    results = []
    for sweep in asked.sweeps or SWEEPS:
        results.append(compared(sweep, asked))
        tell(results[-1])
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1))
