"""The outcome of a trial whose job has ended: its worker's record first, then SLURM's state."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.slurm.outcomes import JobOutcomes, last_attempt_in_job
from orchestrator.backends.slurm.queue import QueueState
from orchestrator.backends.slurm.submissions import ArrayTask, job_folder
from orchestrator.execution.backend import WorkItem
from orchestrator.execution.planned_trials import PlannedTrials
from orchestrator.execution.trial_source import TrialSource
from orchestrator.records import stop_requests
from orchestrator.records.attempts import AttemptFolder
from orchestrator.results.store import ResultStore
from orchestrator.sweep.file_schema import Resources

TRIAL = "a" * 12
LONG_AGO = 1_000_000_000


@pytest.fixture
def task(submitted: Callable[..., list[ArrayTask]]) -> ArrayTask:
    return submitted("7", [TRIAL], ["b" * 12])[0]


@pytest.fixture
def outcomes(tmp_path: Path) -> JobOutcomes:
    store = ResultStore(tmp_path)
    store.create()
    return JobOutcomes(AttemptFolder(tmp_path / "attempts"), store, job_folder(tmp_path))


@pytest.fixture
def record(outcomes: JobOutcomes, task: ArrayTask) -> Callable[..., None]:
    """Write an attempt of the trial: its state and further entries of the record.

    A process on another host, whose heartbeat stopped long ago, made it.
    """

    def write(state: str, number: int = 1, beats: bool = False, **entries: Any) -> None:
        outcomes.records.folder.mkdir(exist_ok=True)
        path = outcomes.records.folder / f"{TRIAL}-{number}.json"
        content = {"trial_id": TRIAL, "attempt": number, "state": state, "started_at": LONG_AGO, "job": task.job}
        path.write_text(json.dumps({**content, "host": "node-of-the-cluster", "pid": 1, **entries}))
        if not beats:
            os.utime(path, (LONG_AGO, LONG_AGO))

    return write


@pytest.mark.parametrize(
    ("state", "kind", "error_kind"),
    [
        ("CANCELLED", "cancelled", "Cancelled"),
        ("TIMEOUT", "interrupted", "Stop"),
        ("PREEMPTED", "interrupted", "Stop"),
        ("NODE_FAIL", "interrupted", "Stop"),
        ("BOOT_FAIL", "interrupted", "Stop"),
        ("DEADLINE", "interrupted", "Stop"),
        ("REVOKED", "interrupted", "Stop"),
        ("COMPLETED", "interrupted", "Stop"),
        ("OUT_OF_MEMORY", "failed", "OutOfMemory"),
        ("FAILED", "failed", "WorkerDied"),
        ("UNKNOWN", "failed", "WorkerDied"),
    ],
)
def test_without_an_attempt_the_state_of_slurm_decides(
    state: str, kind: str, error_kind: str, outcomes: JobOutcomes, task: ArrayTask
) -> None:
    event = outcomes.outcome(TRIAL, task, QueueState(state))
    assert event is not None
    assert (event.kind, event.trial_id, event.facts["error_kind"]) == (kind, TRIAL, error_kind)
    assert "SLURM job 7_0" in event.facts["error"]
    if state == "OUT_OF_MEMORY":
        assert event.facts["error"].endswith("raise resources.mem_gb (the job had 4 GB)")


@pytest.mark.parametrize(
    ("recorded", "error_kind", "kind"),
    [
        ("failed", "ValueError", "failed"),
        ("pruned", None, "pruned"),
        ("interrupted", "Stop", "interrupted"),
        ("interrupted", "Cancelled", "cancelled"),
    ],
)
@pytest.mark.parametrize("state", ["COMPLETED", "FAILED", "TIMEOUT"])
def test_the_end_that_a_worker_recorded_counts(
    recorded: str,
    error_kind: str | None,
    kind: str,
    state: str,
    outcomes: JobOutcomes,
    task: ArrayTask,
    record: Callable[..., None],
) -> None:
    record(recorded, error="no", error_kind=error_kind, epochs=3)
    event = outcomes.outcome(TRIAL, task, QueueState(state))
    assert event is not None
    assert (event.kind, event.facts["error"], event.facts["epochs"]) == (kind, "no", 3)


def test_an_interrupted_trial_of_a_cancelled_job_waits_for_the_next_run(
    outcomes: JobOutcomes, task: ArrayTask, record: Callable[..., None]
) -> None:
    record("interrupted", error_kind="Stop")
    event = outcomes.outcome(TRIAL, task, QueueState("CANCELLED"))
    assert event is not None
    assert event.kind == "cancelled"


def test_a_trial_that_a_user_cancelled_is_cancelled_whatever_its_job_did(
    outcomes: JobOutcomes, task: ArrayTask, tmp_path: Path
) -> None:
    stop_requests.cancel_requests(tmp_path).add([TRIAL])
    event = outcomes.outcome(TRIAL, task, QueueState("COMPLETED"))
    assert event is not None
    assert event.kind == "cancelled"


def test_a_finished_record_without_a_stored_part_runs_again(
    outcomes: JobOutcomes, task: ArrayTask, record: Callable[..., None]
) -> None:
    record("finished")
    event = outcomes.outcome(TRIAL, task, QueueState("COMPLETED"))
    assert event is not None
    assert (event.kind, event.facts["error"]) == ("interrupted", "no whole part holds its results")


def test_a_live_worker_of_a_job_that_slurm_does_not_know_is_waited_for(
    outcomes: JobOutcomes, task: ArrayTask, record: Callable[..., None]
) -> None:
    record("running", beats=True)
    assert outcomes.outcome(TRIAL, task, QueueState("UNKNOWN")) is None


def test_only_attempts_of_the_job_count(outcomes: JobOutcomes, task: ArrayTask, record: Callable[..., None]) -> None:
    record("failed", error_kind="ValueError")
    record("interrupted", number=2, error_kind="Stop")
    record("failed", number=3, job="9@other")
    last = last_attempt_in_job(outcomes.records.of_trial(TRIAL), task)
    assert last is not None
    assert last.attempt == 2
    assert last_attempt_in_job([], task) is None


def test_a_job_whose_pickle_names_modules_of_an_older_version_loses_nothing(
    outcomes: JobOutcomes, task: ArrayTask, item: Callable[..., Any]
) -> None:
    # Such a job fails while it loads its pickle: SLURM says FAILED, and there is no attempt.
    event = outcomes.outcome(TRIAL, task, QueueState("FAILED"))
    assert event is not None
    source = TrialSource(PlannedTrials([item(TRIAL).trial]), Resources(), retries=1)
    source.next()
    source.events(event)
    again = source.next()
    assert isinstance(again, WorkItem) and again.trial.id == TRIAL
