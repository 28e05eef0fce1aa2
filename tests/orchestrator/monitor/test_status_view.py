"""A status as lines, as a picture on a terminal and as JSON; watching until nothing is active."""

from __future__ import annotations

import io
import json
import socket
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest
from rich.console import Console

from orchestrator.monitor.snapshot import ProgressSnapshot, RunningTrialRow
from orchestrator.monitor.status import StatusReader, SweepStatus, TrialStatus
from orchestrator.monitor.status_view import (
    MOST_LINES,
    status_json,
    status_lines,
    status_picture,
    watch_picture,
    watch_status,
)
from orchestrator.records.events import Event
from orchestrator.results.parts import Damage

EPOCH = Event(
    "epoch",
    "b" * 12,
    {
        "attempt": 2,
        "worker": "w-0",
        "task": 0,
        "tasks": 2,
        "task_name": "grid",
        "epoch": 3,
        "epochs": 40,
        "loss": 1.2345,
    },
)
TRIALS = (
    TrialStatus("a" * 12, "gamma=0 seed=0", "finished", 1),
    TrialStatus("b" * 12, "gamma=[1] seed=0", "running", 2, EPOCH, "n1", "w-0", "7_0", error="no\nluck"),
    TrialStatus("c" * 12, "gamma=2 seed=0", "waiting"),
    TrialStatus("d" * 12, "gamma=3 seed=0", "failed", 3, host="n1", worker="w-1", error="Diverged: nan"),
)
STATUS = SweepStatus("s", "s: Does [gamma] matter?", "images", Path("results/s"), TRIALS, 1e9, 1e9 + 3725)


def test_the_lines_of_a_sweep():
    lines = status_lines(STATUS)
    assert lines[:2] == ["sweep:    s: Does [gamma] matter?", "trials:   4: 1 running, 1 failed, 1 waiting, 1 finished"]
    assert lines[2].startswith("elapsed:  1:02:05 since 2001-09-")
    assert " ".join(lines[4].split()) == "trial label state attempt progress where note"
    assert [line.split()[0] for line in lines[5:]] == ["b" * 12, "d" * 12, "c" * 12, "a" * 12]
    told = ["gamma=[1] seed=0", "running", "2", "grid  epoch 3/40  loss 1.234", "n1 w-0 job 7_0", "last error: no luck"]
    assert [word for word in told if word not in lines[5]] == []
    assert lines[6].endswith("  Diverged: nan")
    assert all(line == line.rstrip() for line in lines)


def test_at_most_forty_lines_and_what_is_left_out():
    done = [replace(TRIALS[0], trial_id=f"{n:012x}") for n in range(100)]
    status = replace(STATUS, trials=(*done, *TRIALS[1:]))
    shown = status_lines(status)
    assert len([line for line in shown if "gamma=" in line]) == MOST_LINES
    assert shown[-1] == "63 more trials are left out (63 finished); --all shows them"
    assert [line.split()[0] for line in shown[5:8]] == ["b" * 12, "d" * 12, "c" * 12]
    assert len(status_lines(status, None)) == 5 + 103


def test_damage_is_shown():
    status = replace(STATUS, damaged=(Damage(Path("parts/scores/x.parquet"), "it is missing"),))
    assert "damaged:  parts/scores/x.parquet: it is missing; its trials run again" in status_lines(status)


def test_a_terminal_that_is_too_narrow_cuts_cells_and_keeps_a_line_a_trial():
    terminal = Console(file=io.StringIO(), force_terminal=True, width=78, height=20, color_system=None)
    with terminal.capture() as capture:
        terminal.print(status_picture(STATUS))
    lines = [line.rstrip() for line in capture.get().splitlines()]
    assert max(map(len, lines)) <= 78
    rows = [line for line in lines if line[:12] in {trial.trial_id for trial in TRIALS}]
    assert len(rows) == 4
    assert "…" in rows[0]
    assert all(trial.label in row for row, trial in zip(rows, (TRIALS[n] for n in (1, 3, 2, 0)), strict=True))


def test_empty_columns_are_left_out():
    lines = status_lines(replace(STATUS, trials=(TRIALS[0],)))
    assert lines[4:] == ["trial         label           state     attempt", "aaaaaaaaaaaa  gamma=0 seed=0  finished  1"]


def test_json_has_every_trial_with_every_key():
    told = json.loads(json.dumps(status_json(STATUS)))
    assert list(told) == [
        "sweep",
        "title",
        "dataset",
        "folder",
        "started_at",
        "elapsed_seconds",
        "counts",
        "damaged",
        "trials",
    ]
    assert told["counts"] == {
        "running": 1, "unknown": 0, "queued": 0, "failed": 1, "interrupted": 0, "cancelled": 0, "waiting": 1, "pruned": 0, "finished": 1
    }  # fmt: skip
    assert told["elapsed_seconds"] == 3725
    assert told["trials"][1] == {
        "trial_id": "b" * 12,
        "label": "gamma=[1] seed=0",
        "state": "running",
        "attempt": 2,
        "progress": {
            "kind": "epoch",
            "task": 0,
            "tasks": 2,
            "task_name": "grid",
            "epoch": 3,
            "epochs": 40,
            "loss": 1.2345,
        },
        "host": "n1",
        "worker": "w-0",
        "job": "7_0",
        "reason": None,
        "error": "no\nluck",
        "stalled": None,
    }
    assert {tuple(trial) for trial in told["trials"]} == {tuple(told["trials"][1])}


def test_watching_shows_the_driver_s_picture_and_the_other_trials():
    rows = tuple(RunningTrialRow(f"running {n}", "grid  epoch 3/40", 0.5, 60.0) for n in range(30))
    snapshot = ProgressSnapshot(
        {"running": 30, "failed": 1}, rows, 12.0, 0.5, ("best one", 0.875), ("memory 1.0 GB",), 90.0
    )
    waiting = tuple(replace(TRIALS[2], trial_id=f"{n:012x}") for n in range(20))
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100, height=24, color_system=None)
    with terminal.capture() as capture:
        terminal.print(watch_picture(replace(STATUS, trials=(*TRIALS, *waiting)), snapshot, 24))
    shown = [line.rstrip() for line in capture.get().splitlines()]
    assert shown[0] == "sweep:    s: Does [gamma] matter?"
    assert shown[2].split() == ["running", "0", "━" * 8, "50%", "grid", "epoch", "3/40", "ETA", "1", "min"]
    table = shown.index("")
    assert shown[table - 5 : table] == [
        "and 19 more running",
        "trials:   31: 30 running, 1 failed  ETA 1 min 30 s",
        "speed:    12 trials/h, 0.5 epochs/s",
        "best:     0.8750 test image AUROC  best one",
        "in use:   memory 1.0 GB",
    ]
    assert shown[table + 2].split()[:4] == ["d" * 12, "gamma=3", "seed=0", "failed"]
    assert shown[-1] == "22 more trials are left out (21 waiting, 1 finished); --all shows them"
    assert len(shown) < 24


def going(*states):
    """A sweep of one trial that is in one state after the other."""
    looks = iter(states)
    return lambda: replace(STATUS, trials=(replace(TRIALS[2], state=next(looks)),))


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (["running", "running", "finished"], ["1 running", "1 finished"]),
        (["running", "waiting", "running", "failed", "failed"], ["1 running", "1 waiting", "1 running", "1 failed"]),
        (["unknown", "queued", "interrupted", "interrupted"], ["1 unknown", "1 queued", "1 interrupted"]),
        (["waiting", "waiting"], ["1 waiting"]),
    ],
)
def test_watching_without_a_terminal_prints_changes_until_nothing_is_active(states, said):
    console = Console(file=(page := io.StringIO()))
    look = going(*states)
    watch_status(look, console, every_s=0)
    assert [line.split("  ")[1] for line in page.getvalue().splitlines()] == said
    with pytest.raises(StopIteration):
        look()


def test_watching_closes_nvml_at_its_end(monkeypatch):
    calls = []
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: calls.append("init"))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 0)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: calls.append("shutdown"))
    running = replace(STATUS, trials=(replace(TRIALS[1], host=socket.gethostname()),))
    looks = iter([running, replace(STATUS, trials=TRIALS[:1])])
    watch_status(lambda: next(looks), Console(file=io.StringIO()), every_s=0)
    assert calls == ["init", "shutdown"]


def test_watching_on_a_terminal_refreshes_one_picture(small_run):
    console = Console(file=(page := io.StringIO()), force_terminal=True, width=120, height=8, color_system=None)
    watch_status(StatusReader(small_run / "results/small").look, console, every_s=0)
    assert "trials:   4: 4 finished" in page.getvalue()
    assert (
        "more trials are left out" in page.getvalue()
    )  # A picture that is higher than the terminal could not be renewed.
