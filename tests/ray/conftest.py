"""A sweep on Ray inside this process, and the processes that a Ray leaves behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.ray.backend import RayBackend
from orchestrator.driver.prepare import Options, prepare, worker_config
from orchestrator.execution.planned_trials import PlannedTrials
from orchestrator.execution.trial_source import RunOutcome, TrialSource
from orchestrator.records.events import Event
from orchestrator.sweep.sweep import load_sweep


@pytest.fixture
def on_ray(place: Path) -> Callable[..., RunOutcome]:
    """Run the sweep of the folder on Ray; `listen` gets every event. Returns the outcome."""

    def run(listen: Callable[[Event], None] = lambda _: None, time_min: Any = None, **options: Any) -> RunOutcome:
        sweep = load_sweep(place / "sweep.yaml")
        chosen = Options(out=place / "results/small", cache=place / "cache", backend="ray")
        prepared = prepare(sweep, chosen)
        source = TrialSource(PlannedTrials(prepared.trials), sweep.resources, sweep.retries)

        def tell(event: Event) -> None:
            source.events(event)
            listen(event)

        options = {"dashboard": False} | options
        setup = replace(worker_config(prepared, chosen), time_min=time_min or sweep.resources.time_min)
        RayBackend(setup, sweep.resources, **options).run(source, tell)
        return source.tally

    return run


@dataclass(frozen=True)
class Long:
    """A folder in which four longer trials have finished; `changes` make the same sweep."""

    folder: Path
    changes: dict[str, Any]


@pytest.fixture(scope="session")
def long_run(tmp_path_factory: pytest.TempPathFactory, images: Path, furnish: Callable[..., Path]) -> Long:
    """Four trials that take long enough to be killed in their midst, run inline."""
    changes = {"grid": {"focal_gamma": [0, 2], "epochs": [200]}}
    folder = tmp_path_factory.mktemp("long_run")
    sweep = load_sweep(furnish(folder, images, **changes))
    prepared = prepare(sweep, Options(out=folder / "results/small", cache=folder / "cache"))
    source = TrialSource(PlannedTrials(prepared.trials), sweep.resources, sweep.retries)
    from orchestrator.backends.inline import InlineBackend

    InlineBackend(worker_config(prepared, Options(backend="inline"))).run(source, source.events)
    assert len(source.tally.finished) == 4
    return Long(folder, changes)


@pytest.fixture
def long_sweep(place: Path, edit: Callable[..., Path], long_run: Long) -> Path:
    """The same sweep, not run yet, with its features computed."""
    edit(**long_run.changes)
    shutil.copytree(long_run.folder / "cache" / "features", place / "cache" / "features")
    return place


@pytest.fixture
def ray_processes() -> Callable[[], set[int]]:
    """The processes of every Ray that the backend started, and all worker processes of Ray."""

    def find() -> set[int]:
        found = set()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes()
                if b"moleflow-ray-" in words or words.startswith(b"ray::"):
                    found.add(int(path.parent.name))
            except OSError:
                continue
        return found

    return find
