"""The attempt record: one small file per attempt, claimed atomically, that says who runs what and how it ended.

Drivers keep no state that is not here. A record whose heartbeat stopped, or whose process is gone, is an attempt that died.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moleflow.claim import Claim, create, is_stale, owner

RUNNING, FINISHED, FAILED, INTERRUPTED, PRUNED, DIED = "running", "finished", "failed", "interrupted", "pruned", "died"
ENDED = (FINISHED, FAILED, PRUNED)  # for good, as far as whoever ran it is concerned
WORKER_DIED, CANCELLED, STOPPED = "WorkerDied", "Cancelled", "Stop"
NO_PROGRESS, OUT_OF_MEMORY = "NoProgress", "OutOfMemory"
_NAME = re.compile(r"^([0-9a-f]{12})-(\d+)\.json$")


@dataclass(frozen=True)
class Record:
    """What the file of an attempt says."""

    trial_id: str
    attempt: int
    path: Path
    content: Mapping[str, Any]

    @property
    def state(self) -> str:
        """Running | finished | failed | interrupted | pruned, or died: it says running, and nobody is."""
        state: str = self.content.get("state", RUNNING)
        return DIED if state == RUNNING and is_stale(self.path) else state


class Attempt:
    """An attempt that this process runs: a heartbeat until `end`."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.trial_id, self.number = record.trial_id, record.attempt
        self._claim = Claim(record.path)

    def end(self, state: str, **facts: object) -> None:
        """Write how it ended, with whatever else a reader should know (error, traceback).

        Raises:
            OSError: the disk is full; the record then says `running`, and is seen as died once this process is gone.

        """
        self._claim.stop()
        write_json(self.record.path, {**self.record.content, "state": state, "ended_at": time.time(), **facts})

    def withdraw(self) -> None:
        """Take the attempt back before anything was done in it; its number is free again."""
        self._claim.release()


@dataclass(frozen=True)
class AttemptFolder:
    """The records of a sweep, `<folder>/<trial id>-<attempt>.json`."""

    folder: Path

    def begin(self, trial_id: str, **facts: object) -> Attempt | Record:
        """A new attempt at a trial; or, if somebody is at it right now, the record of theirs.

        Args:
            trial_id: the trial.
            facts: what else the record should carry (worker, job id, the row of the attempts table as far as it is known).

        Raises:
            OSError: the folder cannot be written.

        """
        self.folder.mkdir(parents=True, exist_ok=True)
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
                **owner(),
                **facts,
            }
            if create(path, content):
                return Attempt(Record(trial_id, number, path, content))

    def of_trial(self, trial_id: str) -> list[Record]:
        """A trial's attempts, in order."""
        found = (_read(path) for path in self.folder.glob(f"{trial_id}-*.json"))
        return sorted((record for record in found if record), key=lambda record: record.attempt)

    def again(self, record: Record) -> Record:
        """A record as it stands now."""
        return _read(record.path) or record

    def all(self) -> list[Record]:
        """Every attempt of every trial."""
        found = (_read(path) for path in self.folder.glob("*.json"))
        return sorted((record for record in found if record), key=lambda record: (record.trial_id, record.attempt))

    def close(self, record: Record, state: str, ended_at: float, **facts: object) -> None:
        """Write down the end of an attempt whose process is gone.

        Raises:
            OSError: the folder cannot be written.

        """
        write_json(record.path, {**record.content, "state": state, "ended_at": ended_at, **facts})


def _read(path: Path) -> Record | None:
    match = _NAME.match(path.name)
    if match is None:
        return None
    try:
        content = json.loads(path.read_text() or "{}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        content = {}
    return Record(match.group(1), int(match.group(2)), path, content)


def write_json(path: Path, content: object) -> None:
    """Write JSON beside `path` and rename it into place.

    Raises:
        OSError: the folder cannot be written; `path` keeps what it held.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, ensure_ascii=False, default=str)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
