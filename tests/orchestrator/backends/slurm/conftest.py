"""Programs that stand for SLURM's, and items and array tasks without a cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from moleflow.settings.config import TrialConfig
from orchestrator.backends.slurm.submissions import ArrayTask, array_tasks, job_folder, new_submission
from orchestrator.execution.backend import WorkerConfig, WorkItem
from orchestrator.sweep.file_schema import Resources
from orchestrator.sweep.trial import Inputs, Trial


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write shell scripts into the only folder of PATH; returns the folder.

    Each script appends its arguments as one line to NAME.log in that folder.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(**scripts: str) -> Path:
        for name, script in scripts.items():
            path = folder / name
            path.write_text(f'#!/bin/sh\necho "$*" >> {folder}/{name}.log\n{script}\n')
            path.chmod(0o755)
        return folder

    return write


@pytest.fixture
def item() -> Callable[..., WorkItem]:
    """Make an item of one trial by its id and the ids of the trials that it follows."""
    inputs = Inputs({}, "", "")
    return lambda name, *after: WorkItem(Trial(name, TrialConfig(), {}, inputs), after, Resources())


@pytest.fixture
def setup_in(tmp_path: Path) -> WorkerConfig:
    """The configuration of a SLURM worker whose folders are the test's."""
    (tmp_path / "parts").mkdir()
    return WorkerConfig("small", tmp_path, tmp_path, tmp_path, "embedded", "slurm", "slurm-1", "cpu", 1, False, {})


@pytest.fixture
def submitted(tmp_path: Path) -> Callable[..., list[ArrayTask]]:
    """Record an array that SLURM has accepted: its job id, and the trial ids of each array task."""

    def record(job_id: str, *trial_ids: list[str]) -> list[ArrayTask]:
        jobs = job_folder(tmp_path)
        submission = jobs.set_job_id(jobs.add(new_submission("small", trial_ids, 20, 4.0)), job_id)
        return list(array_tasks([submission]))

    return record
