"""The cost of the slurm backend next to submitit's own map_array, with the same trials in the same
run.

    sudo MOLEFLOW_SLURM_ARRAY=1001 slurm/cluster.sh up && eval "$(slurm/cluster.sh env)" python
    benchmarks/slurm_overhead.py [--trials 60] [--parallelism 4]

Prints, for map_array and for this backend with one and with several trials an element: seconds from
the call to the first stored result and to the last, and the seconds of a trial's share. The images
are the embedded ones, the trials as short as they can be.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from orchestrator.backends.slurm.backend import SlurmBackend
from orchestrator.backends.slurm.job_array import array_shape, submitit_executor
from orchestrator.backends.slurm.site_profile import SiteProfile
from orchestrator.driver.prepare import Options, prepare, worker_config
from orchestrator.execution.backend import WorkerConfig
from orchestrator.execution.planned_trials import PlannedTrials
from orchestrator.execution.trial_source import TrialSource
from orchestrator.execution.worker import Worker
from orchestrator.results.store import ResultStore
from orchestrator.sweep.file_schema import Resources
from orchestrator.sweep.sweep import make_sweep
from orchestrator.sweep.trial import Trial

NEEDS = Resources(time_min=20, mem_gb=2)
TINY = {
    "extends": "demo",
    "data": {"tasks": ["leather", "grid"], "train_images": 8, "test_images": 8},
    "flow.blocks": 2,
    "training.epochs": 1,
}


def run_one(setup: WorkerConfig, trial: Trial) -> None:
    """One trial, as somebody who uses submitit alone would run it."""
    worker = Worker(setup, lambda _: None)
    worker.run(trial)
    worker.flush()


def plain(setup: WorkerConfig, trials: list[Trial], parallelism: int) -> None:
    """submitit's map_array over the trials."""
    profile = SiteProfile(gres=None, parallelism=parallelism)
    submitter = submitit_executor(setup.folder / "plain", "plain", array_shape(NEEDS, profile), profile, setup.threads)
    for job in submitter.map_array(run_one, [setup] * len(trials), trials):
        job.result()


def ours(setup: WorkerConfig, trials: list[Trial], parallelism: int, together: int) -> None:
    """This project's backend over the trials."""
    source = TrialSource(PlannedTrials(trials), NEEDS, retries=0)
    profile = SiteProfile(gres=None, parallelism=parallelism, trials_per_job=together)
    SlurmBackend(setup, profile).run(source, source.events)
    for event in source.tally.failed.values():
        raise SystemExit(f"a trial failed: {event.facts['error']}")


def timed(name: str, place: Path, trials: int, run: Callable[[WorkerConfig, list[Trial]], None]) -> None:
    """Run a fresh sweep of so many trials and print when its results were there."""
    document = {"name": "overhead", "version": "v3", "base": TINY, "seeds": trials}
    sweep = make_sweep(document, "the benchmark", place, data_root=None, environment={})
    prepared = prepare(sweep, Options(out=place / name, cache=place / "cache", backend="slurm"))
    setup = worker_config(prepared, Options(backend="slurm"))
    # Every sweep trains its own stages, and all have the features that the first one computed.
    setup = replace(setup, cache=place / f"cache of {name}")
    setup.cache.mkdir()
    (setup.cache / "features").symlink_to(place / "cache" / "features")
    ResultStore(prepared.folder).create()
    start = time.time()
    run(setup, prepared.trials)
    whole = time.time() - start
    ends = sorted(
        at.timestamp() - start for at in ResultStore(prepared.folder).read("attempts")["ended_at"].to_pylist()
    )
    print(
        f"{name:<34} {ends[0]:>8.1f} {ends[-1]:>8.1f} {whole:>8.1f} {ends[-1] / trials:>8.2f}  {len(ends)} of {trials}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--parallelism", type=int, default=4)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="moleflow-slurm-overhead-") as temporary:
        place, most = Path(temporary), given.parallelism
        (place / "cache" / "features").mkdir(parents=True)
        print(f"{given.trials} trials, {most} elements at once; seconds from the call to")
        print(f"{'':<34} {'first':>8} {'last':>8} {'return':>8} {'a trial':>8}  results")
        timed("features, then one trial", place, 1, lambda setup, trials: ours(setup, trials, most, 1))
        timed("submitit map_array", place, given.trials, lambda setup, trials: plain(setup, trials, most))
        for together in (1, 5):
            name = f"moleflow-sweep, trials_per_job {together}"
            timed(name, place, given.trials, lambda setup, trials, n=together: ours(setup, trials, most, n))
