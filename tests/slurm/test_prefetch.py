"""Prefetch as a job on the development cluster, and trials that find its features."""

from __future__ import annotations

import getpass
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.driver.prefetch import INTERRUPTED

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("jobs")]

PREFETCH = ("prefetch", "sweep.yaml", "--backend", "slurm", "--profile", "site.yaml")


@pytest.fixture
def jobs(cluster) -> Iterator[Callable[[], list[str]]]:
    """The names of this user's pending and running jobs; none is left behind."""
    yield lambda: cluster.ask("squeue", "--noheader", "--states=PENDING,RUNNING", "--format=%A %j").splitlines()
    cluster.ask("scancel", f"--user={getpass.getuser()}")


def left(place: Path) -> list[Path]:
    return list((place / "cache/prefetch").glob("*"))


def test_one_job_makes_the_features_that_all_trials_find(
    place, command, cluster, digits, small_run, monkeypatch
) -> None:
    (place / "site.yaml").write_text(
        f"setup: [export NODE_DISK={place}/node]\nnode_cache: $NODE_DISK/features\ngres: null\n"
    )
    ended = command(*PREFETCH)
    assert ended.code == 0, ended.err
    assert "40 images, 40 computed now" in ended.out
    job = ended.out.partition("submitted: SLURM job ")[2].partition(";")[0]
    assert cluster.end(job) == "COMPLETED"
    assert left(place) == []
    again = command(*PREFETCH)
    assert "40 images, nothing was computed" in again.out
    assert "submitted" not in again.out
    assert command("sweep.yaml", *PREFETCH[2:], "--quiet").code == 0
    results = place / "results/small"
    lines = [json.loads(line) for path in (results / "events").iterdir() for line in path.read_text().splitlines()]
    features = [line for line in lines if line["kind"] == "features"]
    assert features
    assert all(line["done"] == line["total"] for line in features)
    assert digits(results) == digits(small_run / "results/small")
    copied = sorted(path.name for path in (place / "node/features").glob("*/*"))
    assert copied == sorted(path.name for path in (place / "cache/features").glob("*/*.npy"))


def test_a_job_that_somebody_cancels_is_named(place, start, cluster, jobs, wait_until) -> None:
    (place / "site.yaml").write_text("extra: {hold: true}\n")
    begun = start(*PREFETCH)
    (line,) = wait_until(jobs)
    job, name = line.split()
    assert name.startswith("moleflow-prefetch-")
    cluster.ask("scancel", job)
    ended = begun.end(90)
    assert ended.code == 1
    assert f"SLURM job {job} ended as CANCELLED before it was done" in ended.err
    assert "Traceback" not in ended.err


def test_an_interrupted_command_takes_its_job_back(place, start, jobs, wait_until) -> None:
    (place / "site.yaml").write_text("extra: {hold: true}\n")
    begun = start(*PREFETCH)
    wait_until(jobs)
    wait_until(lambda: left(place))
    begun.signal(signal.SIGINT)
    ended = begun.end(60)
    assert ended.code == INTERRUPTED
    assert "Traceback" not in ended.err
    assert jobs() == []
    assert left(place) == []


def test_what_goes_wrong_in_the_job_is_said_here(place, command) -> None:
    (place / "site.yaml").write_text("setup: [export CUDA_VISIBLE_DEVICES=]\n")
    ended = command(*PREFETCH, "--device", "cuda")
    assert ended.code == 2
    assert "given 'cuda', but torch finds no GPU" in ended.err
    assert len(ended.err.splitlines()) == 1
    assert left(place) == []
