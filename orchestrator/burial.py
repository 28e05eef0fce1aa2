"""Attempts whose process is gone without a word: written down as failed, in their record and in the attempts table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from orchestrator.attempts import FAILED, WORKER_DIED, AttemptFolder, Record
from orchestrator.results.schema import ATTEMPTS
from orchestrator.results.store import AttemptRows, PartWriter, ResultStore

_KEY = ["trial_id", "attempt", "status"]
UNSEEN = "its process is gone and left no word: it was killed, or the machine went down"


def bury(attempts: AttemptFolder, store: ResultStore, dead: Sequence[Record], error: str) -> list[Record]:
    """Write down how attempts died; one whose rows were stored before its process went has ended as they say.

    Args:
        attempts: the folder of the records.
        store: where their rows go.
        dead: the records of attempts that nobody runs any more.
        error: how they died, as far as is known.

    Returns:
        Those that died before their end was stored.

    Raises:
        OSError: the disk is full or not writable; what is not buried yet is found dead the next time.

    """
    if not dead:
        return []
    stored = {(row["trial_id"], row["attempt"]): row["status"] for row in store.read(ATTEMPTS, _KEY).to_pylist()}
    writer = PartWriter(store, "driver")
    found = []
    for record in dead:
        last_sign = datetime.fromtimestamp(record.path.stat().st_mtime, UTC)  # its last heartbeat
        status = stored.get((record.trial_id, record.attempt))
        if status is not None:
            attempts.close(record, status, last_sign.timestamp())
            continue
        # The record first: buried twice, the attempt would have two rows.
        attempts.close(record, FAILED, last_sign.timestamp(), error=error, error_kind=WORKER_DIED)
        if "row" in record.content:
            writer.add(AttemptRows(_row(record, last_sign, error)))
        found.append(record)
    writer.flush()
    return found


def _row(record: Record, last_sign: datetime, error: str) -> dict[str, Any]:
    """The row that the worker wrote into the record when it began, with the end that it could not write."""
    started = datetime.fromtimestamp(record.content["started_at"], UTC)
    return {
        **record.content["row"],
        "attempt": record.attempt,
        "status": FAILED,
        "started_at": started,
        "ended_at": last_sign,
        "seconds_spent": max(0.0, (last_sign - started).total_seconds()),
        "error": error,
        "error_kind": WORKER_DIED,
    }
