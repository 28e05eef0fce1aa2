"""A results folder with finished and failed trials, and the function that exports it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.records.sweep_folder import read_sweep_folder
from orchestrator.results.store import ResultStore
from orchestrator.results.writer import PartWriter
from orchestrator.trackers.tracked_run import TrackedRun, tracked_runs


@pytest.fixture
def failed(finished: Path, make_trial: Callable[..., object]) -> Path:
    """The small sweep's results folder with a fifth trial, which has failed."""
    place = finished / "results/small"
    rows = make_trial({"loss.focal_gamma": 9.0}, status="failed", error="no memory", error_kind="MemoryError")
    rows.metrics.clear()  # type: ignore[attr-defined]
    writer = PartWriter(ResultStore(place))
    writer.add(rows)  # type: ignore[arg-type]
    writer.flush()
    path = place / "sweep.json"
    content = json.loads(path.read_text())
    content["trials"].append(rows.attempt["trial_id"])  # type: ignore[attr-defined]
    content["labels"][rows.attempt["trial_id"]] = "focal_gamma=9 seed=0"  # type: ignore[attr-defined]
    path.write_text(json.dumps(content))
    return place


@pytest.fixture
def expected(failed: Path) -> dict[str, TrackedRun]:
    """The runs of that folder by the id of their trial."""
    runs = tracked_runs(ResultStore(failed), read_sweep_folder(failed))
    return {run.trial_id: run for run in runs}


@pytest.fixture
def ask_anew(failed: Path) -> Callable[[], None]:
    """Change the sweep's question: the report is another one then, and the trials are the same."""

    def change() -> None:
        path = failed / "sweep.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"title": "small: Another question?"}))

    return change
