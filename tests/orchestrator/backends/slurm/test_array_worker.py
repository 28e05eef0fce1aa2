"""The worker in a SLURM job: the trials that it runs, and what it does at a signal."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moleflow.code_digest import code_digest
from moleflow.owner import JOB_VARIABLE
from orchestrator.backends.slurm import array_worker
from orchestrator.execution.backend import SourceSignal, WorkerConfig, WorkItem
from orchestrator.records.attempts import AttemptFolder, write_json
from orchestrator.results.store import ResultStore
from orchestrator.sweep.file_schema import Resources
from orchestrator.sweep.trial import Trial

A, B, C, D = "a" * 12, "b" * 12, "c" * 12, "d" * 12


@pytest.fixture(autouse=True)
def restored_signals() -> Iterator[None]:
    """Give back the handlers that the worker sets."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def run(
    setup_in: WorkerConfig, item: Callable[..., WorkItem], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """Run an array task of four trials; returns the trials that reach the backend.

    `during` is called with each of them.
    """
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv(JOB_VARIABLE, "")
    monkeypatch.setattr(array_worker, "stage_tree", lambda _: None)
    ran: list[str] = []

    def call(
        during: Callable[[str], None] = lambda _: None,
        code: str = "",
        fatal: str = "",
        folder: Path | None = None,
    ) -> list[str]:
        class Backend:
            def __init__(self, setup: WorkerConfig, *_: object) -> None:
                configs.append(setup)

            def run(self, source: Any, events: Any) -> None:
                while not isinstance(answer := source.next(), SourceSignal):
                    during(answer.trial.id)
                    ran.append(answer.trial.id)

                if fatal:
                    source.tally.stopped_by = fatal

        configs: list[WorkerConfig] = []
        monkeypatch.setattr(array_worker, "InlineBackend", Backend)
        trials: list[Trial] = [item(name).trial for name in (A, B, C, D)]
        setup = replace(setup_in, folder=folder or setup_in.folder)
        array_worker.run_array_task(setup, "uid", trials, 1, Resources(), code or code_digest())
        assert [config.worker for config in configs] == ["slurm-7_1"]
        assert [config.job for config in configs] == ["7_1@uid"]
        assert os.environ[JOB_VARIABLE] == "7_1@uid"
        return ran

    return call


def test_trials_that_the_job_has_ended_are_not_run_again(run: Callable[..., list[str]], tmp_path: Path) -> None:
    for name, state, job in (
        (A, "finished", "7_1@uid"),
        (B, "failed", "7_1@uid"),
        (C, "interrupted", "7_1@uid"),
        (D, "failed", "7_1@another"),
    ):
        record = {"trial_id": name, "attempt": 1, "state": state, "job": job}
        write_json(tmp_path / "attempts" / f"{name}-1.json", record)
    assert run() == [C, D]


def test_an_attempt_of_an_earlier_start_of_the_job_was_interrupted(
    run: Callable[..., list[str]], finished: Path
) -> None:
    folder = finished / "results/small"
    records = AttemptFolder(folder / "attempts")
    row = records.all()[0].content["row"] | {"trial_id": A}
    begun = {"trial_id": A, "attempt": 1, "state": "running", "started_at": 1e9, "job": "7_1@uid", "row": row}
    write_json(records.folder / f"{A}-1.json", begun)
    assert run(folder=folder) == [A, B, C, D]
    record = records.of_trial(A)[0]
    assert (record.state, record.content["error_kind"]) == ("interrupted", "Stop")
    assert record.content["error"] == "its node failed, or its job was requeued without a warning"
    stored = {row["trial_id"]: row["status"] for row in ResultStore(folder).read("attempts").to_pylist()}
    assert stored[A] == "interrupted"


def test_a_job_submitted_by_other_code_runs_nothing(run: Callable[..., list[str]]) -> None:
    with pytest.raises(RuntimeError, match="the project's code changed after the job was submitted"):
        run(code="other code")


def test_a_job_fails_if_its_run_was_stopped(run: Callable[..., list[str]]) -> None:
    with pytest.raises(RuntimeError, match="the disk is full"):
        run(fatal="the disk is full")


def test_a_warned_job_stops_and_requeues_itself(run: Callable[..., list[str]], programs: Callable[..., Path]) -> None:
    folder = programs(scontrol="")

    def warn(_: str) -> None:
        os.kill(os.getpid(), signal.SIGUSR2)

    assert run(warn) == []
    assert (folder / "scontrol.log").read_text() == "requeue 7_1\n"


def test_a_terminated_job_waits_to_be_killed(run: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    class Killed(BaseException):
        pass

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        raise Killed

    monkeypatch.setattr(array_worker.time, "sleep", sleep)
    with pytest.raises(Killed):
        run(lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert waited == [600.0]


def test_without_an_array_the_job_id_names_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    assert array_worker.array_task_id() == "9"
