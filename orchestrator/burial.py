"""Attempts whose process is gone without a word: written down as failed, in their record and in the attempts table."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from orchestrator.attempts import WORKER_DIED, AttemptFolder, Record
from orchestrator.results.store import AttemptRows, PartWriter, ResultStore

UNSEEN = "its process is gone and left no word: it was killed, or the machine went down"


def bury(attempts: AttemptFolder, store: ResultStore, dead: Iterable[Record], error: str) -> None:
    """Write down how attempts died.

    Args:
        attempts: the folder of the records.
        store: where their rows go.
        dead: the records of attempts that nobody runs any more.
        error: how they died, as far as is known.

    Raises:
        OSError: the disk is full or not writable; what is not buried yet is found dead the next time.

    """
    writer = PartWriter(store, "driver")
    for record in dead:
        last_sign = datetime.fromtimestamp(record.path.stat().st_mtime, UTC)  # its last heartbeat
        # The record first: buried twice, the attempt would have two rows.
        attempts.bury(record, error, last_sign.timestamp())
        if "row" in record.content:
            writer.add(AttemptRows(_row(record, last_sign, error)))
    writer.flush()


def _row(record: Record, last_sign: datetime, error: str) -> dict[str, Any]:
    """The row that the worker wrote into the record when it began, with the end that it could not write."""
    started = datetime.fromtimestamp(record.content["started_at"], UTC)
    return {
        **record.content["row"],
        "attempt": record.attempt,
        "status": "failed",
        "started_at": started,
        "ended_at": last_sign,
        "seconds_spent": max(0.0, (last_sign - started).total_seconds()),
        "error": error,
        "error_kind": WORKER_DIED,
    }
