"""Submitting to SLURM without waiting."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from orchestrator.driver import launch
from orchestrator.driver.prepare import Options


@pytest.mark.parametrize(
    ("todo", "lines"),
    [
        (3, []),
        (5, ["not submitted: 2 trials that another job or driver already has"]),
        (4, ["not submitted: 1 trial that another job or driver already has"]),
    ],
)
def test_a_detached_run_counts_what_it_submitted_and_what_it_left(monkeypatch, todo, lines):
    """Two arrays: one task with two trials, and one task with one."""
    arrays = [SimpleNamespace(job_id="17", elements=(("a", "b"),)), SimpleNamespace(job_id="18", elements=(("c",),))]
    monkeypatch.setattr(launch, "worker_config", lambda *_: None)
    monkeypatch.setattr(launch, "slurm_backend", lambda *_: SimpleNamespace(submit=lambda source: arrays))
    monkeypatch.setattr(sys, "argv", ["moleflow-sweep"])
    plan = SimpleNamespace(of=lambda state: range(todo) if state == "to run" else ())
    console = Console(file=io.StringIO(), width=200, soft_wrap=True, highlight=False)
    prepared = SimpleNamespace(plan=plan, folder=Path("results/small"))
    assert launch._submit_and_leave(prepared, Options(), None, console) == 0
    follow = "the same command without --detach follows them"
    assert console.file.getvalue().splitlines() == [
        "submitted: 2 trials as SLURM job 17, 1 array task",
        "submitted: 1 trial as SLURM job 18, 1 array task",
        *lines,
        f"to see them: moleflow-sweep status results/small; {follow}",
    ]
