"""The SLURM engine without a cluster: what it submits, follows and takes for ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from moleflow.errors import MoleflowError
from orchestrator.backends.slurm import backend, queue
from orchestrator.backends.slurm.backend import SlurmBackend
from orchestrator.backends.slurm.queue import QueueState, SlurmUnavailable
from orchestrator.backends.slurm.site_profile import SiteProfile
from orchestrator.backends.slurm.submissions import ArrayTask, Submission, new_submission
from orchestrator.backends.slurm.submitter import Array, SubmissionRejected, Submitter
from orchestrator.execution.backend import SourceSignal, WorkerConfig, WorkItem
from orchestrator.records.attempts import AttemptFolder
from orchestrator.records.event_log import EventLog, event_logs
from orchestrator.records.events import Event

Make = Callable[..., WorkItem]
A, B, C = "a" * 12, "b" * 12, "c" * 12
PROFILE = SiteProfile(stages="dependencies", max_array_size=100)


class Given:
    """A source that has some items and then nothing more."""

    def __init__(self, items: Sequence[WorkItem]) -> None:
        self._left = list(items)

    def next(self) -> WorkItem | SourceSignal:
        return self._left.pop(0) if self._left else SourceSignal.DONE


@pytest.fixture
def arrays(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], list[str]]]:
    """The trials of each submitted array and the jobs it waits for; job ids are 100, 101, ..."""
    found: list[tuple[list[str], list[str]]] = []

    def submit(self: Submitter, array: Array, after: Sequence[str]) -> Submission:
        ids = [[i.trial.id for i in task] for task in array.tasks]
        found.append(([name for task in ids for name in task], list(after)))
        return self.jobs.set_job_id(self.jobs.add(new_submission("small", ids, 1, 1)), str(99 + len(found)))

    monkeypatch.setattr(Submitter, "_submit", submit)
    return found


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The states that SLURM gives array tasks by their ids; others are pending. No poll waits."""
    states: dict[str, str] = {}

    def answer(_self: queue.Queue, tasks: Sequence[ArrayTask]) -> dict[str, QueueState]:
        if "error" in states:
            raise SlurmUnavailable(states["error"])
        return {task.id: QueueState(states.get(task.id, "PENDING")) for task in tasks}

    monkeypatch.setattr(queue.Queue, "states", answer)
    monkeypatch.setattr(backend, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(backend, "ASK_EVERY_S", 0.0)
    return states


@pytest.fixture
def engine(setup_in: WorkerConfig, slurm: dict[str, str]) -> backend._SlurmEngine:
    engine = backend._SlurmEngine(setup_in, PROFILE)
    engine._schedule = backend._PollSchedule(time.monotonic, _pause=0.0)
    return engine


@pytest.mark.parametrize(
    ("state", "jobs"), [("RUNNING", ["7"]), ("PENDING", ["7"]), ("COMPLETED", []), ("FAILED", []), ("UNKNOWN", [])]
)
def test_a_second_driver_follows_a_running_job_and_submits_the_trials_of_an_ended_one(
    setup_in: WorkerConfig,
    arrays: list[tuple[list[str], list[str]]],
    slurm: dict[str, str],
    submitted: Callable[..., list[ArrayTask]],
    item: Make,
    state: str,
    jobs: list[str],
) -> None:
    submitted("7", [A])
    slurm["7"] = state
    SlurmBackend(setup_in, PROFILE).submit(Given([item(A), item(B, A), item(C)]))
    if jobs:
        assert arrays == [([B], ["7"]), ([C], [])]
    else:  # It is submitted again, and leads from there.
        assert arrays == [([A, C], []), ([B], ["100"])]


def test_a_trial_ends_when_two_answers_in_a_row_say_that_its_job_has_ended(
    engine: backend._SlurmEngine, arrays: list[tuple[list[str], list[str]]], slurm: dict[str, str], item: Make
) -> None:
    engine.submit(item(A))
    assert engine.poll(0.0) == []
    slurm["100"] = "TIMEOUT"
    assert engine.poll(0.0) == []
    slurm["100"] = "PENDING"  # It was requeued.
    assert engine.poll(0.0) == []
    slurm["100"] = "TIMEOUT"
    assert engine.poll(0.0) == []
    (event,) = engine.poll(0.0)
    assert (event.kind, event.trial_id) == ("interrupted", A)
    assert engine.poll(0.0) == []
    engine.submit(item(A))
    engine.poll(0.0)
    assert arrays == [([A], []), ([A], [])]


@pytest.fixture
def ended(
    engine: backend._SlurmEngine,
    arrays: list[tuple[list[str], list[str]]],
    slurm: dict[str, str],
    item: Make,
    setup_in: WorkerConfig,
) -> EventLog:
    """The log of a job whose end SLURM has told once; the driver is yet to read it."""
    engine.submit(item(A))
    engine.poll(0.0)
    slurm["100"] = "TIMEOUT"
    assert engine.poll(0.0) == []
    return EventLog(event_logs(setup_in.folder) / "slurm-100.jsonl")


def test_what_a_job_logged_before_its_end_arrives_before_the_end(engine: backend._SlurmEngine, ended: EventLog) -> None:
    ended(Event("started", A, {"attempt": 1, "worker": "slurm-100", "backend": "slurm"}))
    assert [event.kind for event in engine.poll(0.0)] == ["started", "interrupted"]


def test_an_end_in_the_log_is_told_once_although_slurm_knows_another(
    engine: backend._SlurmEngine, ended: EventLog
) -> None:
    ended(Event("finished", A, {"attempt": 1, "worker": "slurm-100", "seconds": 1.0, "epochs": 2}))
    assert [event.kind for event in engine.poll(0.0)] == ["finished"]
    assert engine.poll(0.0) == []


def test_a_stop_cancels_what_is_pending_and_leaves_what_runs(
    engine: backend._SlurmEngine,
    arrays: list[tuple[list[str], list[str]]],
    slurm: dict[str, str],
    item: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cancelled: list[str] = []
    monkeypatch.setattr(queue.Queue, "cancel", lambda _, tasks, pending_only: cancelled.extend(t.id for t in tasks))
    engine.submit(item(A))
    engine.submit(item(B))
    slurm |= {"100_0": "RUNNING"}
    engine.poll(0.0)
    engine.submit(item(C))
    events = engine.cancel_queued()
    assert sorted(event.trial_id for event in events) == [B, C]
    assert {event.kind for event in events} == {"withdrawn"}
    assert cancelled == ["100_1"]


def test_a_trial_that_a_worker_outside_slurm_is_running_is_not_submitted(
    engine: backend._SlurmEngine, arrays: list[tuple[list[str], list[str]]], item: Make, tmp_path: Path
) -> None:
    attempt = AttemptFolder(tmp_path / "attempts").begin(A)
    engine.submit(item(A))
    assert engine.poll(0.0) == []
    assert arrays == []
    attempt.withdraw()  # type: ignore[union-attr]
    assert [(event.kind, event.trial_id) for event in engine.poll(0.0)] == [("held", A)]


def test_without_a_first_answer_of_slurm_the_run_ends_and_later_it_goes_on(
    engine: backend._SlurmEngine, arrays: list[tuple[list[str], list[str]]], slurm: dict[str, str], item: Make
) -> None:
    engine.submit(item(A))
    slurm["error"] = "squeue: down"
    with pytest.raises(MoleflowError, match="squeue: down"):
        engine.poll(0.0)
    del slurm["error"]
    engine.poll(0.0)
    slurm["error"] = "squeue: down"
    engine.submit(item(B))
    assert engine.poll(0.0) == []
    assert arrays == [([A], [])]


def test_a_rejection_ends_the_run_only_if_no_job_is_followed(
    engine: backend._SlurmEngine, arrays: list[tuple[list[str], list[str]]], item: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.submit(item(A))
    engine.poll(0.0)

    def reject(*_: object) -> Submission:
        raise SubmissionRejected("SLURM took no job: limit")

    monkeypatch.setattr(Submitter, "_submit", reject)
    engine.submit(item(B))
    assert engine.poll(0.0) == []
    engine._forget(A)
    engine._submit_due = None
    with pytest.raises(SubmissionRejected):
        engine.poll(0.0)


def test_slurm_is_asked_ever_more_seldom_until_something_changes() -> None:
    now = [100.0]
    schedule = backend._PollSchedule(lambda: now[0])
    pauses = []
    for _ in range(7):
        schedule.asked(changed=False)
        pauses.append(schedule.due - now[0])
    assert pauses == [3.0, 4.5, 6.75, 10.125, 15.0, 15.0, 15.0]
    schedule.hurry()
    assert schedule.due == 102.0
    schedule.asked(changed=True)
    assert schedule.due == 102.0


def test_what_keeps_jobs_from_going_on_is_said_once(
    setup_in: WorkerConfig,
    slurm: dict[str, str],
    arrays: list[tuple[list[str], list[str]]],
    item: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    engine = backend._SlurmEngine(setup_in, PROFILE, said.append)
    engine._schedule = backend._PollSchedule(time.monotonic, _pause=0.0)
    engine.submit(item(A))
    engine.submit(item(B, A))
    engine.poll(0.0)
    held = QueueState("PENDING", "launch failed requeued held")
    monkeypatch.setattr(queue.Queue, "states", lambda _, tasks: {task.id: held for task in tasks})
    for _ in range(3):
        assert engine.poll(0.0) == []
    assert said == [
        "SLURM jobs 100, 101 wait and do not start by themselves (launch failed requeued held); when the cause is mended "
        "(`sinfo -R` shows nodes with a fault, such as a full spool disk): scontrol release 100 101"
    ]

    def down(*_: object) -> None:
        raise SlurmUnavailable("squeue: down")

    monkeypatch.setattr(queue.Queue, "states", down)
    for _ in range(3):
        assert engine.poll(0.0) == []
    assert said[1:] == ["SLURM does not answer: squeue: down; asked again every 15 s"]


@pytest.mark.parametrize(
    ("state", "reason", "stuck"),
    [("PENDING", "JobHeldUser", True), ("PENDING", "Resources", False), ("RUNNING", "JobHeldUser", False)],
)
def test_a_job_is_stuck_if_it_is_queued_for_a_reason_that_does_not_pass(state: str, reason: str, stuck: bool) -> None:
    assert QueueState(state, reason).is_stuck == stuck
