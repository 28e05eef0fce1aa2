"""The cost of this project beyond the trials' own work: plan, start again, status, one trial on
`local`, rows to tables.

    python benchmarks/overhead.py [--quick] [--only plan again status local tables] [--draws 100000]
                                  [--finished 10000] [--trials 1000] [--workers 2] [--rows 1000000]

`plan` expands a grid with five seeds, and as many random draws, into trials and prints the plan.
`again` and `status` look at a finished sweep in which every trial has a part of its own; both stand
beside a full read of the parts, without the compacted tables. `local` runs trials that do nothing:
this project's worker with its claims, records, events and Parquet, beside joblib, submitit's local
executor and Ray Tune with reuse_actors, each with as many workers, bare and with the trial's metric
and score rows in Parquet files, written beside and renamed. `tables` makes a report of metric rows.

Each figure comes from a process of its own. Wall seconds and CPU seconds are printed: on a machine
with other work the first say little.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import trivial
from rich.console import Console

from orchestrator.driver.launch import run_prepared
from orchestrator.driver.prepare import Options, prepare, worker_config
from orchestrator.driver.results_folder import prepare_folder, write_plan
from orchestrator.monitor.status import StatusReader
from orchestrator.monitor.status_view import status_lines
from orchestrator.plan import listing
from orchestrator.reports import make
from orchestrator.reports.final_metrics import METRICS
from orchestrator.results.parts import make_part, write_part
from orchestrator.results.schema import ATTEMPTS, TABLES, to_table
from orchestrator.results.store import ResultStore
from orchestrator.sweep.sweep import make_sweep

SECTIONS = ("plan", "again", "status", "local", "tables")
SEEDS = 5
KNOBS = {"focal_gamma": {"uniform": [0, 3]}, "lr": {"loguniform": [1e-5, 1e-3]}, "lora.rank": {"choice": [8, 16, 32]}}
Figures = dict[str, float]


def timed(work: Callable[[], object]) -> Figures:
    """Wall and CPU seconds of some work, and the most memory that this process has held, in MB."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    spent = {"wall s": time.perf_counter() - wall, "CPU s": time.process_time() - cpu}
    return spent | {"MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def machine(_: Path, __: int) -> Figures:
    """The speed of this machine at the moment: ten million steps of a Python loop, and the first
    touch of 256 MB.
    """

    def steps() -> None:
        for _ in range(10_000_000):
            pass

    return {"steps s": timed(steps)["CPU s"], "touch s": timed(lambda: b"1" * 2**28)["CPU s"]}


def plan(place: Path, trials: int, space: Mapping[str, Any]) -> Figures:
    """`moleflow-sweep plan` of so many trials."""
    document = {"name": "planned", "version": "v7", "base": trivial.DEMO, **space}
    options = Options(out=place / "results", cache=trivial.CACHE, yes=True)

    def work() -> None:
        sweep = make_sweep(document, "the benchmark", place, data_root=None, environment={})
        found = prepare(sweep, options)
        assert len(listing.plan_lines(found.plan)) > len(found.trials) == trials

    return timed(work)


def grid_of(trials: int) -> dict[str, Any]:
    """Two axes of ten values and one of as many as it takes, each variant with `SEEDS` seeds: a
    multiple of 500 trials.
    """
    tenths = [k / 10 for k in range(10)]
    rates = [1e-5 * (k + 1) for k in range(trials // SEEDS // 100)]
    axes = {"focal_gamma": tenths, "center_weight": tenths, "lr": rates}
    return {"grid": axes, "seeds": SEEDS}


def finish(place: Path, trials: int) -> Figures:
    """A finished sweep: every trial with a record and a part of its own."""
    found, options = trivial.prepared_sweep(place, trials // SEEDS, SEEDS)
    found.folder.mkdir(parents=True)
    write_plan(found)
    worker = trivial.make_worker(worker_config(found, options), lambda _: None)

    def work() -> None:
        for trial in found.trials:
            worker.run(trial)
            worker.flush()

    spent = timed(work)
    files = sum(1 for path in found.folder.rglob("*") if path.is_file())
    return spent | {"files a trial": files / len(found.trials)}


def again(place: Path, trials: int) -> Figures:
    """The same command again: nothing is left to run, and the report is made."""

    def work() -> None:
        found, options = trivial.prepared_sweep(place, trials // SEEDS, SEEDS)
        assert len(found.plan.of("done")) == len(found.trials)
        assert run_prepared(found, options, Console(file=io.StringIO())) == 0

    return timed(work)


def planned_again(place: Path, trials: int) -> Figures:
    """The part of that which does not make the report."""

    def work() -> None:
        found, options = trivial.prepared_sweep(place, trials // SEEDS, SEEDS)
        prepare_folder(found, options, Console(file=io.StringIO()))
        ResultStore(found.folder).compact()

    return timed(work)


def status(place: Path, _: int) -> Figures:
    """`moleflow-sweep status`."""

    def work() -> None:
        seen = StatusReader(place / "results").look()
        assert seen.counts["finished"] == len(seen.trials)
        status_lines(seen)

    return timed(work)


def full_look(place: Path, trials: int) -> Figures:
    """The finished trials, from the parts alone: every file read and compared with its digest."""

    def work() -> None:
        assert len(ResultStore(place / "results", from_parts=True).finished()) == trials // SEEDS * SEEDS

    return timed(work)


def local(place: Path, trials: int, workers: int) -> Figures:
    """Trials that do nothing on this project's local backend."""
    from orchestrator.backends.local import LocalBackend
    from orchestrator.execution.planned_trials import PlannedTrials
    from orchestrator.execution.trial_source import TrialSource
    from orchestrator.records.events import Event
    from orchestrator.sweep.file_schema import Resources

    found, options = trivial.prepared_sweep(place, 1, trials)
    found.folder.mkdir(parents=True)
    source = TrialSource(PlannedTrials(found.trials), Resources(cpus=1, mem_gb=0.1), retries=0)
    begun: list[float] = []

    def tell(event: Event) -> None:
        source.events(event)
        if event.kind == "started":
            begun.append(time.perf_counter())

    LocalBackend(worker_config(found, options), workers, make=trivial.make_worker).run(source, tell)
    assert len(source.tally.finished) == trials, source.tally
    return _a_trial(begun)


def _a_trial(begun: list[float]) -> Figures:
    """Milliseconds from start to start, after the first tenth."""
    warm = sorted(begun)[len(begun) // 10 :]
    return {"ms a trial": 1000 * (warm[-1] - warm[0]) / (len(warm) - 1)}


def nothing(seed: int, place: str | None) -> float:
    """A peer's trial: it does nothing, or writes the rows that a trivial trial of this project has;
    when it ended.
    """
    if place is not None:
        names, value = ("leather", "grid"), 0.5 + seed / 2000
        metrics = [trivial.metric_row(j, i, names, value) for i in range(2) for j in range(i + 1)]
        for table, rows in (("metrics", metrics), ("scores", trivial.score_rows(names, value))):
            pq.write_table(pa.Table.from_pylist(rows), f"{place}/.{table}-{seed}")
            os.replace(f"{place}/.{table}-{seed}", f"{place}/{table}-{seed}.parquet")
    return time.time()


def joblib(place: Path, trials: int, workers: int, stored: bool) -> Figures:
    """Joblib's processes."""
    from joblib import Parallel, delayed

    with Parallel(n_jobs=workers) as pool:
        pool(delayed(nothing)(seed, None) for seed in range(20))
        return _a_trial(pool(delayed(nothing)(seed, str(place) if stored else None) for seed in range(trials)))


def submitit(place: Path, trials: int, workers: int, stored: bool) -> Figures:
    """submitit's local executor, as many at once as there are workers; a trial is a process there,
    so of fewer trials.
    """
    from submitit import LocalExecutor

    executor = LocalExecutor(folder=place / "submitit")
    executor.update_parameters(timeout_min=5)
    ends: list[float] = []
    for first in range(0, max(10, trials // 50), workers):
        jobs = [executor.submit(nothing, first + k, str(place) if stored else None) for k in range(workers)]
        ends += [job.result() for job in jobs]
    return _a_trial(ends)


def tune(place: Path, trials: int, workers: int, stored: bool) -> Figures:
    """Ray Tune with reuse_actors."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    import logging

    import ray
    from ray import tune as ray_tune

    def run_one(config: dict[str, int]) -> None:
        ray_tune.report({"ended": nothing(config["seed"], str(place) if stored else None)})

    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL)
    found = ray_tune.Tuner(
        ray_tune.with_resources(run_one, {"cpu": 1}),
        param_space={"seed": ray_tune.grid_search(list(range(trials)))},
        tune_config=ray_tune.TuneConfig(reuse_actors=True),
        run_config=ray_tune.RunConfig(storage_path=str(place / "tune"), verbose=0),
    ).fit()
    ends = [one.metrics["ended"] for one in found]
    ray.shutdown()
    return _a_trial(ends)


def fill(place: Path, rows: int) -> Figures:
    """A store of metric rows: 15 tasks, 120 rows a trial, 8 variants, compacted."""
    found, options = trivial.prepared_sweep(place, 8, max(2, rows // 960))
    found.folder.mkdir(parents=True)
    write_plan(found)
    store = ResultStore(found.folder)
    store.create()
    worker = trivial.make_worker(worker_config(found, options), lambda _: None)
    names = tuple(f"class {n}" for n in range(15))
    draws = random.Random(0)

    def many(trials: list[Any]) -> Mapping[str, pa.Table]:
        attempts = [trivial.attempt_row(worker, trial) for trial in trials]
        common = [{name: row[name] for name in trivial.COMMON_NAMES} for row in attempts]
        cells = [trivial.metric_row(j, i, names, 0.7) for i in range(15) for j in range(i + 1)]
        metrics = [of | cell | {name: draws.random() for name in METRICS} for of in common for cell in cells]
        return {t: to_table(t, {"metrics": metrics, ATTEMPTS: attempts}.get(t, [])) for t in TABLES}

    def work() -> None:
        for start in range(0, len(found.trials), 500):
            write_part(store.parts, make_part(f"{start:08d}", many(found.trials[start : start + 500])))
        store.compact()

    return timed(work)


def tables(place: Path, _: int) -> Figures:
    """The report of these rows."""

    def work() -> None:
        made, _ = make.make_report(place / "results")
        assert made.tables

    return timed(work)


def alone(work: str, *given: object) -> Figures:
    """One figure, in a process of its own."""
    words = [sys.executable, __file__, "--alone", json.dumps([work, *map(str, given[:1]), *given[1:]])]
    # Processes that peers start have to find the benchmark's modules too.
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, env=variables)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def _say(what: str, figures: Figures) -> None:
    print(f"{what:<64} {'  '.join(f'{name} {value:.2f}' for name, value in figures.items())}", flush=True)


def measure(sizes: argparse.Namespace, place: Path) -> Iterator[tuple[str, Figures]]:
    """Every figure that was asked for, as it comes."""
    yield "(this machine now: ten million loop steps, first touch of 256 MB)", alone("machine", place / "machine", 0)
    if "plan" in sizes.only:
        draws = {"random": {"count": sizes.draws, "knobs": KNOBS}}
        for what, space in (("trials of a grid", grid_of(sizes.draws)), ("random draws", draws)):
            yield f"plan: {sizes.draws} {what}", alone("plan", place / "plan", sizes.draws, space)
    sweep = place / "sweep", sizes.finished
    if {"again", "status"} & {*sizes.only}:
        yield f"(a finished sweep of {sizes.finished} trials, one part each)", alone("finish", *sweep)
    if "status" in sizes.only:
        yield f"status: {sizes.finished} trials, with the compacted list", alone("status", *sweep)
        yield "status: the same, every part read", alone("full_look", *sweep)
    if "again" in sizes.only:
        yield "again: first time, tables compacted", alone("planned_again", *sweep)
        yield "again: all but the report", alone("planned_again", *sweep)
        yield "again: with a report to make", alone("again", *sweep)
        yield "again: with the report that is there", alone("again", *sweep)
    if "local" in sizes.only:
        size = sizes.trials, sizes.workers
        for turn in range(3):  # The fastest two in turns, as they vary from run to run.
            yield (
                f"local: {sizes.trials} trials, {sizes.workers} workers",
                alone("local", place / f"local-{turn}", *size),
            )
            yield "local: joblib, the same rows stored", alone("joblib", place / f"joblib-{turn}", *size, True)
        for peer in ("joblib", "submitit", "tune"):
            for stored in (False,) if peer == "joblib" else (False, True):
                what = f"local: {peer}, {'the same rows stored' if stored else 'nothing stored'}"
                yield what, alone(peer, place / f"{peer}-{stored}", *size, stored)
    if "tables" in sizes.only:
        yield f"(a store of {sizes.rows} metric rows)", alone("fill", place / "rows", sizes.rows)
        yield f"tables: a report of {sizes.rows} metric rows", alone("tables", place / "rows", sizes.rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a twentieth of every size that is not given")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    sizes = {"draws": 100_000, "finished": 10_000, "trials": 1000, "rows": 1_000_000}
    for name in sizes:
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--alone", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        work, where, *rest = given.alone
        Path(where).mkdir(parents=True, exist_ok=True)
        print(json.dumps(globals()[work](Path(where), *rest)))
        sys.exit()
    for name, size in sizes.items():
        if getattr(given, name) is None:
            setattr(given, name, size // 20 if given.quick else size)
    with tempfile.TemporaryDirectory(prefix="moleflow-overhead-") as temporary:
        for what, figures in measure(given, Path(temporary)):
            _say(what, figures)
