"""The state of a trial without a stored result, from its latest attempt and the scheduler."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from orchestrator.records import attempts

State = Literal[
    "running",  # a live worker runs it
    "unknown",  # it may run; the reason is given
    "queued",  # a scheduler has a job for it
    "failed",  # its last attempt failed, or died
    "interrupted",  # its last attempt was stopped from outside
    "cancelled",  # a user cancelled it
    "waiting",  # it has not begun
    "pruned",  # a search stopped it early
    "finished",  # its part is stored
]
STATES: tuple[State, ...] = get_args(State)
ACTIVE: frozenset[State] = frozenset({"running", "unknown", "queued"})
SILENT_S = 15.0  # three heartbeats
STOPS = "cancelled: it stops at its next epoch"
WANTED_AGAIN = "cancelled before, and wanted again"
NO_PART = "its record says finished, but no whole part holds its results: it runs again"


@dataclass(frozen=True)
class JobState:
    """A scheduler's job for a trial; `reason` is its own word, or why it does not answer."""

    state: Literal["queued", "running", "unknown"]
    job: str
    reason: str | None = None

    @property
    def number(self) -> str:
        """The job's number without the name of the cluster."""
        return self.job.partition("@")[0]


class Jobs(Protocol):
    """The jobs of a scheduler. They query all at once: a status asks about each trial."""

    def state_of(self, trial_id: str) -> JobState | None:
        """The job for a trial; None if there is none."""

    def cancel(self, trial_ids: Collection[str]) -> int:
        """Cancel the queued jobs of trials; returns the number of trials."""


class NoJobs:
    """The jobs of a sweep without a scheduler."""

    def state_of(self, trial_id: str) -> JobState | None:
        """No job."""
        return None

    def cancel(self, trial_ids: Collection[str]) -> int:
        """Cancel nothing."""
        return 0


@dataclass(frozen=True)
class LatestAttempt:
    """A trial's latest attempt as a status sees it.

    Attributes:
        attempt: its number.
        state: running | finished | failed | interrupted | pruned | died.
        here: whether it is of this host, where a dead process is noticed at once.
        host: its host.
        worker: the worker's name.
        job: the scheduler's job, if any.
        silence_s: seconds since its last heartbeat.
        error: the latest error of this attempt or an earlier one.
        error_kind: the class of this attempt's error.
        stall_min: minutes without progress after which it has stalled; 0 = never.

    """

    attempt: int
    state: str
    here: bool = False
    host: str | None = None
    worker: str | None = None
    job: str | None = None
    silence_s: float = 0.0
    error: str | None = None
    error_kind: str | None = None
    stall_min: float = 0.0

    @property
    def silence(self) -> str:
        """The silence in words."""
        return f"no sign of life from {self.host or 'its host'} for {self.silence_s:.0f} s"


def trial_state_of(latest: LatestAttempt | None, job: JobState | None, cancelled: bool) -> tuple[State, str | None]:
    """The state of a trial without a stored part, and its reason if it does not explain itself.

    Args:
        latest: its latest attempt, if any.
        job: the scheduler's job for it, if any.
        cancelled: whether a user cancelled it.

    """
    if latest is not None and latest.state == attempts.RUNNING:
        # On another host only the heartbeat tells, and a network filesystem shows it late.
        if not latest.here and latest.silence_s > SILENT_S:
            return "unknown", latest.silence
        return "running", STOPS if cancelled else None
    if job is not None and not _ended_in(job, latest):
        return _under_scheduler(latest, job)
    if latest is not None and latest.state in (attempts.FAILED, attempts.DIED):
        return "failed", None
    if cancelled:
        return "cancelled", None
    if latest is None:
        return "waiting", None
    if latest.error_kind == attempts.CANCELLED:
        return "waiting", WANTED_AGAIN
    if latest.state == attempts.FINISHED:
        return "waiting", NO_PART
    return ("pruned" if latest.state == attempts.PRUNED else "interrupted"), None


def _ended_in(job: JobState, latest: LatestAttempt | None) -> bool:
    """True if the trial has ended in this job, which may have other trials left."""
    if latest is None or latest.job != job.job:
        return False
    return latest.state in attempts.ENDED or latest.error_kind == attempts.CANCELLED


def _under_scheduler(latest: LatestAttempt | None, job: JobState) -> tuple[State, str | None]:
    """The state of a trial that no live worker runs, and that a scheduler has a job for."""
    if job.state != "running":
        return job.state, job.reason
    if latest is not None and latest.state == attempts.DIED and latest.job == job.job:
        return "unknown", f"job {job.number} runs, but there is {latest.silence}"
    return "queued", f"job {job.number} runs and has not begun this trial yet"
