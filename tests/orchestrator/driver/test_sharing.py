"""Sharing stages changes no digit, trains no stage twice, and outlives a killed worker."""

from __future__ import annotations

import itertools
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.results.store import ResultStore

AXES: dict[str, list[Any]] = {
    "image_score": ["quantile", "max", "top_k"],
    "smoothing": [0.0, 2.0],
    "focal_gamma": [0, 1, 2],
    "lora.scaling": [0.5, 2.0],
    "router.shrinkage": ["ledoit_wolf", 0.5],
    "data.tasks": [["bolt", "cloth"], ["cloth", "bolt"], ["bolt"]],
    "epochs": [1, 2],
    "schedule": ["constant", "cosine"],
}


def trained(folder: Path) -> list[str]:
    """The state digests of the stages that trials trained and did not take from the cache."""
    store = ResultStore(folder)
    own = {(r["trial_id"], r["task"]) for r in store.read("curves").to_pylist() if not r["reused"]}
    rows = store.read("metrics").to_pylist()
    return sorted(r["state_digest"] for r in rows if r["task"] == r["after_task"] and (r["trial_id"], r["task"]) in own)


@pytest.mark.parametrize(
    ("seed", "words"),
    [
        (0, ("--backend", "inline")),
        *(pytest.param(seed, ("--workers", "2"), marks=pytest.mark.process) for seed in (2, 5)),
    ],
)
def test_a_random_sweep_has_the_same_digits_with_and_without_sharing(
    seed: int, words: tuple[str, ...], place: Path, features: None, edit: Any, command: Any, digits: Any
) -> None:
    rng = random.Random(seed)
    grid = {axis: rng.sample(AXES[axis], 2) for axis in rng.sample([*AXES], 2)}
    edit(name="shared", version="v3", grid=grid, report=None, seeds=1)
    assert command("sweep.yaml", *words, "--quiet").code == 0
    shared = digits(place / "results/shared")
    alone: dict[str, list[Any]] = {}
    for number, values in enumerate(itertools.product(*grid.values())):
        # Each trial has its own stages. Factors are a part of the rows, so each keeps its axes.
        edit(
            name=f"alone{number}",
            version="v3",
            grid={a: [v] for a, v in zip(grid, values, strict=True)},
            report=None,
            seeds=1,
        )
        cache = place / f"cache{number}"
        cache.mkdir()
        (cache / "features").symlink_to(place / "cache/features")
        assert command("sweep.yaml", "--backend", "inline", "--quiet", "--cache", cache).code == 0
        for table, rows in digits(place / f"results/alone{number}").items():
            alone.setdefault(table, []).extend(rows)
    for table, rows in shared.items():
        assert by_name(rows) == by_name(alone[table]), table
    assert len(trained(place / "results/shared")) == len(set(trained(place / "results/shared")))


def by_name(rows: list[dict[str, Any]]) -> list[Any]:
    """Rows without the name of their sweep, in an order of their own."""
    return sorted(sorted((k, repr(v)) for k, v in row.items() if k != "sweep") for row in rows)


@pytest.mark.process
def test_a_leader_that_is_killed_strands_nobody_and_leaves_nothing_half(
    place: Path, features: None, edit: Any, start: Any, command: Any, digits: Any, wait_until: Any
) -> None:
    edit(grid={"image_score": ["max", "top_k"], "smoothing": [0.0, 2.0]}, report=None, seeds=1, retries=0)
    base = yaml.safe_load((place / "base.yaml").read_text())
    base["training"]["epochs"] = 60
    (place / "base.yaml").write_text(yaml.safe_dump(base))
    driver = start("sweep.yaml", "--workers", "2", "--quiet")
    events = place / "results/small/events"
    log = wait_until(lambda: next((p for p in events.glob("*") if '"epoch"' in p.read_text()), None))
    # One worker trains the stage. The other trials wait for it, and no worker has one of them.
    assert [path for path in events.glob("*") if '"started"' in path.read_text()] == [log]
    for pid in driver.members() - {driver.process.pid}:
        if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, signal.SIGKILL)
    ended = driver.end(120)
    assert ended.code == 1
    assert "3 of 4 trials finished" in ended.out
    assert command("sweep.yaml", "--quiet").code == 0
    found = digits(place / "results/small")
    assert command("sweep.yaml", "--backend", "inline", "--quiet", "--out", "alone", "--cache", "cache2").code == 0
    assert found == digits(place / "alone")
