"""A small search as a study in a journal, over made-up images, whose workers are the tests."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage

from orchestrator.cli import entry
from orchestrator.execution.backend import SourceSignal
from orchestrator.records.events import Event
from orchestrator.results.store import ResultStore
from orchestrator.search import storage
from orchestrator.search.optuna_search import OptunaSearch
from orchestrator.search.space import Space
from orchestrator.search.storage import open_study
from orchestrator.sweep.sweep import Sweep, load_sweep
from orchestrator.sweep.trial import Inputs, Trial

READS = Inputs({"bolt": "b" * 64, "cloth": "c" * 64}, "w" * 64, "made up")
SEARCH = {"space": {"learning_rate": {"loguniform": [1e-4, 1e-1]}}, "trials": 5, "sampler": "random"}


@pytest.fixture
def sweep_of(edit: Callable[..., Path]) -> Callable[..., Sweep]:
    """Load the small sweep with a search in place of its grid; `also` changes other keys."""

    def make(also: dict[str, Any] | None = None, **search: Any) -> Sweep:
        return load_sweep(edit(**{"grid": None, "report": None, "search": SEARCH | search} | (also or {})))

    return make


@pytest.fixture
def space_of(sweep_of: Callable[..., Sweep]) -> Callable[..., Space]:
    """The space of that search."""
    return lambda also=None, **search: Space(sweep_of(also, **search), lambda _: READS)


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Driven:
    """A driver of a study whose workers are the test.

    Attributes:
        stored: {trial id: values} of the finished trials.
        started: the trial ids of each configuration that was started.

    """

    space: Space
    folder: Path
    name: str = "one"
    max_running: float = float("inf")
    url: str | None = None
    clock: Clock = field(default_factory=Clock)
    stored: dict[str, dict[str, float]] = field(default_factory=dict)
    started: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.study = open_study(self.space.sweep, self.folder, self.url)
        self.search = OptunaSearch(
            self.study,
            self.space,
            lambda ids: {one: self.stored[one] for one in ids if one in self.stored},
            self.name,
            lambda trials: self.started.append([trial.id for trial in trials]),
            self.max_running,
            clock=self.clock,
        )

    def ask(self) -> Trial:
        """Ask for the next trial; there has to be one."""
        trial = self.search.ask()
        assert isinstance(trial, Trial), trial
        return trial

    def finish(self, trial: Trial, auroc: float, **values: float) -> None:
        """Store the trial's values and tell the search that it has finished."""
        self.stored[trial.id] = {"image_auroc": auroc, "parameters": 10.0, "seconds": 1.0, **values}
        found = dict(self.stored[trial.id])
        facts = {"parameters": found.pop("parameters"), "cost": found.pop("seconds"), "validation": found}
        self.search.tell(trial, Event("finished", trial.id, facts))

    def task(self, trial: Trial, number: int, auroc: float) -> set[str]:
        """Report a task's value, and return the ids of the trials to stop."""
        facts = {"task": number, "tasks": 2, "validation": {"image_auroc": auroc}}
        return set(self.search.on_event(trial, Event("task", trial.id, facts)))

    def fail(self, trial: Trial) -> None:
        """Tell the search that the trial has failed."""
        self.search.tell(trial, Event("failed", trial.id, {"error": "ValueError: no"}))

    def end(self, trial: Trial, kind: Any) -> None:
        """Tell the search that the trial ended in another way."""
        self.search.tell(trial, Event(kind, trial.id))

    def run(self, quality: Callable[[Trial], float]) -> list[Trial]:
        """Run the search to its end with one worker, and return the trials that ran."""
        ran = []
        while isinstance(trial := self.search.ask(), Trial):
            ran.append(trial)
            self.finish(trial, quality(trial))
        assert trial is SourceSignal.DONE
        return ran

    @property
    def states(self) -> list[str]:
        """The states of the study's configurations."""
        return [trial.state.name for trial in self.trials]

    @property
    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """The study's configurations."""
        return self.study.get_trials(deepcopy=False)


@pytest.fixture
def driven(
    space_of: Callable[..., Space], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Driven]]:
    """Make a driver of the small search; `setting` are arguments of the driver."""
    opened: list[RDBStorage] = []

    def connected(url: str) -> RDBStorage:
        opened.append(RDBStorage(url))
        return opened[-1]

    def make(also: dict[str, Any] | None = None, setting: dict[str, Any] | None = None, **search: Any) -> Driven:
        chosen = {"folder": tmp_path / "study"} | (setting or {})
        chosen["folder"].mkdir(exist_ok=True)
        return Driven(space_of(also, **search), **chosen)

    monkeypatch.setattr(storage, "RDBStorage", connected)
    yield make
    for one in opened:
        one.engine.dispose()  # Else they are closed by the garbage collector, with a warning.


RATES = {"learning_rate": {"loguniform": [1e-4, 1e-1]}, "focal_gamma": {"choice": [0, 1, 2]}}


@dataclass(frozen=True)
class Searched:
    """A search over the command line that has ended.

    Attributes:
        folder: where the command ran.
        results: its results folder.
        quality: {learning rate: mean validation image AUROC over classes and seeds}.

    """

    folder: Path
    results: Path
    quality: dict[float, float]


@pytest.fixture(scope="session")
def furnish_search(furnish: Callable[..., Path], images: Path) -> Callable[..., None]:
    """Put a small search into a folder: three configurations of two seeds; two are tested."""

    def put(folder: Path, also: dict[str, Any] | None = None, **search: Any) -> None:
        block = {"space": RATES, "trials": 3, "sampler": "tpe", "finalists": 2} | search
        furnish(folder, images, **{"name": "search", "grid": None, "report": None, "search": block} | (also or {}))

    return put


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory, furnish_search: Callable[..., None]) -> Searched:
    """A small search that ran inline to its end. Do not write there."""
    folder = tmp_path_factory.mktemp("searched")
    furnish_search(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MOLEFLOW_CACHE", str(folder / "cache"))
        patch.delenv("MOLEFLOW_DATA", raising=False)
        patch.setattr(sys, "argv", ["moleflow-sweep", "sweep.yaml", "--backend", "inline", "--quiet"])
        with contextlib.suppress(SystemExit):
            entry.main()
    results = folder / "results" / "search"
    store = ResultStore(results)
    rates: dict[str, float] = {}
    for row in store.read("attempts").to_pylist():
        config = json.loads(row["config"])
        if config["data"].get("evaluate") == "validation":
            rates[row["trial_id"]] = config["training"]["learning_rate"]
    by_rate: dict[float, list[float]] = {}
    for row in store.read("metrics").to_pylist():
        if row["trial_id"] in rates and row["split"] == "validation" and row["after_task"] == 1:
            by_rate.setdefault(rates[row["trial_id"]], []).append(row["image_auroc"])
    return Searched(folder, results, {rate: sum(values) / len(values) for rate, values in by_rate.items()})
