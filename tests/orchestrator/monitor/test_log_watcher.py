"""A sweep that another process runs, watched through its logs."""

from __future__ import annotations

import json
import os
import socket

import pytest

from orchestrator.monitor import log_watcher
from orchestrator.monitor.log_watcher import LogWatcher
from orchestrator.monitor.status import SweepStatus, TrialStatus
from orchestrator.records.events import Event
from orchestrator.records.sweep_folder import SweepFolder, write_sweep_folder


@pytest.fixture
def log(tmp_path):
    def write(*entries):
        (tmp_path / "events").mkdir(exist_ok=True)
        with (tmp_path / "events/w-0.jsonl").open("a") as file:
            for at, kind, trial, facts in entries:
                file.write(json.dumps({"time": at, "kind": kind, "trial_id": trial, "worker": "w-0", **facts}) + "\n")

    return write


def status(folder, **states):
    trials = tuple(
        TrialStatus(name, f"trial {name}", state, progress=progress) for name, (state, progress) in states.items()
    )
    return SweepStatus("s", "s", "images", folder, trials, 0.0, 0.0)


def epoch(number, loss=0.5):
    return {"task": 0, "tasks": 1, "task_name": "bolt", "epoch": number, "epochs": 10, "loss": loss}


def test_events_before_and_after_the_start_are_read(tmp_path, log):
    now = 110.0
    seen = LogWatcher(tmp_path, lambda: now)
    log((0.0, "started", "a", {}), (60.0, "finished", "a", {"seconds": 60.0, "image_auroc": 0.8}))
    log((0.0, "finished", "another plan's", {"seconds": 9.0, "image_auroc": 0.9}))
    log((80.0, "started", "b", {}), (90.0, "epoch", "b", epoch(1)), (100.0, "epoch", "b", epoch(2)))
    states = {"a": ("finished", None), "b": ("running", None), "c": ("waiting", None), "d": ("queued", None)}
    snapshot = seen.snapshot(status(tmp_path, **states))
    assert snapshot.best == ("trial a", 0.8)
    assert [(row.label, row.activity, row.share) for row in snapshot.rows] == [
        ("trial b", "bolt  epoch 2/10  loss 0.5", 0.2)
    ]
    # b has 70 s left at its pace (weight 1/5) and 30 s by what a took; c and d take 60 s each.
    assert snapshot.left_s == pytest.approx(0.2 * 70 + 0.8 * 30 + 120)
    log((120.0, "finished", "b", {"seconds": 30.0, "image_auroc": 0.9}))
    now = 120.0
    states |= {"b": ("finished", None), "c": ("cancelled", None), "d": ("cancelled", None)}
    snapshot = seen.snapshot(status(tmp_path, **states))
    assert (snapshot.best, snapshot.rows, snapshot.eta) == (("trial b", 0.9), (), "")


def test_of_long_logs_only_ends_and_the_tail_are_read(tmp_path, log, monkeypatch):
    monkeypatch.setattr(log_watcher, "TAIL_BYTES", 300)
    log((0.0, "started", "a", {}), (60.0, "finished", "a", {"seconds": 60.0, "image_auroc": 0.8}))
    log(*((70.0 + n, "epoch", "b", epoch(n)) for n in range(1, 9)))
    states = {"a": ("finished", None), "b": ("running", None), "c": ("running", Event("epoch", "c", epoch(3)))}
    snapshot = LogWatcher(tmp_path, lambda: 80.0).snapshot(status(tmp_path, **states))
    assert snapshot.best == ("trial a", 0.8)
    assert [row.activity for row in snapshot.rows] == ["bolt  epoch 8/10  loss 0.5", "bolt  epoch 3/10  loss 0.5"]


@pytest.mark.parametrize(("host", "measured"), [(socket.gethostname(), True), ("elsewhere", False)])
def test_memory_is_that_of_workers_on_this_host(tmp_path, host, measured):
    trial = TrialStatus("a", "trial a", "running", host=host, worker=f"inline-{os.getpid()}")
    sweep = SweepStatus("s", "s", "images", tmp_path, (trial,), 0.0, 0.0)
    assert any(part.startswith("memory ") for part in LogWatcher(tmp_path).snapshot(sweep).use) == measured


def test_a_sweep_in_which_nothing_runs_has_no_time_left(tmp_path, log):
    log((0.0, "started", "a", {}), (60.0, "finished", "a", {"seconds": 60.0, "image_auroc": 0.8}))
    done, waiting = ("finished", None), ("waiting", None)
    killed = LogWatcher(tmp_path, lambda: 70.0).snapshot(status(tmp_path, a=done, b=waiting))
    assert (killed.over, killed.eta) == (True, "")
    queued = LogWatcher(tmp_path, lambda: 70.0).snapshot(status(tmp_path, a=done, b=waiting, c=("queued", None)))
    # Two trials of 60 s each, one after the other.
    assert (queued.over, queued.eta) == (False, "ETA 2 min")


@pytest.mark.parametrize(("tabled", "best"), [(None, ("trial a", 0.8)), (("a" * 12,), None)])
def test_the_best_of_a_search_is_not_shown_by_its_test_images(tmp_path, log, tabled, best):
    log((60.0, "finished", "a", {"seconds": 60.0, "image_auroc": 0.8}))
    plan = SweepFolder("s", "s", {}, ("a" * 12,), "images", tabled=tabled)
    write_sweep_folder(tmp_path, plan, {})
    assert LogWatcher(tmp_path, lambda: 70.0).snapshot(status(tmp_path, a=("finished", None))).best == best


def test_a_folder_without_logs(tmp_path):
    snapshot = LogWatcher(tmp_path).snapshot(status(tmp_path, a=("running", None)))
    assert ([row.label for row in snapshot.rows], snapshot.left_s, snapshot.use) == (["trial a"], None, ())
