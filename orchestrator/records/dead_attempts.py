"""Attempts whose process is gone without a word: written down in their record and in the attempts table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from moleflow.cache.claim import exclusive
from orchestrator.records.attempts import FAILED, RUNNING, STOPPED, WORKER_DIED, AttemptFolder, AttemptRecord
from orchestrator.records.event_log import epochs_told
from orchestrator.results.schema import ATTEMPTS
from orchestrator.results.store import ResultStore
from orchestrator.results.writer import AttemptRows, PartWriter

_KEY = ["trial_id", "attempt", "status"]
UNSEEN = "its process is gone and left no word: it was killed, or the machine went down"


def record_dead_attempts(
    attempts: AttemptFolder,
    store: ResultStore,
    dead: Sequence[AttemptRecord],
    error: str,
    state: str = FAILED,
    error_kind: str = WORKER_DIED,
) -> list[AttemptRecord]:
    """Write down how attempts died; one whose rows were stored before its process went has ended as they say.

    Args:
        attempts: the folder of the records.
        store: where their rows go.
        dead: the records of attempts that nobody runs any more.
        error: how they died, as far as is known.
        state: failed, or interrupted where that was nobody's mistake.
        error_kind: what kind of end it was, of those that failed.

    Returns:
        Those that died before their end was stored.

    Raises:
        OSError: the disk is full or not writable; what is not buried yet is found dead the next time.

    """
    if not dead:
        return []
    with exclusive(attempts.folder / "burying"):  # Two drivers that bury the same attempt would give it two rows.
        return _record_dead_attempt(
            attempts, store, [attempts.again(record) for record in dead], error, state, error_kind
        )


def _record_dead_attempt(
    attempts: AttemptFolder, store: ResultStore, dead: Sequence[AttemptRecord], error: str, state: str, error_kind: str
) -> list[AttemptRecord]:
    stored = {(row["trial_id"], row["attempt"]): row["status"] for row in store.read(ATTEMPTS, _KEY).to_pylist()}
    writer = PartWriter(store, "driver")
    found = []
    for record in dead:
        if record.content.get("state", RUNNING) != RUNNING:
            continue
        last_sign = datetime.fromtimestamp(record.path.stat().st_mtime, UTC)  # its last heartbeat
        status = stored.get((record.trial_id, record.attempt))
        if status is not None:
            attempts.close(record, status, last_sign.timestamp())
            continue
        # The record first: buried twice, the attempt would have two rows.
        kind = error_kind if state == FAILED else STOPPED
        epochs = epochs_told(store.folder, record.content.get("row", {}).get("worker", ""), record)
        attempts.close(record, state, last_sign.timestamp(), error=error, error_kind=kind, epochs=epochs)
        if "row" in record.content:
            writer.add(AttemptRows(_row(record, last_sign, state, error, kind)))
        found.append(record)
    writer.flush()
    return found


def _row(record: AttemptRecord, last_sign: datetime, state: str, error: str, error_kind: str) -> dict[str, Any]:
    """The row that the worker wrote into the record when it began, with the end that it could not write."""
    started = datetime.fromtimestamp(record.content["started_at"], UTC)
    return {
        **record.content["row"],
        "attempt": record.attempt,
        "status": state,
        "started_at": started,
        "ended_at": last_sign,
        "seconds_spent": max(0.0, (last_sign - started).total_seconds()),
        "error": error,
        "error_kind": error_kind,
    }
