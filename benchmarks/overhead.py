"""What a trial costs on Ray beyond its own work: this project's backend beside raw Ray Tune, the same function in the same run.

    python benchmarks/overhead.py [--trials 100] [--many 200] [--seconds 0.2] [--cpus 4]

Trivial trials: a function that appends one line to a file, under raw Ray Tune with reuse_actors and under this backend, which adds
the log of events and the source that it draws from. Then Tune's own bookkeeping workload, 10,000 trials of one second on 16 declared
CPUs, scaled down:
trials that sleep, so many at once that what is not sleep is bookkeeping. Prints seconds per trial (warm: between the first end and the
last), open files and resident memory of the driver.
"""

from __future__ import annotations

import argparse
import functools
import logging
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import ray
from ray import tune
from ray._private.authentication.authentication_token_setup import (
    enable_token_auth_by_default,
    ensure_token_if_auth_enabled,
)
from ray.cluster_utils import Cluster

from orchestrator import launch
from orchestrator.backends.ray import RayBackend
from orchestrator.event_log import EventLog, event_logs
from orchestrator.events import Event, Events
from orchestrator.runner import TrialSource
from orchestrator.search import PlannedTrials
from orchestrator.spec import make_sweep
from orchestrator.sweep_file import Resources
from orchestrator.trial import Trial
from orchestrator.work import Setup

NEEDS = Resources(cpus=1, mem_gb=0.1)
DEMO = {"extends": "demo", "data": {"tasks": ["leather", "grid"], "train_images": 8, "test_images": 8}}


def trivial(place: Path, name: str, seconds: float) -> None:
    """The work of a trial: a line in a file of this process."""
    time.sleep(seconds)
    with (place / f"{os.getpid()}.txt").open("a") as file:
        file.write(f"{name}\n")


class Trivial:
    """What runs trials in the place of the project's worker; it tells of them as that one does."""

    def __init__(self, seconds: float, setup: Setup, events: Events) -> None:
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


def raw(place: Path, trials: Sequence[Trial], seconds: float, ends: list[float]) -> None:
    """Ray Tune alone, as its users call it, with actors reused."""

    class Note(tune.Callback):
        def on_trial_complete(self, **_: object) -> None:
            ends.append(time.perf_counter())

    def run_one(config: dict[str, str]) -> None:
        trivial(place, config["trial"], seconds)
        tune.report({"score": 0.0})

    tune.Tuner(
        tune.with_resources(run_one, {"cpu": 1}),
        param_space={"trial": tune.grid_search([trial.id for trial in trials])},
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(place / "tune"), verbose=0, callbacks=[Note()]),
    ).fit()


def ours(trials: Sequence[Trial], seconds: float, ends: list[float], setup: Setup, address: str) -> None:
    """This project's backend."""
    source = TrialSource(PlannedTrials(trials), NEEDS, retries=0)

    def tell(event: Event) -> None:
        source.events(event)
        ends.append(time.perf_counter())

    make = functools.partial(Trivial, seconds)
    RayBackend(setup, NEEDS, address=address, dashboard=False, say=lambda _: None, make=make).run(source, tell)
    assert len(source.tally.finished) == len(trials), source.tally


def measured(name: str, count: int, run: Callable[[list[float]], None], ideal: float) -> float:
    """Run, print, and give the seconds per trial once warm, without what the trials themselves take."""
    ends: list[float] = []
    start = time.perf_counter()
    run(ends)
    whole = time.perf_counter() - start
    warm = (ends[-1] - ends[0]) / (len(ends) - 1) - ideal
    files = len(os.listdir("/proc/self/fd"))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name:<44} {ends[0] - start:>7.1f} {whole:>7.1f} {warm:>9.3f} {files:>6} {memory:>8.0f}", flush=True)
    assert len(ends) == count
    return warm


def compared(what: str, place: Path, cpus: int, count: int, seconds: float) -> None:
    """Raw Tune, then this backend, on one Ray with so many declared CPUs."""
    document = {"name": "overhead", "version": "v3", "base": DEMO, "seeds": count}
    sweep = make_sweep(document, "the benchmark", place, data_root=None, environment={})
    chosen = launch.Options(out=place / what, cache=place / "cache", backend="ray")
    prepared = launch.prepare(sweep, chosen)
    setup = launch.setup(prepared, chosen)
    setup.folder.mkdir(parents=True)
    head = {"num_cpus": cpus, "object_store_memory": 100_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    address, ideal = cluster.address, seconds / cpus
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
        of_raw = measured(f"{what}: raw Ray Tune", count, lambda e: raw(place, prepared.trials, seconds, e), ideal)
        ray.shutdown()
        of_ours = measured(
            f"{what}: moleflow-sweep", count, lambda e: ours(prepared.trials, seconds, e, setup, address), ideal
        )
    finally:
        ray.shutdown()
        cluster.shutdown()
    print(f"{what}: ours / raw {of_ours / of_raw:.2f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--many", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--cpus", type=int, default=4)
    given = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    enable_token_auth_by_default()
    ensure_token_if_auth_enabled()
    with tempfile.TemporaryDirectory(prefix="moleflow-overhead-") as temporary:
        print(f"{'':<44} {'first':>7} {'whole':>7} {'a trial':>9} {'files':>6} {'MiB max':>8}")
        compared("trivial", Path(temporary), 1, given.trials, 0.0)
        compared("bookkeeping", Path(temporary), given.cpus, given.many, given.seconds)
