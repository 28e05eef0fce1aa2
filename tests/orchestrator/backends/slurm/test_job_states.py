"""The states of a sweep's trials in SLURM's queue, for `status` and `cancel`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from orchestrator.backends.slurm import job_states, queue
from orchestrator.backends.slurm.job_states import SlurmJobs
from orchestrator.backends.slurm.queue import QueueState, SlurmUnavailable
from orchestrator.backends.slurm.submissions import ArrayTask

A, B, C = "a" * 12, "b" * 12, "c" * 12


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> dict[str, QueueState]:
    """SLURM's answer, by the id of the array task. It is asked again at each look."""
    states: dict[str, QueueState] = {}

    def answer(_self: queue.Queue, tasks: Sequence[ArrayTask]) -> dict[str, QueueState]:
        asked.append(sorted(task.id for task in tasks))
        if "error" in states:
            raise SlurmUnavailable("squeue: down")
        return {task.id: states[task.id] for task in tasks}

    asked: list[list[str]] = []
    monkeypatch.setattr(queue.Queue, "states", answer)
    monkeypatch.setattr(job_states, "ASK_EVERY_S", 0.0)
    states["asked"] = asked  # type: ignore[assignment]
    return states


def test_a_trial_has_the_state_of_its_newest_job(
    slurm: dict[str, QueueState], submitted: Callable[..., list[ArrayTask]], tmp_path: Path
) -> None:
    submitted("7", [A], [B])
    newest = submitted("8", [B])[0]
    slurm |= {"7_0": QueueState("PENDING", "Priority"), "8": QueueState("RUNNING")}
    jobs = SlurmJobs(tmp_path)
    first, second = jobs.state_of(A), jobs.state_of(B)
    assert first is not None
    assert second is not None
    assert (first.state, first.number, first.reason) == ("queued", "7_0", "Priority")
    assert (second.state, second.job, second.reason) == ("running", newest.job, None)
    assert jobs.state_of(C) is None


def test_a_job_that_has_ended_at_two_looks_is_not_asked_for_again(
    slurm: dict[str, QueueState], submitted: Callable[..., list[ArrayTask]], tmp_path: Path
) -> None:
    submitted("7", [A])
    slurm["7"] = QueueState("COMPLETED")
    jobs = SlurmJobs(tmp_path)
    assert [jobs.state_of(A) for _ in range(3)] == [None] * 3
    assert slurm["asked"] == [["7"], ["7"], []]


def test_if_slurm_does_not_answer_the_state_is_unknown_and_nothing_is_cancelled(
    slurm: dict[str, QueueState], submitted: Callable[..., list[ArrayTask]], tmp_path: Path
) -> None:
    submitted("7", [A])
    slurm["error"] = QueueState("")
    jobs = SlurmJobs(tmp_path)
    state = jobs.state_of(A)
    assert state is not None
    assert (state.state, state.reason) == ("unknown", "job 7: squeue: down")
    assert jobs.cancel([A]) == 0


def test_only_pending_jobs_without_other_trials_are_cancelled(
    slurm: dict[str, QueueState],
    submitted: Callable[..., list[ArrayTask]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cancelled: list[tuple[str, bool]] = []

    def cancel(_self: queue.Queue, tasks: Sequence[ArrayTask], pending_only: bool) -> None:
        cancelled.extend((task.id, pending_only) for task in tasks)

    monkeypatch.setattr(queue.Queue, "cancel", cancel)
    submitted("7", [A, B], [C])
    slurm |= {"7_0": QueueState("PENDING"), "7_1": QueueState("RUNNING")}
    assert SlurmJobs(tmp_path).cancel([A, C]) == 0
    assert cancelled == []
    assert SlurmJobs(tmp_path).cancel([A, B, C]) == 2
    assert cancelled == [("7_0", True)]
