"""Plans of generated trials, and the files of detectors that nobody trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.results.detector_files import detector_file


@pytest.fixture
def plan() -> Callable[..., SweepFolder]:
    """The function that makes the content of sweep.json for generated trials."""

    def make(ids: list[str], **more: Any) -> SweepFolder:
        labels = {one: f"label of {one}" for one in ids}
        return SweepFolder("sweep", "sweep", {"loss.focal_gamma": 0.0}, tuple(ids), "embedded", labels, **more)

    return make


@pytest.fixture
def store_detector(tmp_path: Path) -> Callable[..., Path]:
    """Write a file in the place of an attempt's detector; its content is never read."""

    def write(trial_id: str, attempt: int = 1) -> Path:
        path = detector_file(tmp_path / "sweep", trial_id, attempt)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a detector")
        return path

    return write
