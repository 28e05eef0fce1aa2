"""Attempt records: one small JSON file per attempt, with its owner, its state and its end.

The file is created exclusively, so one worker at a time runs a trial. Drivers keep no state
outside these files. An attempt has died if its record says `running` and its process is gone or
its heartbeat stopped.

A worker that slept too long is taken for dead, and may wake up again. So an attempt's end is a file
of its own, `<trial id>-<attempt>.end`, for which its worker and whoever finds it dead compete. Only
the one that created it stores a row of the attempt.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from moleflow import files
from moleflow.cache.claim import Claim, Heartbeat, is_stale, looks_stale, take_over
from moleflow.owner import PROCESS, owner_is_gone, process_identity
from orchestrator.records.stored_values import is_count, is_text, is_time, is_worker

RUNNING, FINISHED, FAILED, INTERRUPTED, PRUNED, DIED = "running", "finished", "failed", "interrupted", "pruned", "died"
ENDED = (FINISHED, FAILED, PRUNED)
"""States after which the worker does not run the trial again by itself."""
WORKER_DIED, CANCELLED, STOPPED = "WorkerDied", "Cancelled", "Stop"
NO_PROGRESS, OUT_OF_MEMORY = "NoProgress", "OutOfMemory"
LOST = "its record was lost; the next attempt goes on"
STATES = frozenset({RUNNING, FINISHED, FAILED, INTERRUPTED, PRUNED})
_NAME = re.compile(r"^([0-9a-f]{12})-([1-9]\d{0,8})\.json$")
_STATE = re.compile(
    rf'^\{{\s*"trial_id": "[0-9a-f]{{12}}",\s*"attempt": \d+,\s*"state": "({"|".join(sorted(STATES))})"'
)


def _is_row(value: object) -> bool:
    return isinstance(value, dict) and (value.get("worker") is None or is_worker(value["worker"]))


_VALUES: Mapping[str, Callable[[object], bool]] = MappingProxyType(
    {
        "state": lambda value: isinstance(value, str) and value in STATES,
        "row": _is_row,
        **dict.fromkeys(("host", "boot", "pid_namespace", "job", "error", "error_kind", "traceback"), is_text),
        **dict.fromkeys(("started_at", "ended_at"), is_time),
        **dict.fromkeys(("seconds", "stall_min"), is_time),
        **dict.fromkeys(("pid", "epochs"), is_count),
    }
)
"""The kind of each value that a reader of records uses."""
_NULL = frozenset({"host", "boot", "pid_namespace", "job", "error", "error_kind", "traceback", "seconds"})
"""The names of values that may be null."""


@dataclass(frozen=True)
class AttemptRecord:
    """The record of an attempt: its file and the JSON text in it."""

    trial_id: str
    attempt: int
    path: Path
    text: str

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """The parsed text, without values of a kind that no worker writes; empty if damaged."""
        try:
            content = json.loads(self.text or "{}")
        except (ValueError, RecursionError):
            return {}
        if not isinstance(content, dict):
            return {}
        return {
            name: value
            for name, value in content.items()
            if name not in _VALUES or (value is None and name in _NULL) or _VALUES[name](value)
        }

    @cached_property
    def stored_state(self) -> str:
        """The state in the file; `running` if the file is damaged."""
        # There may be thousands of records. The state is near the front, so most are never parsed.
        front = _STATE.match(self.text) if self.text.endswith("}") else None
        state: str = front[1] if front else self.content.get("state", RUNNING)
        return state

    @property
    def state(self) -> str:
        """The stored state; `died` if it is `running` and the worker seems to be gone."""
        return DIED if self.stored_state == RUNNING and looks_stale(self.path) else self.stored_state

    @property
    def has_died(self) -> bool:
        """True if the state is `running` and the worker is gone, or was watched and is silent."""
        return self.stored_state == RUNNING and is_stale(self.path)


class Attempt:
    """An attempt that this process runs, with a heartbeat until `end`.

    Attributes:
        record: its record as it was created.
        earlier: the records of the trial's attempts before it.
        trial_id: the trial.
        number: the number of the attempt, from 1.

    """

    def __init__(self, record: AttemptRecord, earlier: Sequence[AttemptRecord], heartbeat: Heartbeat) -> None:
        self.record, self.earlier = record, tuple(earlier)
        self.trial_id, self.number = record.trial_id, record.attempt
        self._claim = Claim(record.path, record.text, heartbeat)

    def end(self, state: str, **facts: object) -> None:
        """Write the end, with further facts for readers (error, traceback).

        Raises:
            OSError: the disk is full; the record still says `running`, which reads as died once
                this process is gone.

        """
        self._claim.stop()
        # Not synced: after a power cut an empty record reads as died, and the part decides anyway.
        content = {**self.record.content, "state": state, "ended_at": time.time(), **facts}
        text = json.dumps(content, ensure_ascii=False, default=str)
        files.write_atomically(self.record.path, text.encode(), durable=False)

    def stop(self) -> None:
        """Leave the record as it is, to those who took this attempt for dead."""
        self._claim.stop()

    def withdraw(self) -> None:
        """Remove the record before the attempt did anything; its number is free again."""
        self._claim.release()


@dataclass(frozen=True)
class AttemptFolder:
    """The records of a sweep, `<folder>/<trial id>-<attempt>.json`."""

    folder: Path
    heartbeat: Heartbeat = field(default_factory=Heartbeat, compare=False, repr=False)
    _ends: set[tuple[str, int]] = field(default_factory=set, compare=False, repr=False)

    def begin(self, trial_id: str, **facts: object) -> Attempt | AttemptRecord:
        """Begin a new attempt at a trial, or return the record of the attempt that runs already.

        Args:
            trial_id: the trial.
            facts: further facts for the record: the job, the known columns of the attempts table.

        Raises:
            OSError: the folder cannot be written.

        """
        while True:
            earlier = self.of_trial(trial_id)
            running = [record for record in earlier if record.stored_state == RUNNING and not record.has_died]
            if running:
                return running[0]
            number = earlier[-1].attempt + 1 if earlier else 1
            path = self.folder / f"{trial_id}-{number}.json"
            content = {
                "trial_id": trial_id,
                "attempt": number,
                "state": RUNNING,
                "started_at": time.time(),
                **process_identity(),
                **facts,
            }
            record = AttemptRecord(trial_id, number, path, json.dumps(content))
            create = partial(files.create_exclusively, path, record.text.encode())
            if not files.make_folder_if_missing(self.folder, create):
                # Another worker created this number a moment ago: look again at who runs the trial.
                # This host may believe for a minute that there is no such file.
                files.names(self.folder, fresh=True)
            elif files.exists(self._end_path(trial_id, number)):
                # An attempt of this number has ended, and its record was lost in a power cut.
                self.close(record, INTERRUPTED, time.time(), error=LOST)
            else:
                return Attempt(record, earlier, self.heartbeat)

    def claim_end(self, trial_id: str, number: int, owner: Mapping[str, Any] | None = None) -> bool:
        """Claim the right to store the row of an attempt, which one process gets.

        Args:
            trial_id: the trial.
            number: the number of its attempt.
            owner: the attempt's record if its process has ended for certain, so that its own claim
                no longer counts.

        Returns:
            True for the one that may store the row.

        Raises:
            OSError: the folder cannot be written.

        """
        path = self._end_path(trial_id, number)
        content = json.dumps({**process_identity(), "token": uuid.uuid4().hex})
        is_mine = (trial_id, number) in self._ends or files.create_exclusively(path, content.encode(), durable=True)
        if not is_mine:
            try:
                before = files.read(path).decode(errors="replace")
            except FileNotFoundError:  # Another process is taking it over.
                return False
            is_mine = _has_ended(before, owner) and take_over(path, before, content, durable=True)
        if is_mine:
            self._ends.add((trial_id, number))
        return is_mine

    def _end_path(self, trial_id: str, number: int) -> Path:
        return self.folder / f"{trial_id}-{number}.end"

    def of_trial(self, trial_id: str) -> list[AttemptRecord]:
        """A trial's attempts, in order."""
        records: list[AttemptRecord] = []
        # Attempts are numbered without gaps. Asking for the next is faster than listing all.
        while (record := read_record(self.folder, trial_id, len(records) + 1)) is not None:
            records.append(record)
        return records

    def reread(self, record: AttemptRecord) -> AttemptRecord:
        """The record as it is on disk now."""
        return read_record(self.folder, record.trial_id, record.attempt) or record

    def of_trials(self, trial_ids: Iterable[str]) -> dict[str, list[AttemptRecord]]:
        """The attempts, in order, of each of these trials that has any."""
        numbers = self._numbers()
        records = {trial: self._read(trial, numbers[trial]) for trial in trial_ids if trial in numbers}
        return {trial: attempts for trial, attempts in records.items() if attempts}

    def all(self) -> list[AttemptRecord]:
        """Every attempt of every trial, by trial and number."""
        return [record for trial, numbers in sorted(self._numbers().items()) for record in self._read(trial, numbers)]

    def _numbers(self) -> dict[str, list[int]]:
        """The numbers of the attempts of each trial, from one listing of the folder."""
        numbers: dict[str, list[int]] = {}
        for match in filter(None, map(_NAME.match, files.names(self.folder))):
            numbers.setdefault(match[1], []).append(int(match[2]))
        return numbers

    def _read(self, trial_id: str, numbers: Iterable[int]) -> list[AttemptRecord]:
        # A record that was withdrawn since the listing is left out.
        records = (read_record(self.folder, trial_id, number) for number in sorted(numbers))
        return [record for record in records if record is not None]

    def close(self, record: AttemptRecord, state: str, ended_at: float, **facts: object) -> None:
        """Write the end of an attempt whose process is gone.

        Raises:
            OSError: the folder cannot be written.

        """
        write_json(record.path, {**record.content, "state": state, "ended_at": ended_at, **facts})


def read_record(folder: Path, trial_id: str, number: int) -> AttemptRecord | None:
    """The record of an attempt, without text if it cannot be read; None if there is none.

    Raises:
        NotAFile: a folder or a pipe has its name, so no attempt of this number can be recorded.
        OSError: it cannot be told whether there is one.
    """
    path = folder / f"{trial_id}-{number}.json"
    try:
        text = files.read(path).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except files.NotAFile:
        raise
    except OSError:
        if not files.exists(path):
            return None
        text = ""
    return AttemptRecord(trial_id, number, path, text)


def _has_ended(content: str, owner: Mapping[str, Any] | None) -> bool:
    """True if the process that claimed an end has ended for certain."""
    try:
        holder = json.loads(content)
    except (ValueError, RecursionError):
        return False
    if not isinstance(holder, dict):
        return False
    is_owner = owner is not None and all(holder.get(name) == owner.get(name) for name in PROCESS)
    return is_owner or owner_is_gone(holder) is True


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically, and make the folder if needed.

    Raises:
        OSError: the folder cannot be written; `path` keeps what it held.

    """
    files.make_folder(path.parent)
    files.write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False, default=str).encode())
