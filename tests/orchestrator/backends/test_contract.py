"""The contract of backends: a new one adds a line to BACKENDS and passes the same tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.inline import InlineBackend
from orchestrator.backends.local import LocalBackend
from orchestrator.driver.prepare import Options, prepare, worker_config
from orchestrator.execution.backend import Backend, WorkerConfig
from orchestrator.execution.planned_trials import PlannedTrials
from orchestrator.execution.trial_source import RunOutcome, TrialSource
from orchestrator.records.attempts import FAILED, FINISHED, AttemptFolder
from orchestrator.records.events import ENDS, Event
from orchestrator.results.store import ResultStore
from orchestrator.sweep.sweep import load_sweep
from orchestrator.sweep.trial import Trial


def local_backend(setup: WorkerConfig) -> Backend:
    return LocalBackend(setup, workers=2)


def ray_backend(setup: WorkerConfig) -> Backend:
    from orchestrator.backends.ray.backend import RayBackend  # Ray takes seconds to import.

    return RayBackend(setup, dashboard=False)


def slurm_backend(setup: WorkerConfig) -> Backend:
    from orchestrator.backends.slurm.backend import SlurmBackend
    from orchestrator.backends.slurm.site_profile import SiteProfile

    return SlurmBackend(setup, SiteProfile())


BACKENDS: dict[str, Callable[[WorkerConfig], Backend]] = {
    "inline": InlineBackend,
    "local": local_backend,
    "ray": ray_backend,
    "slurm": slurm_backend,
}
MARKS: dict[str, list[pytest.MarkDecorator]] = {"ray": [pytest.mark.ray], "slurm": [pytest.mark.slurm]}
EVERY_BACKEND = [pytest.param(name, marks=MARKS.get(name, []), id=name) for name in BACKENDS]
VARIANTS = [
    {"focal_gamma": 0},
    {"focal_gamma": 2},
    {"learning_rate": 1e30, "optimizer": "adamw", "gradient_clip": None},
]


@dataclass(frozen=True)
class Ran:
    """A sweep of two good variants and one that diverges, after a backend has run it."""

    folder: Path
    trials: tuple[Trial, ...]
    diverging: frozenset[str]
    events: list[Event]
    tally: RunOutcome

    def of(self, trial: Trial) -> list[Event]:
        return [event for event in self.events if event.trial_id == trial.id]


@pytest.fixture(scope="module")
def run_on(
    tmp_path_factory: pytest.TempPathFactory, images: Path, furnish: Callable[..., Path]
) -> Callable[[str], Ran]:
    known: dict[str, Ran] = {}

    def run(name: str) -> Ran:
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            sweep = load_sweep(furnish(folder, images, grid=None, list=VARIANTS, report=None))
            prepared = prepare(sweep, Options(out=folder / "results", cache=folder / "cache"))
            source = TrialSource(PlannedTrials(prepared.trials), sweep.resources, sweep.retries)
            events: list[Event] = []

            def tell(event: Event) -> None:
                source.events(event)
                events.append(event)

            setup = worker_config(prepared, Options(backend=name))
            ResultStore(setup.folder).create()  # A driver does so before any backend runs.
            BACKENDS[name](setup).run(source, tell)
            diverging = frozenset(t.id for t in prepared.trials if t.config.training.learning_rate == 1e30)
            known[name] = Ran(folder / "results", tuple(prepared.trials), diverging, events, source.tally)
        return known[name]

    return run


@pytest.fixture(params=EVERY_BACKEND)
def ran(request: pytest.FixtureRequest, run_on: Callable[[str], Ran]) -> Ran:
    return run_on(request.param)


class TestContract:
    """Every backend does the same with one sweep."""

    def test_every_good_trial_finishes_exactly_once(self, ran: Ran) -> None:
        good = [trial.id for trial in ran.trials if trial.id not in ran.diverging]
        assert len(good) == 4
        assert sorted(ran.tally.finished) == sorted(good)
        assert sorted(event.trial_id for event in ran.events if event.kind == "finished") == sorted(good)
        store = ResultStore(ran.folder)
        assert set(store.finished()) == set(good)
        rows = store.read("attempts").to_pylist()
        assert sorted(row["trial_id"] for row in rows if row["status"] == "finished") == sorted(good)

    def test_a_diverged_trial_is_not_retried_and_keeps_its_traceback(self, ran: Ran) -> None:
        assert set(ran.tally.failed) == ran.diverging
        assert len(ran.diverging) == 2
        records = AttemptFolder(ran.folder / "attempts")
        rows = ResultStore(ran.folder).read("attempts").to_pylist()
        for trial_id in ran.diverging:
            assert [(record.attempt, record.state) for record in records.of_trial(trial_id)] == [(1, FAILED)]
            for kept in [
                *(record.content for record in records.of_trial(trial_id)),
                *(r for r in rows if r["trial_id"] == trial_id),
            ]:
                assert kept["error_kind"] == "Diverged"
                assert kept["error"].startswith("Diverged: task 0 (bolt): the loss became nan in epoch 1 of 2")
                assert kept["traceback"].startswith("Traceback")
                assert "train_task" in kept["traceback"]
        assert len([row for row in rows if row["status"] == "failed"]) == 2
        assert not [
            row for row in ResultStore(ran.folder).read("metrics").to_pylist() if row["trial_id"] in ran.diverging
        ]

    def test_events_of_an_attempt_arrive_in_order(self, ran: Ran) -> None:
        for trial in ran.trials:
            kinds = [event.kind for event in ran.of(trial)]
            assert kinds.count("started") == 1
            assert kinds[0] == "started"
            for before, after in pairwise(kinds):
                assert (before in ENDS) == (after == "started")
            assert kinds[-1] == ("failed" if trial.id in ran.diverging else "finished")
            if trial.id not in ran.diverging:
                steps = [(e.facts["task"], e.facts["epoch"]) for e in ran.of(trial) if e.kind == "epoch"]
                assert steps == [(task, epoch) for task in (0, 1) for epoch in (1, 2)]
                assert [e.facts["task"] for e in ran.of(trial) if e.kind == "task"] == [0, 1]
                boundaries = [e.kind for e in ran.of(trial) if e.kind in ("epoch", "task")]
                assert boundaries == ["epoch", "epoch", "task"] * 2

    def test_each_record_names_the_worker_and_the_end(self, ran: Ran, request: pytest.FixtureRequest) -> None:
        for record in AttemptFolder(ran.folder / "attempts").all():
            assert record.state == (FAILED if record.trial_id in ran.diverging else FINISHED)
            assert record.content["host"]
            assert record.content["pid"] > 0
            assert record.content["ended_at"] >= record.content["started_at"]
            assert record.content["row"]["backend"] == request.node.callspec.params["ran"]

    @pytest.mark.parametrize("name", [param for param in EVERY_BACKEND if param.id != "inline"])
    def test_every_digit_equals_that_of_inline(
        self, name: str, run_on: Callable[[str], Ran], digits: Callable[[Path], Any]
    ) -> None:
        here, there = digits(run_on("inline").folder), digits(run_on(name).folder)
        assert here["metrics"]
        assert here["scores"]
        assert here == there


def test_local_has_as_many_processes_as_workers(run_on: Callable[[str], Ran]) -> None:
    ran = run_on("local")
    assert len(ran.trials) > 2
    assert len({record.content["pid"] for record in AttemptFolder(ran.folder / "attempts").all()}) <= 2
