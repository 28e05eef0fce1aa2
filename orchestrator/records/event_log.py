"""What workers told, on disk: one file a worker, one JSON line an event.

`status` and `logs` read these files, and so does a driver whose workers are on other machines. They are for people and progress; what
counts is in the parts and the attempt records, so a line that could not be written is not missed.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.records.attempts import AttemptRecord
from orchestrator.records.events import PROGRESS, Event

EVERY_S = 1.0


class EventLog:
    """The log of one worker; takes events and appends them, those that say how far a trial is at most once a second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._said, self._kind, self._made = 0.0, "", False

    def __call__(self, event: Event) -> None:
        """Append an event; a disk that takes no more loses the line and stops nothing."""
        now = time.time()
        facts = event.facts
        ended = event.kind == "epoch" and facts["epoch"] == facts["epochs"]
        if event.kind in PROGRESS and event.kind == self._kind and now - self._said < EVERY_S and not ended:
            return
        self._said, self._kind = now, event.kind
        line = {"time": round(now, 3), "kind": event.kind, "trial_id": event.trial_id, **facts}
        with contextlib.suppress(OSError):
            self._append(json.dumps(line, ensure_ascii=False, default=str) + "\n")

    def _append(self, line: str) -> None:
        if not self._made:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._made = True
        with open(
            self.path, "ab"
        ) as file:  # Closed at once: other machines see what was written when a file is closed.
            file.write(line.encode())


@dataclass(frozen=True)
class LoggedEvent:
    """An event with the worker that told it and when, in seconds since 1970."""

    worker: str
    time: float
    event: Event


@dataclass
class LogFollower:
    """Reads what was appended to the logs of a folder since it looked last; a line that is not whole yet waits for the next look."""

    folder: Path
    _read: dict[str, int] = field(default_factory=dict)

    def look(self, pattern: str = "*") -> list[LoggedEvent]:
        """The new entries of the workers whose names fit `pattern`, oldest first."""
        found: list[LoggedEvent] = []
        for path in self.folder.glob(f"{pattern}.jsonl"):
            found += self._new(path)
        return sorted(found, key=lambda entry: entry.time)

    def _new(self, path: Path) -> Iterator[LoggedEvent]:
        start = self._read.get(path.name, 0)
        try:
            if path.stat().st_size <= start:
                return
            with path.open("rb") as file:
                file.seek(start)
                content = file.read()
        except OSError:
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._read[path.name] = start + len(whole)
        for line in whole.splitlines():
            entry = _entry(path.stem, line)
            if entry is not None:
                yield entry


def event_logs(sweep_folder: Path) -> Path:
    """Where the logs of a sweep's workers lie."""
    return sweep_folder / "events"


def epochs_told(sweep_folder: Path, worker: str, record: AttemptRecord) -> int:
    """How many epochs of an attempt its worker logged: none means that none was finished, as the first is always logged."""
    told = LogFollower(event_logs(sweep_folder)).look(worker) if worker else []
    ours = (entry.event for entry in told if entry.event.trial_id == record.trial_id)
    return sum(event.kind == "epoch" and event.facts.get("attempt") == record.attempt for event in ours)


def _entry(worker: str, line: bytes) -> LoggedEvent | None:
    try:
        content: dict[str, Any] = json.loads(line)
        kind, trial_id, at = content.pop("kind"), content.pop("trial_id"), float(content.pop("time"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # Cut off by a full disk or a machine that went down.
    return LoggedEvent(worker, at, Event(kind, trial_id, content))
