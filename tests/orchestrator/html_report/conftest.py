"""Folders of generated trials, their pages, and a browser that records every request."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from moleflow.settings.knobs import version_settings
from orchestrator.html_report.page import make_page
from orchestrator.html_report.page_data import PageData, gather_page_data
from orchestrator.records import sweep_folder
from orchestrator.reports import make
from orchestrator.results.store import ResultStore
from orchestrator.results.writer import AttemptRows, PartWriter

BASELINE = {"training.learning_rate": 1e-3, "lora.rank": 8, "loss.focal_gamma": 0.0}


@pytest.fixture(scope="session")
def bench() -> ModuleType:
    """The benchmark of the page, which generates trials."""
    path = Path(__file__).parents[3] / "benchmarks" / "page.py"
    spec = importlib.util.spec_from_file_location("page_benchmark", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def trial(bench: ModuleType) -> Callable[..., AttemptRows]:
    """Make a trial of generated numbers; `also` adds factors, `attempt` changes its row."""
    draws = np.random.default_rng(0)

    def make(
        gamma: float = 0.0, seed: int = 0, also: Mapping[str, object] | None = None, **attempt: Any
    ) -> AttemptRows:
        rows = bench.trial(BASELINE | {"loss.focal_gamma": gamma} | dict(also or {}), seed, draws)
        return replace(rows, attempt={**rows.attempt, **attempt})

    return make


@pytest.fixture
def failed(trial: Callable[..., AttemptRows]) -> Callable[..., AttemptRows]:
    """Make a trial that ended with an error."""

    def make(error: str = "out of memory", **given: Any) -> AttemptRows:
        rows = trial(**given)
        ended = {"status": "failed", "error": error, "error_kind": "RuntimeError", "traceback": f"Traceback: {error}"}
        return AttemptRows({**rows.attempt, **ended})

    return make


@pytest.fixture
def keep(tmp_path: Path) -> Callable[..., Path]:
    """Store trials as a sweep in a folder, and return the folder."""

    def keep(
        trials: Sequence[AttemptRows],
        title: str = "generated: does gamma matter?",
        baseline: Mapping[str, Any] = BASELINE,
        not_run: Sequence[str] = (),
    ) -> Path:
        place = tmp_path / "sweep"
        writer = PartWriter(ResultStore(place))
        for rows in trials:
            writer.add(rows)
        writer.flush()
        ids = tuple(dict.fromkeys([*(str(rows.attempt["trial_id"]) for rows in trials), *not_run]))
        sweep_folder.write_sweep_folder(
            place, sweep_folder.SweepFolder("generated", title, dict(baseline), ids, "embedded"), {}
        )
        return place

    return keep


@pytest.fixture
def grid(trial: Callable[..., AttemptRows]) -> list[AttemptRows]:
    """Three gammas with three seeds each."""
    return [trial(gamma, seed) for gamma in (0.0, 1.0, 2.0) for seed in range(3)]


@pytest.fixture
def page_data_of() -> Callable[[Path], PageData]:
    """The page_data of a results folder."""

    def of(place: Path) -> PageData:
        made, _ = make.make_report(place)
        return gather_page_data(made, ResultStore(place), version_settings())

    return of


@pytest.fixture
def page_of() -> Callable[[Path], Path]:
    """Write the page of a results folder, and return its path."""

    def write(place: Path) -> Path:
        made, _ = make.make_report(place)
        return make_page(place, made)

    return write


@pytest.fixture
def content() -> Callable[[Path], dict[str, Any]]:
    """Read the data in a page."""

    def read(page: Path) -> dict[str, Any]:
        opens = '<script type="application/json" id="data">'
        written = page.read_text(encoding="utf-8").partition(opens)[2].partition("</script>")[0]
        found: dict[str, Any] = json.loads(written)
        return found

    return read


@pytest.fixture
def watched(browser: Any) -> Any:
    """A headless Chromium that records its console and every request."""
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # Leave out the requests of the browser's own first page.
    return browser
