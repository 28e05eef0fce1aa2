"""The state of every trial in a results folder, on any backend.

The first of these that tells anything decides: the stored parts, a running attempt, the
scheduler's jobs, the end of the latest attempt, cancellations (see `trial_state`). Reading writes
nothing, so it also works on a read-only folder.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from moleflow.passing_errors import open_file
from orchestrator.records import attempts, sweep_folder
from orchestrator.records.attempts import AttemptFolder, AttemptRecord
from orchestrator.records.dead_attempts import UNSEEN
from orchestrator.records.event_log import LoggedEvent, event_logs, parse_line
from orchestrator.records.events import PROGRESS, Event
from orchestrator.records.stalls import read_stall, stall_note
from orchestrator.records.stop_requests import ALL, cancel_requests
from orchestrator.records.trial_state import ACTIVE, STATES, Jobs, LatestAttempt, NoJobs, State, trial_state_of
from orchestrator.results.parts import Damage
from orchestrator.results.store import FinishedAttempt, ResultStore

TAIL_BYTES = 64 * 1024


@dataclass(frozen=True)
class TrialStatus:
    """The state of one trial.

    Attributes:
        attempt: the attempt that counts, or else the latest.
        progress: the last event of a running trial that tells its progress.
        reason: the reason of a state that does not explain itself.
        error: the latest error.
        stalled: the note on a running trial without progress; None while it makes some.

    """

    trial_id: str
    label: str
    state: State
    attempt: int | None = None
    progress: Event | None = None
    host: str | None = None
    worker: str | None = None
    job: str | None = None
    reason: str | None = None
    error: str | None = None
    stalled: str | None = None


@dataclass(frozen=True)
class SweepStatus:
    """The state of a sweep: the trials of its latest plan, its first start, its last event."""

    name: str
    title: str
    dataset: str
    folder: Path
    trials: tuple[TrialStatus, ...]
    started_at: float | None
    last_at: float
    damaged: tuple[Damage, ...] = ()

    @property
    def counts(self) -> dict[State, int]:
        """The number of trials in each state."""
        counts = dict.fromkeys(STATES, 0)
        for trial in self.trials:
            counts[trial.state] += 1
        return counts

    @property
    def stalled(self) -> int:
        """The number of running trials without progress."""
        return sum(trial.stalled is not None for trial in self.trials)

    @property
    def is_active(self) -> bool:
        """True if any trial runs, is queued, or may run (unknown)."""
        return any(trial.state in ACTIVE for trial in self.trials)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first start, pauses included."""
        return 0.0 if self.started_at is None else max(0.0, self.last_at - self.started_at)


class StatusReader:
    """Reads the state of a results folder, any number of times; each part is read once.

    Args:
        folder: the results folder.
        jobs: a scheduler's jobs; None without a scheduler.

    """

    def __init__(self, folder: Path, jobs: Jobs | None = None) -> None:
        self.folder, self.jobs = folder, jobs or NoJobs()
        self._store = ResultStore(folder)
        self._attempts = AttemptFolder(folder / "attempts")
        self._logs = event_logs(folder)

    def look(self, trial_ids: Collection[str] | None = None) -> SweepStatus:
        """The status at this moment.

        Args:
            trial_ids: the trials; default: all of the latest plan.

        Raises:
            InvalidInput: the folder holds no sweep, or sweep.json is damaged.

        """
        sweep = sweep_folder.read_sweep_folder(self.folder)
        wanted = sweep.trial_ids if trial_ids is None else tuple(trial_ids)
        finished = self._finished()
        records = self._attempts.of_trials(trial_id for trial_id in wanted if trial_id not in finished)
        latest = {trial_id: _latest(attempts_of_trial) for trial_id, attempts_of_trial in records.items()}
        if any(attempt.state in (attempts.FINISHED, attempts.DIED) for attempt in latest.values()):
            # They may have ended meanwhile: workers store the part before they close the record.
            finished = self._finished()
        cancelled = _names(cancel_requests(self.folder).folder)

        def status(trial_id: str) -> TrialStatus:
            label = sweep.labels.get(trial_id, trial_id)
            if trial_id in finished:
                return TrialStatus(trial_id, label, "finished", finished[trial_id].attempt)
            return self._unfinished(trial_id, label, latest.get(trial_id), not cancelled.isdisjoint((ALL, trial_id)))

        trials = tuple(status(trial_id) for trial_id in wanted)
        starts = [end.started_at.timestamp() for end in finished.values()]
        starts += [
            float(first.content["started_at"]) for first, *_ in records.values() if "started_at" in first.content
        ]
        active = any(trial.state in ACTIVE for trial in trials)
        return SweepStatus(
            sweep.name,
            sweep.title,
            sweep.dataset,
            self.folder,
            trials,
            min(starts, default=None),
            time.time() if active else max([*starts, *self._last_events()], default=0.0),
            self._store.damaged if self._store.parts.is_dir() else (),
        )

    def _unfinished(self, trial_id: str, label: str, latest: LatestAttempt | None, cancelled: bool) -> TrialStatus:
        job = self.jobs.state_of(trial_id)
        state, reason = trial_state_of(latest, job, cancelled)
        job_id = job.job if job else None
        if latest is None:
            return TrialStatus(trial_id, label, state, job=job_id, reason=reason)
        progress, stalled = self._progress(trial_id, latest) if latest.state == attempts.RUNNING else (None, None)
        return TrialStatus(
            trial_id,
            label,
            state,
            latest.attempt,
            progress,
            latest.host,
            latest.worker,
            latest.job if state == "running" or job_id is None else job_id,
            reason or stalled,
            latest.error,
            stalled,
        )

    def _finished(self) -> dict[str, FinishedAttempt]:
        return self._store.finished() if self._store.parts.is_dir() else {}

    def _progress(self, trial_id: str, latest: LatestAttempt) -> tuple[Event | None, str | None]:
        """The last event of a running attempt that tells its progress, and the note of a stall."""
        newest = None
        for entry in _tail(self._logs / f"{latest.worker}.jsonl"):
            event = entry.event
            if event.trial_id == trial_id and event.facts.get("attempt") == latest.attempt:
                newest = newest or entry.time
                # A step is a sign of life; the event before it tells the progress.
                if event.kind != "step":
                    known = event.kind in {*PROGRESS, "task"}
                    return event if known else None, stall_note(time.time() - newest, latest.stall_min)
        return None, stall_note(time.time() - newest, latest.stall_min) if newest else None

    def _last_events(self) -> Iterator[float]:
        """The time of each worker's last event, seconds since 1970."""
        for name in _names(self._logs):
            for entry in _tail(self._logs / name):
                yield entry.time
                break


def _latest(records: Sequence[AttemptRecord]) -> LatestAttempt:
    """The last of a trial's attempts, with the latest error of all its attempts."""
    record = records[-1]
    state = record.state
    if state == attempts.DIED:
        # It may have ended since it was read: its worker is gone then too.
        record = attempts.read_record(record.path.parent, record.trial_id, record.attempt) or record
        state = record.state
    stall = read_stall(record) if state == attempts.DIED else None
    unseen = stall.error if stall else UNSEEN
    errors = [unseen if state == attempts.DIED else record.content.get("error")]
    errors += [earlier.content.get("error") for earlier in reversed(records[:-1])]
    content, host = record.content, record.content.get("host")
    silence = 0.0
    with contextlib.suppress(FileNotFoundError):
        silence = max(0.0, time.time() - record.path.stat().st_mtime)
    return LatestAttempt(
        attempt=record.attempt,
        state=state,
        here=host == socket.gethostname(),
        host=host,
        worker=content.get("row", {}).get("worker"),
        job=content.get("job"),
        silence_s=silence,
        error=next(filter(None, errors), None),
        error_kind=content.get("error_kind"),
        stall_min=content.get("stall_min", 0.0),
    )


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()


def _tail(path: Path) -> Iterator[LoggedEvent]:
    """The last events of a worker's log, newest first; incomplete lines are skipped."""
    with contextlib.suppress(OSError), open_file(path) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        for line in reversed(file.read().splitlines()):
            if (entry := parse_line(path.stem, line)) is not None:
                yield entry
