"""The index of a results folder: which parts were written or found whole, so that they need not be read again to know it.

`index/` lies beside `parts/`, one file a writer, one line a part. It is a copy: a line that is damaged, missing or of other files than
those that are there costs the time to read the part, and nothing else. A line counts while size and times of change of all four files are
those that it names, and until one says that the part is in doubt: disks change bytes without a time of change, so a line also has the
digests of the files, for whoever reads them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.results.schema import TABLES

Stamps = tuple[tuple[int, int, int], ...]
"""Size in bytes, and times in ns when the content and when anything changed, of a part's file in each table, in the order of TABLES."""

Digests = tuple[str, ...]
"""SHA-256 of a part's file in each table, in the order of TABLES, but of the attempts: the part's name ends in that."""

SETTLED_NS = 2_000_000_000
"""Clocks of file systems are coarse: a file that changed this short a time ago may change again and look the same."""


@dataclass(frozen=True)
class AttemptEntry:
    """What planning and reading have to know of one attempt in a part."""

    part: str
    trial_id: str
    attempt: int
    status: str
    code_digest: str
    started_at: datetime


@dataclass(frozen=True)
class IndexedPart:
    """A part that was whole: the digests of its files, and its attempts."""

    digests: Digests
    entries: tuple[AttemptEntry, ...]


COLUMNS = ["trial_id", "attempt", "status", "code_digest", "started_at"]
"""The columns of the attempts table that an entry is made of."""


def file_stamps(parts: Path, name: str) -> Stamps | None:
    """Size and times of change of a part's files; None where one is missing."""
    found = []
    for table in TABLES:
        try:
            status = os.stat(f"{parts}/{table}/{name}.parquet")
        except FileNotFoundError:
            return None
        found.append((status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(found)


def older_than_clock_tick(stamps: Stamps) -> bool:
    """Whether whatever changes the files from now on changes their stamps too."""
    return max(at for _, *times in stamps for at in times) < time.time_ns() - SETTLED_NS


class PartIndex:
    """The lines of all writers in `folder`; what was read once is not read again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, int] = {}
        self._known: dict[tuple[str, Stamps], IndexedPart | None] = {}

    def look(self) -> Mapping[tuple[str, Stamps], IndexedPart | None]:
        """Each part that was whole, by its name and the stamps that its files had; None for one that is in doubt."""
        with contextlib.suppress(OSError):  # Not there, or not to be read: then every part is.
            for name in os.listdir(self.folder):
                if name.endswith(".jsonl"):
                    for part, known in self._new(name):
                        # Lines of several files have no order: a doubt stays.
                        self._known[part] = known if self._known.get(part, known) is not None else None
        return self._known

    def note(self, writer: str, parts: Mapping[str, tuple[Stamps, IndexedPart | None]]) -> None:
        """Append parts that are whole (None: in doubt) to the file of a writer; a full disk loses the lines and stops nothing."""
        if not parts:
            return
        lines = b"".join(_line(name, stamps, known) for name, (stamps, known) in parts.items())
        with contextlib.suppress(OSError):
            self.folder.mkdir(exist_ok=True)
            with (self.folder / f"{writer}.jsonl").open("ab") as file:
                file.write(lines)

    def _new(self, name: str) -> Iterator[tuple[tuple[str, Stamps], IndexedPart | None]]:
        """The lines of a writer that are whole, of those appended since the last look."""
        with (self.folder / name).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = self._read.get(name, 0)
            file.seek(start if start <= size else 0)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._read[name] = (start if start <= size else 0) + len(whole)
        for line in whole.splitlines():
            # A line may be cut off, or damaged in any way.
            with contextlib.suppress(ValueError, KeyError, TypeError):
                yield _parsed(line)


def _line(name: str, stamps: Stamps, known: IndexedPart | None) -> bytes:
    told: dict[str, Any] = {"part": name, "files": stamps, "doubt": True}
    if known is not None:
        attempts = [[e.trial_id, e.attempt, e.status, e.code_digest, e.started_at.isoformat()] for e in known.entries]
        told = {"part": name, "files": stamps, "sha256": known.digests, "attempts": attempts}
    content = json.dumps(told, separators=(",", ":")).encode()
    return _digest(content) + b" " + content + b"\n"


def _parsed(line: bytes) -> tuple[tuple[str, Stamps], IndexedPart | None]:
    digest, _, content = line.partition(b" ")
    if digest != _digest(content):
        raise ValueError("damaged")
    told = json.loads(content)
    part = told["part"]
    key = (
        part,
        tuple((size, at, changed) for size, at, changed in told["files"]),
    )  # Lines of earlier versions have no third.
    if "doubt" in told:
        return key, None
    entries = [
        AttemptEntry(part, trial, attempt, status, code, datetime.fromisoformat(started))
        for trial, attempt, status, code, started in told["attempts"]
    ]
    return key, IndexedPart(tuple(told["sha256"]), tuple(entries))


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest()[:32].encode()
