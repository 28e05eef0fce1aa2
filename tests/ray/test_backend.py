"""Ray beyond the contract of backends: deaths of workers and drivers, and a stop in seconds."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from orchestrator.records.attempts import (
    DIED,
    FAILED,
    FINISHED,
    INTERRUPTED,
    PRUNED,
    RUNNING,
    WORKER_DIED,
    AttemptFolder,
)
from orchestrator.records.event_log import LogFollower, event_logs
from orchestrator.results.store import ResultStore
from orchestrator.sweep.sweep import load_sweep

RESULTS = Path("results/small")
pytestmark = pytest.mark.ray
ON_RAY = ("sweep.yaml", "--backend", "ray", "--no-dashboard")
SLOWLY = "time.sleep(0.02)"  # A worker looks every two seconds whether its trial was stopped: a task takes longer.
SELECTING = {
    "extends": "base.yaml",
    "epochs": 100,
    "validation_fraction": 0.3,
    "validation_anomalies": "synthetic",
}


def records(place):
    return AttemptFolder(place / RESULTS / "attempts")


def under_way(place, kind="epoch"):
    """The records of running trials that have logged an event of this kind."""
    told = {
        entry.event.trial_id
        for entry in LogFollower(event_logs(place / RESULTS)).read_new()
        if entry.event.kind == kind
    }
    return [record for record in records(place).all() if record.state == RUNNING and record.trial_id in told]


def test_a_worker_that_dies_costs_one_attempt(long_sweep, long_run, on_ray, digits):
    killed = []

    def listen(event):
        if event.kind == "epoch" and not killed:
            killed.append(event.trial_id)
            os.kill(records(long_sweep).of_trial(event.trial_id)[-1].content["pid"], signal.SIGKILL)

    tally = on_ray(listen)
    assert len(tally.finished) == 4
    assert not tally.failed
    ends = [(record.trial_id, record.attempt, record.state) for record in records(long_sweep).all()]
    assert [end for end in ends if end[2] != FINISHED] == [(killed[0], 1, FAILED)]
    assert (killed[0], 2, FINISHED) in ends
    assert len(ends) == 5
    failed = [row for row in ResultStore(long_sweep / RESULTS).read("attempts").to_pylist() if row["status"] == FAILED]
    assert [(row["trial_id"], row["error_kind"]) for row in failed] == [(killed[0], WORKER_DIED)]
    assert "the Ray worker that ran it died" in failed[0]["error"]
    assert digits(long_sweep / RESULTS) == digits(long_run.folder / RESULTS)


def test_each_shared_stage_is_trained_once(place, features, edit, command):
    edit(version="v3", grid={"image_score": ["max", "top_k"], "smoothing": [0.0, 2.0]}, report=None, seeds=1)
    assert command(*ON_RAY, "--workers", "2", "--quiet").code == 0
    rows = ResultStore(place / RESULTS).read("curves", ["trial_id", "task", "epoch", "reused"]).to_pylist()
    stages = [(row["trial_id"], row["task"], row["reused"]) for row in rows if row["epoch"] == 1]
    assert len(stages) == 4 * 2
    # One trial trained both tasks; nobody waited for it on a worker.
    assert len({trial_id for trial_id, _, reused in stages if not reused}) == 1
    assert sorted(task for _, task, reused in stages if not reused) == [0, 1]


def test_ctrl_c_ends_in_seconds_and_the_same_command_goes_on(
    long_sweep, long_run, start, wait_until, digits, ray_processes
):
    before = ray_processes()
    running = start(*ON_RAY)
    wait_until(lambda: under_way(long_sweep))
    assert ray_processes() - before
    running.signal(signal.SIGINT)
    ended = running.end(timeout=30)
    assert ended.code == 130, ended.err
    assert "Traceback" not in ended.err
    wait_until(lambda: ray_processes() <= before)
    assert {record.state for record in records(long_sweep).all()} <= {INTERRUPTED, FINISHED}
    assert [record for record in records(long_sweep).all() if record.state == INTERRUPTED]

    again = start(*ON_RAY).end(timeout=240)
    assert again.code == 0, again.err
    assert digits(long_sweep / RESULTS) == digits(long_run.folder / RESULTS)
    assert not list((long_sweep / RESULTS / "ray").glob("*.stop"))


def test_a_driver_that_dies_is_resumed_by_the_same_command_with_an_extended_file(long_sweep, edit, start, wait_until):
    edit(grid={"focal_gamma": [0], "epochs": [300]}, seeds=1)  # Workers outlive their driver for a second or two.
    running = start(*ON_RAY)
    wait_until(lambda: under_way(long_sweep))
    os.kill(running.process.pid, signal.SIGKILL)
    assert running.end().code == -signal.SIGKILL
    wait_until(lambda: not [record for record in records(long_sweep).all() if record.state == RUNNING])
    died = {record.trial_id for record in records(long_sweep).all() if record.state == DIED}
    assert died

    edit(grid={"focal_gamma": [0, 2], "epochs": [300]}, seeds=1)
    again = start(*ON_RAY).end(timeout=240)
    assert again.code == 0, again.err
    assert "left no word" in again.out
    assert len(ResultStore(long_sweep / RESULTS).finished()) == 2
    ends = {(record.trial_id, record.attempt): record.state for record in records(long_sweep).all()}
    assert all(ends[trial_id, 1] == FAILED and ends[trial_id, 2] == FINISHED for trial_id in died)


def test_an_address_where_no_cluster_answers_is_one_line(place, command):
    refused = command("sweep.yaml", "--backend", "ray", "--address", "127.0.0.1:1")
    assert refused.code == 2
    assert "--address: given '127.0.0.1:1', but no Ray cluster can be joined there" in refused.err
    assert command("sweep.yaml", "--address", "auto").code == 2
    alone = command("sweep.yaml", "--backend", "ray", "--wait-for-nodes", "2")
    assert alone.code == 2
    assert "--wait-for-nodes: needs --address" in alone.err
    assert command("sweep.yaml", "--wait-for-nodes", "2").code == 2


def test_a_scheduler_of_tune_stops_trials_for_good_and_the_others_end(place, edit, hanging, on_ray, command):
    rates = {"learning_rate": [1e-2, 1e-5, 3e-3, 1e-6]}
    sweep = load_sweep(edit(base=SELECTING, grid=rates, seeds=[1], report=None, early_stopping={"rule": "asha"}))
    tally = on_ray(workers=1, make=hanging(SLOWLY), early_stopping=sweep.early_stopping)
    assert len(tally.pruned) + len(tally.finished) == 4
    assert tally.finished
    assert tally.pruned
    store = ResultStore(place / RESULTS)
    assert store.pruned() == set(tally.pruned)
    ends = [(row["trial_id"], row["task_name"]) for row in store.read("metrics").to_pylist() if row["status"] == PRUNED]
    assert set(ends) == {(trial_id, "bolt") for trial_id in tally.pruned}
    refused = command("sweep.yaml", "--out", "results/other")
    assert refused.code == 2
    assert "early_stopping: needs Ray Tune; give --backend ray" in refused.err


def test_the_median_rule_compares_trials_with_those_that_were_stopped_or_had_fewer_tasks(place, edit, hanging, on_ray):
    of_one_task = [{"tasks": ["bolt"], "learning_rate": rate} for rate in (1e-2, 8e-3, 5e-3)]
    of_two = [{"learning_rate": rate} for rate in (3e-3, 1e-7, 1e-8, 2e-3, 4e-3)]
    trials = {"grid": None, "list": [*of_one_task, *of_two]}
    sweep = load_sweep(edit(base=SELECTING, seeds=[1], report=None, early_stopping={"rule": "median"}, **trials))
    tally = on_ray(workers=1, make=hanging(SLOWLY), early_stopping=sweep.early_stopping)
    assert len(tally.pruned) + len(tally.finished) == 8
    assert tally.pruned
    assert len(tally.finished) > len(of_one_task)


def test_a_trial_that_hangs_fails_as_stalled_and_the_others_finish(place, features, edit, hanging, on_ray):
    """The actor of the stalled trial is replaced; C code that holds the GIL stops none of it."""
    edit(seeds=[1, 2], retries=0, report=None, resources={"stall_min": 0.2})
    failed = []
    make = hanging("ctypes.PyDLL(None).sleep(1000)")
    tally = on_ray(lambda event: failed.append(event) if event.kind == "failed" else None, make=make, workers=1)
    assert (len(tally.finished), len(tally.failed), tally.stopped_by) == (2, 2, None), failed
    assert all(event.facts["error_kind"] == "Stalled" for event in failed)
    assert all("; it hung in step (" in event.facts["error"] for event in failed)
    rows = ResultStore(place / "results/small").read("attempts").to_pylist()
    assert sorted(str(row["error_kind"]) for row in rows) == ["None", "None", "Stalled", "Stalled"]


def test_a_trial_that_takes_longer_than_time_min_is_continued_by_the_same_run(place, features, edit, hanging, on_ray):
    edit(grid=None, seeds=[1], retries=0, report=None)
    make = hanging("time.sleep(2)")
    tally = on_ray(make=make, time_min=0.2)
    assert (len(tally.finished), tally.failed) == (1, {}), tally.failed
    ends = [row["status"] for row in ResultStore(place / "results/small").read("attempts").to_pylist()]
    assert sorted(ends)[:1] == ["finished"]
    assert set(sorted(ends)[1:]) == {"interrupted"}
