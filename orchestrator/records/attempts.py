"""The attempt record: one small file per attempt, claimed atomically, that says who runs what and how it ended.

Drivers keep no state that is not here. A record whose heartbeat stopped, or whose process is gone, is an attempt that died.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from moleflow.cache.claim import Claim, Heartbeat, create_exclusively, is_stale, process_identity
from moleflow.files import write_atomically

RUNNING, FINISHED, FAILED, INTERRUPTED, PRUNED, DIED = "running", "finished", "failed", "interrupted", "pruned", "died"
ENDED = (FINISHED, FAILED, PRUNED)  # for good, as far as whoever ran it is concerned
WORKER_DIED, CANCELLED, STOPPED = "WorkerDied", "Cancelled", "Stop"
NO_PROGRESS, OUT_OF_MEMORY = "NoProgress", "OutOfMemory"
_NAME = re.compile(r"^([0-9a-f]{12})-(\d+)\.json$")
_STATE = re.compile(r'^\{\s*"trial_id": "[0-9a-f]{12}",\s*"attempt": \d+,\s*"state": "(\w+)"')


@dataclass(frozen=True)
class AttemptRecord:
    """The file of an attempt and its text, as JSON."""

    trial_id: str
    attempt: int
    path: Path
    text: str

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """What it says; nothing where it is damaged."""
        try:
            content = json.loads(self.text or "{}")
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    @cached_property
    def said(self) -> str:
        """The state that stands in it."""
        # It stands at the front, and there may be thousands of records: the rest is read when it is asked for.
        front = _STATE.match(self.text) if self.text.endswith("}") else None
        state: str = front[1] if front else self.content.get("state", RUNNING)
        return state

    @property
    def state(self) -> str:
        """Running | finished | failed | interrupted | pruned, or died: it says running, and nobody is."""
        return DIED if self.said == RUNNING and is_stale(self.path) else self.said


class Attempt:
    """An attempt that this process runs: a heartbeat until `end`. `earlier` are the trial's attempts before it, as they ended."""

    def __init__(self, record: AttemptRecord, earlier: Sequence[AttemptRecord], heartbeat: Heartbeat) -> None:
        self.record, self.earlier = record, tuple(earlier)
        self.trial_id, self.number = record.trial_id, record.attempt
        self._claim = Claim(record.path, record.text, heartbeat)

    def end(self, state: str, **facts: object) -> None:
        """Write how it ended, with whatever else a reader should know (error, traceback).

        Raises:
            OSError: the disk is full; the record then says `running`, and is seen as died once this process is gone.

        """
        self._claim.stop()
        # Not made to last through a power cut: a record that comes back empty is one whose process died, and the part counts.
        content = {**self.record.content, "state": state, "ended_at": time.time(), **facts}
        write_atomically(self.record.path, json.dumps(content, ensure_ascii=False, default=str).encode(), durable=False)

    def withdraw(self) -> None:
        """Take the attempt back before anything was done in it; its number is free again."""
        self._claim.release()


@dataclass(frozen=True)
class AttemptFolder:
    """The records of a sweep, `<folder>/<trial id>-<attempt>.json`."""

    folder: Path
    heartbeat: Heartbeat = field(default_factory=Heartbeat, compare=False, repr=False)

    def begin(self, trial_id: str, **facts: object) -> Attempt | AttemptRecord:
        """A new attempt at a trial; or, if somebody is at it right now, the record of theirs.

        Args:
            trial_id: the trial.
            facts: what else the record should carry (worker, job id, the row of the attempts table as far as it is known).

        Raises:
            OSError: the folder cannot be written.

        """
        while True:
            earlier = self.of_trial(trial_id)
            live = [record for record in earlier if record.state == RUNNING]
            if live:
                return live[0]
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
                ours = create_exclusively(path, text)
            except FileNotFoundError:
                self.folder.mkdir(parents=True, exist_ok=True)
                continue
            if ours:
                return Attempt(AttemptRecord(trial_id, number, path, text), earlier, self.heartbeat)

    def of_trial(self, trial_id: str) -> list[AttemptRecord]:
        """A trial's attempts, in order."""
        found: list[AttemptRecord] = []
        # Attempts are numbered without gaps: looking for the next one is faster than listing those of all trials.
        while (record := read_record(self.folder, trial_id, len(found) + 1)) is not None:
            found.append(record)
        return found

    def again(self, record: AttemptRecord) -> AttemptRecord:
        """A record as it stands now."""
        return read_record(self.folder, record.trial_id, record.attempt) or record

    def all(self) -> list[AttemptRecord]:
        """Every attempt of every trial."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        found = (read_record(self.folder, match[1], int(match[2])) for match in filter(None, map(_NAME.match, names)))
        return sorted((record for record in found if record), key=lambda record: (record.trial_id, record.attempt))

    def close(self, record: AttemptRecord, state: str, ended_at: float, **facts: object) -> None:
        """Write down the end of an attempt whose process is gone.

        Raises:
            OSError: the folder cannot be written.

        """
        write_json(record.path, {**record.content, "state": state, "ended_at": ended_at, **facts})


def read_record(folder: Path, trial_id: str, number: int) -> AttemptRecord | None:
    """The record of an attempt; None where there is none."""
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
    """Write JSON beside `path` and rename it into place.

    Raises:
        OSError: the folder cannot be written; `path` keeps what it held.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False, default=str).encode())
