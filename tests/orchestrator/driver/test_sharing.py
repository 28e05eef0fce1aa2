"""Sharing work between trials changes no digit, trains no stage twice, and keeps nobody waiting for the dead."""

from __future__ import annotations

import itertools
import json
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
    """The state digests of the stages that trials trained themselves, not taking them from the store."""
    store = ResultStore(folder)
    own = {(r["trial_id"], r["task"]) for r in store.read("curves").to_pylist() if not r["reused"]}
    rows = store.read("metrics").to_pylist()
    return sorted(r["state_digest"] for r in rows if r["task"] == r["after_task"] and (r["trial_id"], r["task"]) in own)


@pytest.mark.parametrize("seed", [0, 2, 5])
def test_a_random_sweep_has_the_same_digits_with_and_without_sharing(
    seed: int, place: Path, features: None, edit: Any, command: Any, digits: Any
) -> None:
    rng = random.Random(seed)
    grid = {axis: rng.sample(AXES[axis], 2) for axis in rng.sample([*AXES], 2)}
    edit(name="shared", version="v3", grid=grid, report=None, seeds=1)
    assert command("sweep.yaml", "--workers", "2", "--quiet").code == 0
    shared = digits(place / "results/shared")
    alone: dict[str, list[Any]] = {}
    for number, values in enumerate(itertools.product(*grid.values())):
        # Every trial with a stage store of its own. Factors are a part of the rows, so each keeps its axes.
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
        words = ("sweep.yaml", "--backend", "inline", "--quiet", "--cache", cache)
        assert command(*words).code == 0
        for table, rows in digits(place / f"results/alone{number}").items():
            alone.setdefault(table, []).extend(rows)
    for table, rows in shared.items():
        assert by_name(rows) == by_name(alone[table]), table
    assert len(trained(place / "results/shared")) == len(set(trained(place / "results/shared")))


def epochs_told(folder: Path, epochs: int) -> list[int]:
    """The epochs of task 0 that the trial of so many epochs told of, first to last: not all of them, where they end in short order."""
    told = [json.loads(line) for path in (folder / "events").glob("*") for line in path.read_text().splitlines()]
    return [e["epoch"] for e in told if e["kind"] == "epoch" and (e["epochs"], e["task"]) == (epochs, 0)]


@pytest.mark.parametrize("words", [("--backend", "inline"), ("--workers", "2")])
def test_more_epochs_go_on_from_fewer_to_the_digits_of_each_alone(
    words: tuple[str, ...], place: Path, features: None, edit: Any, command: Any, digits: Any
) -> None:
    edit(version="v3", grid={"epochs": [4, 2], "schedule": ["constant"]}, report=None, seeds=1)
    ran = command("sweep.yaml", *words)
    assert ran.code == 0
    line = "epochs:   task 0 goes on from 2 epochs to 4 (1 trial), as the learning rate is constant"
    assert line in ran.out
    told = epochs_told(place / "results/small", 2), epochs_told(place / "results/small", 4)
    assert [(first[0], first[-1]) for first in told] == [(1, 2), (3, 4)]
    together = digits(place / "results/small")
    alone: dict[str, list[Any]] = {}
    for epochs in (2, 4):
        edit(version="v3", grid={"epochs": [epochs], "schedule": ["constant"]}, report=None, seeds=1)
        cache, out = place / f"cache{epochs}", place / f"alone{epochs}"
        cache.mkdir()
        (cache / "features").symlink_to(place / "cache/features")
        ran = command("sweep.yaml", "--backend", "inline", "--out", out, "--cache", cache)
        assert (ran.code, "epochs:" in ran.out) == (0, False)
        for table, rows in digits(out).items():
            alone.setdefault(table, []).extend(rows)
    for table, rows in together.items():
        assert by_name(rows) == by_name(alone[table]), table


def test_a_finished_sweep_of_fewer_epochs_is_gone_on_from(place: Path, features: None, edit: Any, command: Any) -> None:
    one = {"version": "v3", "grid": None, "report": None, "seeds": 1}
    edit(**one)
    words = "--backend", "inline", "--set", "schedule=constant", "--set"
    assert command("sweep.yaml", *words, "epochs=2").code == 0
    ran = command("sweep.yaml", *words, "epochs=4")
    assert (ran.code, "epochs:   task 0 goes on from 2 epochs to 4 (1 trial)" in ran.out) == (0, True)
    assert epochs_told(place / "results/small", 4)[0] == 3


def test_under_a_cosine_it_is_said_that_more_epochs_train_anew(
    place: Path, features: None, edit: Any, command: Any
) -> None:
    edit(version="v3", grid={"epochs": [2, 4]}, report=None, seeds=1)
    line = "epochs:   task 0 of 4 epochs beside 2 trains anew (1 trial): the schedule (cosine to the last epoch) does not allow"
    assert line in command("plan", "sweep.yaml").out
    ran = command("sweep.yaml", "--backend", "inline")
    assert (ran.code, line in ran.out) == (0, True)
    assert epochs_told(place / "results/small", 4)[0] == 1
    edit(version="v3", grid={"epochs": [3]}, report=None, seeds=1)
    assert "epochs:   task 0 of 3 epochs beside 2 trains anew (1 trial)" in command("plan", "sweep.yaml").out


def by_name(rows: list[dict[str, Any]]) -> list[Any]:
    """Rows without the name of their sweep, in an order of their own."""
    return sorted(sorted((k, repr(v)) for k, v in row.items() if k != "sweep") for row in rows)


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
    # One worker leads; the other one has nothing to do before its stage is trained, and no trial was given to it.
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
