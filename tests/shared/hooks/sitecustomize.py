"""Changes that a test makes in the processes of a sweep. Python imports this file at its start.

Environment variables say what is changed:

- SHARED_SILENCE: seconds between heartbeats, until a silent worker is dead, and for which it is
  watched, such as `0.3,4,1`.
- SHARED_STOP: stop (SIGSTOP) once. `step` = before a training step, `claim` = when the end of an
  attempt is claimed, `part` = before the last file of a part.
- SHARED_MARK: the file that is written before the process stops.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any


def shorten(heartbeat: float, stale: float, watched: float) -> None:
    """Shorten the times after which a silent worker is dead."""
    from moleflow.cache import claim

    for function in (claim.try_claim, claim.is_stale, claim.looks_stale, claim.wait_for):
        found = function.__defaults__ or ()
        function.__defaults__ = tuple(stale if value == claim.STALE_AFTER_S else value for value in found)
    claim.HEARTBEAT_S, claim.STALE_AFTER_S, claim.WATCHED_S = heartbeat, stale, watched


def stop_once() -> None:
    """Stop this process, the first time."""
    mark = Path(os.environ["SHARED_MARK"])
    if not mark.exists():
        mark.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)


def stop_in_step() -> None:
    """Stop when the first epoch of a trial has been logged."""
    from orchestrator.records.event_log import EventLog

    log = EventLog.__call__

    def logged(self: EventLog, event: Any) -> None:
        log(self, event)
        if event.kind == "epoch":
            stop_once()

    replaced: Any = EventLog
    replaced.__call__ = logged


def stop_after_claim() -> None:
    """Stop between the claim of an attempt's end and the write of its part."""
    from orchestrator.records.attempts import AttemptFolder

    claim_end = AttemptFolder.claim_end

    def claim(*words: Any) -> bool:
        is_mine = claim_end(*words)
        if is_mine:
            stop_once()
        return is_mine

    replaced: Any = AttemptFolder
    replaced.claim_end = claim


def stop_within_part() -> None:
    """Stop before the receipt of a part is renamed."""
    replace = os.replace

    def rename(source: Any, target: Any, **words: Any) -> None:
        receipt = Path(target)
        if receipt.parent.name == "attempts" and receipt.suffix == ".parquet" and "empty" not in receipt.name:
            stop_once()
        replace(source, target, **words)

    replaced: Any = os
    replaced.replace = rename


if silence := os.environ.get("SHARED_SILENCE"):
    shorten(*map(float, silence.split(",")))
if kind := os.environ.get("SHARED_STOP"):
    {"step": stop_in_step, "claim": stop_after_claim, "part": stop_within_part}[kind]()
