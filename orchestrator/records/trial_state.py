"""What a trial without a stored result is doing, judged from its latest attempt, a scheduler's word and the marks of trials taken back."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from orchestrator.records import attempts

State = Literal[
    "running",  # a live worker is at it
    "unknown",  # nobody can tell; the reason stands beside it
    "queued",  # a scheduler has it
    "failed",  # its last attempt failed, or died
    "interrupted",  # its last attempt was stopped from outside
    "cancelled",  # somebody took it back
    "waiting",  # nobody has it yet
    "pruned",  # a search stopped it early
    "finished",  # its part is stored
]
STATES: tuple[State, ...] = get_args(State)
GOING: frozenset[State] = frozenset({"running", "unknown", "queued"})
SILENT_S = 15.0  # three heartbeats
STOPS = "cancelled: it stops at its next epoch"
WANTED_AGAIN = "cancelled before, and wanted again"
NO_PART = "its record says finished, but no whole part holds its results: it runs again"


@dataclass(frozen=True)
class JobState:
    """What a scheduler says of the job that has a trial; `reason` is its own word, or why it cannot tell."""

    state: Literal["queued", "running", "unknown"]
    job: str
    reason: str | None = None

    @property
    def number(self) -> str:
        """The scheduler's own name of the job, without what tells it from one of the same name on another cluster."""
        return self.job.partition("@")[0]


class Jobs(Protocol):
    """The jobs of a scheduler. It is asked about every unfinished trial at each look, so it queries for all of them at once."""

    def state_of(self, trial_id: str) -> JobState | None:
        """What the scheduler says of a trial; None when it has no job for it."""

    def cancel(self, trial_ids: Collection[str]) -> int:
        """Withdraw the jobs of trials that have not begun; of how many trials."""


class NoJobs:
    """Where no scheduler is."""

    def state_of(self, trial_id: str) -> JobState | None:
        """None."""
        return None

    def cancel(self, trial_ids: Collection[str]) -> int:
        """0."""
        return 0


@dataclass(frozen=True)
class LatestAttempt:
    """A trial's latest attempt as it was seen.

    Attributes:
        attempt: its number.
        state: running | finished | failed | interrupted | pruned | died.
        here: whether it runs, or ran, on this host, where a process that is gone is seen at once.
        host: where.
        worker: the worker's name.
        job: the scheduler's job, if any.
        silence_s: seconds since its last heartbeat.
        error: what last went wrong: in this attempt, else in the one before.
        error_kind: the class of this attempt's error.

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

    @property
    def silence(self) -> str:
        """The silence in words."""
        return f"no sign of life from {self.host or 'its host'} for {self.silence_s:.0f} s"


def trial_state_of(latest: LatestAttempt | None, job: JobState | None, unwanted: bool) -> tuple[State, str | None]:
    """The state of a trial that no stored part holds, and the reason where the state alone does not tell it.

    Args:
        latest: its latest attempt, if there was one.
        job: the scheduler's job that has it, if any.
        unwanted: whether somebody took it back.

    """
    if latest is not None and latest.state == attempts.RUNNING:
        if not latest.here and latest.silence_s > SILENT_S:
            return "unknown", latest.silence
        return "running", STOPS if unwanted else None
    if job is not None and not _over_in(job, latest):
        return _under_scheduler(latest, job)
    if latest is not None and latest.state in (attempts.FAILED, attempts.DIED):
        return "failed", None
    if unwanted:
        return "cancelled", None
    if latest is None:
        return "waiting", None
    if latest.error_kind == attempts.CANCELLED:
        return "waiting", WANTED_AGAIN
    if latest.state == attempts.FINISHED:
        return "waiting", NO_PART
    return ("pruned" if latest.state == attempts.PRUNED else "interrupted"), None


def _over_in(job: JobState, latest: LatestAttempt | None) -> bool:
    """Whether the trial has ended in this very job, which has others to run; the job will not run it again."""
    if latest is None or latest.job != job.job:
        return False
    return latest.state in attempts.ENDED or latest.error_kind == attempts.CANCELLED


def _under_scheduler(latest: LatestAttempt | None, job: JobState) -> tuple[State, str | None]:
    """The state of a trial that nobody is seen at, while a scheduler has a job for it."""
    if job.state != "running":
        return job.state, job.reason
    if latest is not None and latest.state == attempts.DIED and latest.job == job.job:
        return "unknown", f"job {job.number} runs, but there is {latest.silence}"
    return "queued", f"job {job.number} runs and has not begun this trial yet"
