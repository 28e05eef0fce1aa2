"""What every trial of a results folder is doing, in the same words on every backend.

What counts, in this order: the stored parts, an attempt that a live worker is at, the jobs of a scheduler, how the latest attempt ended
and the marks of trials taken back (`trial_state`). Reading writes nothing, so that it works on a folder that cannot be written.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.records import attempts, sweep_folder
from orchestrator.records.attempts import AttemptRecord
from orchestrator.records.dead_attempts import UNSEEN
from orchestrator.records.event_log import event_logs
from orchestrator.records.events import PROGRESS, Event
from orchestrator.records.stop_requests import ALL, cancel_requests
from orchestrator.records.trial_state import GOING, STATES, Jobs, LatestAttempt, NoJobs, State, trial_state_of
from orchestrator.results.parts import Damage
from orchestrator.results.store import FinishedAttempt, ResultStore

TAIL_BYTES = 64 * 1024
_RECORD = re.compile(r"^([0-9a-f]{12})-(\d+)\.json$")


@dataclass(frozen=True)
class TrialStatus:
    """What one trial is doing.

    `attempt` is the latest, or the one that counts; `progress` the last thing that the worker of a running trial told; `reason` says
    why the state is what it is where that is not plain; `error` is what last went wrong.
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


@dataclass(frozen=True)
class SweepStatus:
    """What a sweep is doing: the trials of its latest plan, and the time from its first start to now or to the last sign of life."""

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
        """How many trials are in each state."""
        found = dict.fromkeys(STATES, 0)
        for trial in self.trials:
            found[trial.state] += 1
        return found

    @property
    def going(self) -> bool:
        """Whether anything runs, is queued, or may run for all that is known."""
        return any(trial.state in GOING for trial in self.trials)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first start, pauses included."""
        return 0.0 if self.started_at is None else max(0.0, self.last_at - self.started_at)


class StatusReader:
    """Looks at a results folder, as often as one likes; parts that were seen are not read again.

    Args:
        place: the results folder.
        jobs: a scheduler's jobs; None where there is no scheduler.

    """

    def __init__(self, place: Path, jobs: Jobs | None = None) -> None:
        self.place, self.jobs = place, jobs or NoJobs()
        self._store = ResultStore(place)
        self._logs = event_logs(place)

    def look(self, trial_ids: Collection[str] | None = None) -> SweepStatus:
        """What is going on now.

        Args:
            trial_ids: of these trials alone; None = of all of the latest plan.

        Raises:
            InvalidInput: the folder holds no sweep, or sweep.json is damaged.

        """
        sweep = sweep_folder.read_sweep_folder(self.place)
        wanted = sweep.trial_ids if trial_ids is None else tuple(trial_ids)
        finished = self._finished()
        records = self._records(trial_id for trial_id in wanted if trial_id not in finished)
        seen = {trial_id: _latest(found) for trial_id, found in records.items()}
        if any(latest.state in (attempts.FINISHED, attempts.DIED) for latest in seen.values()):
            finished = self._finished()  # They may have ended meanwhile: a part is stored before its record is closed.
        marks = _names(cancel_requests(self.place).folder)

        def status(trial_id: str) -> TrialStatus:
            label = sweep.labels.get(trial_id, trial_id)
            if trial_id in finished:
                return TrialStatus(trial_id, label, "finished", finished[trial_id].attempt)
            return self._unfinished(trial_id, label, seen.get(trial_id), not marks.isdisjoint((ALL, trial_id)))

        trials = tuple(status(trial_id) for trial_id in wanted)
        starts = [end.started_at.timestamp() for end in finished.values()]
        starts += [
            float(found[0].content["started_at"]) for found in records.values() if "started_at" in found[0].content
        ]
        going = any(trial.state in GOING for trial in trials)
        return SweepStatus(
            sweep.name,
            sweep.title,
            sweep.dataset,
            self.place,
            trials,
            min(starts, default=None),
            time.time() if going else max([*starts, *self._last_told()], default=0.0),
            self._store.damaged if self._store.parts.is_dir() else (),
        )

    def _unfinished(self, trial_id: str, label: str, latest: LatestAttempt | None, unwanted: bool) -> TrialStatus:
        job = self.jobs.state_of(trial_id)
        state, reason = trial_state_of(latest, job, unwanted)
        job_id = job.job if job else None
        if latest is None:
            return TrialStatus(trial_id, label, state, job=job_id, reason=reason)
        progress = self._progress(trial_id, latest) if latest.state == attempts.RUNNING else None
        return TrialStatus(
            trial_id,
            label,
            state,
            latest.attempt,
            progress,
            latest.host,
            latest.worker,
            latest.job if state == "running" or job_id is None else job_id,
            reason,
            latest.error,
        )

    def _finished(self) -> dict[str, FinishedAttempt]:
        return self._store.finished() if self._store.parts.is_dir() else {}

    def _records(self, trial_ids: Iterable[str]) -> dict[str, list[AttemptRecord]]:
        """The attempts, in order, of each trial that has any; the folder of records is listed once."""
        place = self.place / "attempts"
        numbers: dict[str, list[int]] = {}
        for match in filter(None, map(_RECORD.match, _names(place))):
            numbers.setdefault(match[1], []).append(int(match[2]))
        found = {}
        for trial_id in trial_ids:
            read = [attempts.read_record(place, trial_id, number) for number in sorted(numbers.get(trial_id, ()))]
            records = [record for record in read if record is not None]
            if records:
                found[trial_id] = records
        return found

    def _progress(self, trial_id: str, latest: LatestAttempt) -> Event | None:
        """What the worker last told of an attempt."""
        for content in _tail(self._logs / f"{latest.worker}.jsonl"):
            if content.get("trial_id") == trial_id and content.get("attempt") == latest.attempt:
                known = content.get("kind") in {*PROGRESS, "task"}
                facts = {name: value for name, value in content.items() if name not in ("time", "kind", "trial_id")}
                return Event(content["kind"], trial_id, facts) if known else None
        return None

    def _last_told(self) -> Iterator[float]:
        """When each worker told something last, in seconds since 1970."""
        for name in _names(self._logs):
            for content in _tail(self._logs / name):
                yield float(content["time"])
                break


def _latest(records: Sequence[AttemptRecord]) -> LatestAttempt:
    """The last of a trial's attempts, with the last error there was."""
    record = records[-1]
    state = record.state
    if state == attempts.DIED:  # Or it has ended since it was read.
        record = attempts.read_record(record.path.parent, record.trial_id, record.attempt) or record
        state = record.state
    told = [UNSEEN if state == attempts.DIED else record.content.get("error")]
    told += [earlier.content.get("error") for earlier in reversed(records[:-1])]
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
        error=next(filter(None, told), None),
        error_kind=content.get("error_kind"),
    )


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()


def _tail(path: Path) -> Iterator[Mapping[str, Any]]:
    """The last lines of a worker's log, newest first; what is not whole is left out."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        for line in reversed(file.read().splitlines()):
            with contextlib.suppress(ValueError):
                content = json.loads(line)
                if isinstance(content, dict) and isinstance(content.get("time"), int | float):
                    yield content
