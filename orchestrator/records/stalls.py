"""Stalled attempts: their worker reported no progress for too long and ended its own process.

The worker leaves the traceback of its threads in a file beside the attempt's record. The process
that finds the worker dead reads that file and records the attempt as failed with `Stalled`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moleflow import files
from orchestrator.records.attempts import AttemptRecord

STALLED = "Stalled"
_FIRST_LINE = "Timeout ("  # faulthandler begins its dump with it.
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.+)$', re.MULTILINE)
_OF_TRIAL = re.compile(r'orchestrator/execution/worker\.py", line \d+ in ')


@dataclass(frozen=True)
class Stall:
    """The end of a stalled attempt: one line, and the traceback of every thread."""

    error: str
    traceback: str

    @property
    def facts(self) -> dict[str, Any]:
        """The facts of the `failed` event."""
        return {"error": self.error, "error_kind": STALLED, "traceback": self.traceback}


def stall_file(record: Path) -> Path:
    """The file for the traceback of a stalled attempt, given the path of its record."""
    return record.with_suffix(".stalled")


def read_stall(record: AttemptRecord) -> Stall | None:
    """The stall of an attempt whose process is gone; None if it died in another way."""
    try:
        text = files.read(stall_file(record.path)).decode(errors="replace")
    except OSError:
        return None
    if not text.startswith(_FIRST_LINE):
        return None
    minutes = record.content.get("stall_min", 0.0)
    return Stall(f"no progress for {minutes:g} min (resources.stall_min), so its process was ended{_place(text)}", text)


def stall_note(silent_s: float, stall_min: float) -> str | None:
    """The note on a running trial from half of `stall_min` on; None before, and if it is 0."""
    if not stall_min or silent_s < 30 * stall_min:
        return None
    return f"stalled: no progress for {silent_s / 60:.3g} min (resources.stall_min: {stall_min:g})"


def _place(dump: str) -> str:
    """The innermost frame of the thread that ran the trial, in words."""
    threads = re.split(r"\n(?=Thread |Current thread )", dump)
    thread = next((one for one in threads if _OF_TRIAL.search(one)), threads[-1])
    frame = _FRAME.search(thread)
    return f"; it hung in {frame['function']} ({frame['file']}:{frame['line']})" if frame else ""
