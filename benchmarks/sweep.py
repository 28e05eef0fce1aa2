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
and (c) agree in every digit; and how far (a) is from (b). Without --data the images are the
embedded, generated ones. `--only N` runs N trials of (a) and multiplies, and says so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from moleflow.features.feature_cache import FeatureCache
from orchestrator.driver.prepare import Options, Prepared, prepare
from orchestrator.host.hardware import available_cores
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
