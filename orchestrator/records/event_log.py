"""Event logs: one file per worker, one JSON line per event.

`status` and `logs` read these files, and so does a driver whose workers run on other machines.
Results and states do not depend on them, so a line that cannot be written is dropped.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moleflow import files
from orchestrator.records.attempts import AttemptRecord
from orchestrator.records.events import PROGRESS, Event, is_event
from orchestrator.records.stored_values import is_time

EVERY_S = 1.0
CALLS_PER_S, LONGEST_PAUSE_S = 1.0, 15.0
"""File-system calls a second that looking at the logs may cost, as long as no pause gets longer."""
_CALLS_OF_A_LISTING, _CALLS_OF_A_READING = 4, 3


class EventLog:
    """The log of one worker. Progress within a task is logged at most once per second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last_time, self._last_kind, self._has_folder = 0.0, "", False

    def __call__(self, event: Event) -> None:
        """Append an event. On a full disk the line is lost, and nothing stops."""
        now = time.time()
        facts = event.facts
        last_epoch = event.kind == "epoch" and facts["epoch"] == facts["epochs"]
        recent = event.kind == self._last_kind and now - self._last_time < EVERY_S
        if event.kind in PROGRESS and recent and not last_epoch:
            return
        self._last_time, self._last_kind = now, event.kind
        line = {"time": round(now, 3), "kind": event.kind, "trial_id": event.trial_id, **facts}
        with contextlib.suppress(OSError):
            self._append(json.dumps(line, ensure_ascii=False, default=str) + "\n")

    def _append(self, line: str) -> None:
        if not self._has_folder:
            files.make_folder(self.path.parent)
            self._has_folder = True
        files.append(self.path, line.encode())


@dataclass(frozen=True)
class LoggedEvent:
    """An event with its worker and its time, seconds since 1970."""

    worker: str
    time: float
    event: Event


@dataclass
class LogFollower:
    """Reads the lines appended to the logs of a folder since the last call.

    An incomplete line waits for the next call.
    """

    folder: Path
    _offsets: dict[str, int] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    _calls: int = _CALLS_OF_A_LISTING
    _looked: float = -math.inf

    def read_due(self, pattern: str = "*", every_s: float | None = None) -> list[LoggedEvent] | None:
        """As `read_new`, or None if the last call that read was a moment ago.

        Args:
            pattern: as of `read_new`.
            every_s: seconds between two calls that read. None = as many as the calls of the last
                one cost: the more logs there are, the longer the pause.
        """
        now = self.clock()
        pause_s = min(self._calls / CALLS_PER_S, LONGEST_PAUSE_S) if every_s is None else every_s
        if now - self._looked < pause_s:
            return None
        self._looked = now
        return self.read_new(pattern)

    def read_new(self, pattern: str = "*") -> list[LoggedEvent]:
        """The new events of the workers whose names match `pattern`, oldest first."""
        entries: list[LoggedEvent] = []
        logs = fnmatch.filter(files.names(self.folder), f"{pattern}.jsonl")
        self._calls = _CALLS_OF_A_LISTING + len(logs)
        for name in logs:
            entries += self._read(self.folder / name)
        return sorted(entries, key=lambda entry: entry.time)

    def _read(self, path: Path) -> Iterator[LoggedEvent]:
        start = self._offsets.get(path.name, 0)
        try:
            status = files.stat_of(path)
            if status is None or status.st_size <= start:
                return
            self._calls += _CALLS_OF_A_READING
            with files.open_file(path) as file:
                file.seek(start)
                content = file.read()
        except OSError:
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._offsets[path.name] = start + len(whole)
        for line in whole.splitlines():
            entry = parse_line(path.stem, line)
            if entry is not None:
                yield entry


def event_logs(sweep_folder: Path) -> Path:
    """The folder of a sweep's event logs."""
    return sweep_folder / "events"


def logged_epochs(sweep_folder: Path, worker: str, record: AttemptRecord) -> int:
    """The number of epochs that a worker logged of an attempt.

    The first is always logged, so 0 means that it finished none.
    """
    entries = LogFollower(event_logs(sweep_folder)).read_new(worker) if worker else []
    of_trial = (entry.event for entry in entries if entry.event.trial_id == record.trial_id)
    return sum(event.kind == "epoch" and event.facts.get("attempt") == record.attempt for event in of_trial)


def parse_line(worker: str, line: bytes) -> LoggedEvent | None:
    """The event in a line of a worker's log; None if no worker wrote it so.

    A full disk or a crash may have cut the line off, and others may have written the folder.
    """
    try:
        content: Any = json.loads(line)
        kind, trial_id, seconds = content.pop("kind"), content.pop("trial_id"), content.pop("time")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not is_time(seconds) or not is_event(kind, trial_id, content):
        return None
    return LoggedEvent(worker, float(seconds), Event(kind, trial_id, content))
