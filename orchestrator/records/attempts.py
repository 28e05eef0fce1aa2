"""Attempt records: one small JSON file per attempt, with its owner, its state and its end.

The file is created exclusively, so one worker at a time runs a trial. Drivers keep no state
outside these files. An attempt has died if its record says `running` and its process is gone or
its heartbeat stopped.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from moleflow.cache.claim import Claim, Heartbeat, create_exclusively, is_stale, process_identity
from moleflow.files import write_atomically

RUNNING, FINISHED, FAILED, INTERRUPTED, PRUNED, DIED = "running", "finished", "failed", "interrupted", "pruned", "died"
ENDED = (FINISHED, FAILED, PRUNED)
"""States after which the worker does not run the trial again by itself."""
WORKER_DIED, CANCELLED, STOPPED = "WorkerDied", "Cancelled", "Stop"
NO_PROGRESS, OUT_OF_MEMORY = "NoProgress", "OutOfMemory"
_NAME = re.compile(r"^([0-9a-f]{12})-(\d+)\.json$")
_STATE = re.compile(r'^\{\s*"trial_id": "[0-9a-f]{12}",\s*"attempt": \d+,\s*"state": "(\w+)"')


@dataclass(frozen=True)
class AttemptRecord:
    """The record of an attempt: its file and the JSON text in it."""

    trial_id: str
    attempt: int
    path: Path
    text: str

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """The parsed text; empty if it is damaged."""
        try:
            content = json.loads(self.text or "{}")
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    @cached_property
    def stored_state(self) -> str:
        """The state in the file; `running` if the file is damaged."""
        # There may be thousands of records. The state is near the front, so most are never parsed.
        front = _STATE.match(self.text) if self.text.endswith("}") else None
        state: str = front[1] if front else self.content.get("state", RUNNING)
        return state

    @property
    def state(self) -> str:
        """The stored state; `died` if it is `running` and the worker is gone."""
        return DIED if self.stored_state == RUNNING and is_stale(self.path) else self.stored_state


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
        write_atomically(self.record.path, json.dumps(content, ensure_ascii=False, default=str).encode(), durable=False)

    def withdraw(self) -> None:
        """Remove the record before the attempt did anything; its number is free again."""
        self._claim.release()


@dataclass(frozen=True)
class AttemptFolder:
    """The records of a sweep, `<folder>/<trial id>-<attempt>.json`."""

    folder: Path
    heartbeat: Heartbeat = field(default_factory=Heartbeat, compare=False, repr=False)

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
            running = [record for record in earlier if record.state == RUNNING]
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
            text = json.dumps(content)
            try:
                created = create_exclusively(path, text)
            except FileNotFoundError:
                self.folder.mkdir(parents=True, exist_ok=True)
                continue
            if created:
                return Attempt(AttemptRecord(trial_id, number, path, text), earlier, self.heartbeat)
            # Another worker created this number a moment ago: look again at who runs the trial.

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
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return {}
        numbers: dict[str, list[int]] = {}
        for match in filter(None, map(_NAME.match, names)):
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
    """The record of an attempt, without text if it cannot be read; None if there is none."""
    path = folder / f"{trial_id}-{number}.json"
    try:
        with open(path, "rb") as file:
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError:
        text = ""
    return AttemptRecord(trial_id, number, path, text)


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically, and make the folder if needed.

    Raises:
        OSError: the folder cannot be written; `path` keeps what it held.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False, default=str).encode())
