"""The cost of a trial on Ray beyond its own work: this project's backend beside raw Ray Tune, the
same function in the same run.

    python benchmarks/ray_overhead.py [--rounds 7] [--trials 100] [--many 1000] [--seconds 0.2]
    [--cpus 4]

First trivial trials, one after another: a function that appends one line to a file, under raw Ray
Tune with reuse_actors and under this backend, which adds the log of events and the source that it
draws from. The two take turns, each run a process of its own, and the medians over the rounds
count: on a machine with other work one run is no measure.

Then Tune's own bookkeeping workload, 10,000 trials of one second on 16 declared CPUs, scaled down:
trials that sleep, so short and so many at once that bookkeeping is the most of it. 10,000 as they
stand: `--rounds 1 --many 10000 --seconds 1 --cpus 16`.

Prints the seconds to the first end, the seconds a trial (from the first end to the last, without
the trials' own), the most files that the driver had open, its resident memory at the end, and what
that grew by per 1,000 trials over the second half of the run.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray._private.authentication.authentication_token_setup import (
    enable_token_auth_by_default,
    ensure_token_if_auth_enabled,
)
from ray.cluster_utils import Cluster

from orchestrator.backends.ray.backend import RayBackend
from orchestrator.driver.prepare import Options, prepare, worker_config
from orchestrator.execution.backend import WorkerConfig
from orchestrator.execution.planned_trials import PlannedTrials
from orchestrator.execution.trial_source import TrialSource
from orchestrator.records.event_log import EventLog, event_logs
from orchestrator.records.events import Event, Events
from orchestrator.sweep.file_schema import Resources
from orchestrator.sweep.sweep import make_sweep
from orchestrator.sweep.trial import Trial

NEEDS = Resources(cpus=1, mem_gb=0.1)
DEMO = {"extends": "demo", "data": {"tasks": ["leather", "grid"], "train_images": 8, "test_images": 8}}
LOOKS = 20
RAW, OURS = "raw Ray Tune", "moleflow-sweep"


def trivial(place: Path, name: str, seconds: float) -> None:
    """The work of a trial: a line in a file of this process, with the time of its end."""
    time.sleep(seconds)
    with (place / f"{os.getpid()}.txt").open("a") as file:
        file.write(f"{name} {time.time()}\n")


class Trivial:
    """Runs trials in place of the project's worker, with the same events."""

    def __init__(self, seconds: float, setup: WorkerConfig, events: Events) -> None:
        self._seconds, self._place, self._tell = seconds, setup.folder, events
        self._log = EventLog(event_logs(setup.folder) / f"{setup.worker}.jsonl")

    def run(self, trial: Trial) -> None:
        """The work, and word of it."""
        trivial(self._place, trial.id, self._seconds)
        self._log(Event("finished", trial.id, {"seconds": self._seconds}))

    def seconds_until_due(self) -> float | None:
        """Nothing is held back."""
        return None

    def flush(self) -> None:
        """Nothing is held back."""


@dataclass
class Held:
    """The memory and files that the driver, this process, holds as trials end.

    Attributes:
        count: how many trials there are.
        looks: now and then: how many had ended, how many files were open, and the resident memory
            in MiB.

    """

    count: int
    ended: int = 0
    looks: list[tuple[int, int, float]] = field(default_factory=list)

    def one_more(self) -> None:
        """A trial has ended."""
        self.ended += 1
        if self.ended % max(1, self.count // LOOKS) == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.looks.append(
                (self.ended, len(os.listdir("/proc/self/fd")), pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
            )


def raw(place: Path, trials: Sequence[Trial], seconds: float, held: Held) -> None:
    """Ray Tune alone, as its users call it, with actors reused."""

    class Note(tune.Callback):
        def on_trial_complete(self, **_: object) -> None:
            held.one_more()

    def run_one(config: dict[str, str]) -> None:
        trivial(place, config["trial"], seconds)
        tune.report({"score": 0.0})

    tune.Tuner(
        tune.with_resources(run_one, {"cpu": 1}),
        param_space={"trial": tune.grid_search([trial.id for trial in trials])},
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(place / "tune"), verbose=0, callbacks=[Note()]),
    ).fit()


def ours(trials: Sequence[Trial], seconds: float, held: Held, setup: WorkerConfig, address: str) -> None:
    """This project's backend."""
    source = TrialSource(PlannedTrials(trials), NEEDS, retries=0)

    def tell(event: Event) -> None:
        source.events(event)
        held.one_more()

    make = functools.partial(Trivial, seconds)
    RayBackend(setup, NEEDS, address=address, dashboard=False, say=lambda _: None, make=make).run(source, tell)
    assert len(source.tally.finished) == len(trials), source.tally


def alone(which: str, place: Path, address: str, count: int, seconds: float, cpus: int) -> dict[str, float]:
    """One run in this process, which shall do nothing else."""
    document = {"name": "overhead", "version": "v3", "base": DEMO, "seeds": count}
    sweep = make_sweep(document, "the benchmark", place, data_root=None, environment={})
    chosen = Options(out=place / "results", cache=place / "cache", backend="ray")
    prepared = prepare(sweep, chosen)
    setup = worker_config(prepared, chosen)
    setup.folder.mkdir(parents=True)
    held = Held(count)
    start = time.time()
    if which == RAW:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
        raw(setup.folder, prepared.trials, seconds, held)
    else:
        ours(prepared.trials, seconds, held, setup, address)
    lines = [line.split() for path in setup.folder.glob("*.txt") for line in path.read_text().splitlines()]
    assert sorted(name for name, _ in lines) == sorted(trial.id for trial in prepared.trials)
    ends = sorted(float(at) for _, at in lines)
    middle, last = held.looks[len(held.looks) // 2], held.looks[-1]
    return {
        "first": ends[0] - start,
        "warm": (ends[-1] - ends[0]) / (count - 1) - seconds / cpus,
        "files": max(files for _, files, _ in held.looks),
        "memory": last[2],
        "growth": (last[2] - middle[2]) / max(1, last[0] - middle[0]) * 1000,
    }


def compared(what: str, rounds: int, cpus: int, count: int, seconds: float) -> None:
    """Raw Tune and this backend in turn, on one Ray with so many declared CPUs."""
    head = {"num_cpus": cpus, "object_store_memory": 100_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    found: dict[str, list[dict[str, float]]] = {RAW: [], OURS: []}
    try:
        for number in range(rounds):
            # Who begins changes from round to round: whatever else the machine does falls on both
            # alike.
            for which in (RAW, OURS) if number % 2 == 0 else (OURS, RAW):
                with tempfile.TemporaryDirectory(prefix="moleflow-overhead-") as place:
                    given: list[Any] = [which, place, cluster.address, count, seconds, cpus]
                    words = [sys.executable, __file__, "--alone", json.dumps(given)]
                    said = subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout
                    found[which].append(json.loads(said.splitlines()[-1]))
                one = found[which][-1]
                line = f"{one['first']:>7.1f} {one['warm']:>9.4f} {one['files']:>6.0f} {one['memory']:>8.0f} {one['growth']:>8.1f}"
                print(f"{what + ': ' + which:<44} {line}", flush=True)
    finally:
        cluster.shutdown()
    of_raw, of_ours = ([one["warm"] for one in found[which]] for which in (RAW, OURS))
    ratios = [mine / its for mine, its in zip(of_ours, of_raw, strict=True)]
    print(
        f"{what}: {count} trials, medians of {rounds} rounds: raw {statistics.median(of_raw):.4f} s a trial, "
        f"ours {statistics.median(of_ours):.4f}; ours / raw {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--many", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--cpus", type=int, default=4)
    parser.add_argument("--alone", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    enable_token_auth_by_default()
    ensure_token_if_auth_enabled()
    if given.alone:
        which, place, *rest = given.alone
        print(json.dumps(alone(which, Path(place), *rest)))
        sys.exit()
    print(f"{'':<44} {'first':>7} {'a trial':>9} {'files':>6} {'MiB':>8} {'per 1000':>8}")
    if given.trials:
        compared("trivial", given.rounds, 1, given.trials, 0.0)
    if given.many:
        compared("bookkeeping", 1, given.cpus, given.many, given.seconds)
