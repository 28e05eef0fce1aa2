"""Trials that stall or run for too long, on the local backend."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.local import LocalBackend
from orchestrator.driver.prepare import Options, prepare, worker_config
from orchestrator.execution.planned_trials import PlannedTrials
from orchestrator.execution.trial_source import RunOutcome, TrialSource
from orchestrator.records.attempts import FAILED, FINISHED, INTERRUPTED, AttemptFolder
from orchestrator.results.store import ResultStore
from orchestrator.sweep.sweep import load_sweep

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("features")]

GAMMA = {"grid": {"focal_gamma": [0, 2]}, "report": None}
STALL = {"stall_min": 0.2}  # Seconds would not do: other tests share the cores.


@pytest.fixture
def on_local(place: Path) -> Callable[..., RunOutcome]:
    """Run the sweep of the folder in two worker processes; returns the outcome."""

    def run(make: Any, retries: int = 0, **setup: Any) -> RunOutcome:
        sweep = load_sweep(place / "sweep.yaml")
        chosen = Options(out=place / "results/small", cache=place / "cache", backend="local")
        prepared = prepare(sweep, chosen)
        source = TrialSource(PlannedTrials(prepared.trials), sweep.resources, retries)
        config = replace(worker_config(prepared, chosen), **setup)
        LocalBackend(config, 2, sweep.resources, make=make).run(source, source.events)
        return source.tally

    return run


def ends(place: Path) -> list[tuple[str, str | None]]:
    records = AttemptFolder(place / "results/small/attempts").all()
    return sorted((record.state, record.content.get("error_kind")) for record in records)


@pytest.mark.parametrize(
    "statement",
    ["open(os.path.join(os.path.dirname(__file__), 'fifo')).read()", "ctypes.PyDLL(None).sleep(1000)"],
    ids=["a read that never returns", "C code that holds the GIL"],
)
def test_a_trial_that_hangs_fails_as_stalled_and_the_others_finish(place, edit, hanging, on_local, statement) -> None:
    os.mkfifo(place / "fifo")
    edit(**GAMMA, seeds=[1, 2], resources=STALL)
    outcome = on_local(hanging(statement))
    assert (len(outcome.finished), len(outcome.failed), outcome.stopped_by) == (2, 2, None), outcome.failed
    for event in outcome.failed.values():
        assert event.facts["error_kind"] == "Stalled"
        assert f"it hung in step ({place}/hanging_worker.py:" in event.facts["error"]
        assert "in run_sequence" in event.facts["traceback"]
    assert ends(place) == [(FAILED, "Stalled")] * 2 + [(FINISHED, None)] * 2
    rows = ResultStore(place / "results/small").read("attempts").to_pylist()
    stalled = [row for row in rows if row["error_kind"] == "Stalled"]
    assert len(stalled) == 2
    assert all("in run_sequence" in row["traceback"] for row in stalled)
    assert not list((place / "results/small/attempts").glob("*.stalled"))


def test_a_stalled_trial_is_retried_as_one_whose_worker_died(place, edit, hanging, on_local) -> None:
    edit(**GAMMA, seeds=[1], resources=STALL)
    marker = "__file__ + '.begun'"
    outcome = on_local(
        hanging(f"if not os.path.exists({marker}): open({marker}, 'x').close(); time.sleep(1000)"), retries=1
    )
    assert (len(outcome.finished), outcome.failed) == (2, {})
    assert ends(place) == [(FAILED, "Stalled"), (FINISHED, None), (FINISHED, None)]


def test_a_call_that_never_returns_under_the_command_itself(
    place, edit, small_run, command, start, wait_until, hangs_at, monkeypatch
) -> None:
    """The claim on one trial's first stage is a file-system call that hangs."""
    edit(retries=0, report=None, resources=STALL)
    stage = next(
        path.parent
        for path in (small_run / "cache/stages").glob("*/*/stage.json")
        if (facts := json.loads(path.read_text())["facts"])["config"]["seed"] == 1
        and facts["task"] == facts["config"]["data"]["tasks"][0]
    )
    for name, value in hangs_at(place / "cache/stages/claims" / stage.name).items():
        monkeypatch.setenv(name, value)
    sweep = start("sweep.yaml", "--backend", "local", "--workers", "1")
    looked = wait_until(lambda: (found := _status(command)) and found["stalled"] and found)
    assert looked["state"] == "running"
    assert looked["stalled"].startswith("stalled: no progress for 0.")
    ended = sweep.end()
    assert ended.code == 1
    assert "no progress for 0.2 min (resources.stall_min)" in ended.out + ended.err
    assert ends(place).count((FAILED, "Stalled")) == 1
    assert {end for end in ends(place)} == {(FAILED, "Stalled"), (FINISHED, None)}
    monkeypatch.delenv("PYTHONPATH")
    assert command("sweep.yaml", "--backend", "local", "--workers", "1", "--quiet").code == 0


def _status(command: Any) -> dict[str, Any] | None:
    ended = command("status", "results/small", "--json")
    trials = json.loads(ended.out)["trials"] if ended.code == 0 else []
    return next((trial for trial in trials if trial["stalled"]), None)


def test_a_trial_that_takes_longer_than_time_min_is_continued_by_the_same_run(place, edit, hanging, on_local) -> None:
    edit(**GAMMA, seeds=[1])
    # Each step takes 2 s, so an attempt of 12 s trains some epochs and not all.
    outcome = on_local(hanging("time.sleep(2)"), time_min=0.2)
    assert (len(outcome.finished), outcome.failed) == (2, {})
    found = ends(place)
    assert found[:2] == [(FINISHED, None)] * 2
    assert found[2:]
    assert set(found[2:]) == {(INTERRUPTED, "Stop")}
    records = AttemptFolder(place / "results/small/attempts").all()
    errors = {record.content["error"] for record in records if record.state == INTERRUPTED}
    assert errors == {"stopped after resources.time_min = 0.2 min"}


def test_a_trial_without_an_epoch_in_two_attempts_of_time_min_fails(place, edit, hanging, on_local) -> None:
    edit(**GAMMA, seeds=[1, 2])
    outcome = on_local(hanging("[time.sleep(0.5) for _ in range(5)]"), time_min=0.02)
    assert (len(outcome.finished), len(outcome.failed)) == (2, 2)
    assert ends(place) == [(FAILED, "NoProgress")] * 2 + [(FINISHED, None)] * 2 + [(INTERRUPTED, "Stop")] * 2
    errors = [event.facts["error"] for event in outcome.failed.values()]
    assert all(error.endswith("give it more time: resources.time_min is 0.02") for error in errors)
