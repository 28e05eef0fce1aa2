"""Attempts whose process died: their end is written into the record and the attempts table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from moleflow.cache.claim import exclusive
from orchestrator.records.attempts import FAILED, RUNNING, STOPPED, WORKER_DIED, AttemptFolder, AttemptRecord
from orchestrator.records.event_log import logged_epochs
from orchestrator.results.store import ResultStore
from orchestrator.results.writer import AttemptRows, PartWriter

UNSEEN = "its process is gone and left no word: it was killed, or the machine went down"


def record_dead_attempts(
    attempts: AttemptFolder,
    store: ResultStore,
    dead: Sequence[AttemptRecord],
    error: str,
    state: str = FAILED,
    error_kind: str = WORKER_DIED,
) -> list[AttemptRecord]:
    """Write the end of dead attempts; one whose rows were stored before it died gets their status.

    Args:
        attempts: the folder of the records.
        store: the store that gets a row of each attempt.
        dead: the records of attempts whose process is gone.
        error: the cause of death, as far as it is known.
        state: failed, or interrupted if the attempt itself was not the cause.
        error_kind: the class of the error of failed attempts.

    Returns:
        The records of attempts without stored rows.

    Raises:
        OSError: the disk is full or not writable; the rest is found dead at the next start.

    """
    if not dead:
        return []
    # Two drivers at once would each write a row of the same attempt.
    with exclusive(attempts.folder / "burying"):
        return _record_dead_attempts(attempts, store, map(attempts.reread, dead), error, state, error_kind)


def _record_dead_attempts(
    attempts: AttemptFolder, store: ResultStore, dead: Iterable[AttemptRecord], error: str, state: str, error_kind: str
) -> list[AttemptRecord]:
    statuses = store.statuses()
    writer = PartWriter(store, "driver")
    unstored = []
    for record in dead:
        if record.content.get("state", RUNNING) != RUNNING:
            continue
        last_heartbeat = datetime.fromtimestamp(record.path.stat().st_mtime, UTC)
        status = statuses.get((record.trial_id, record.attempt))
        if status is not None:
            attempts.close(record, status, last_heartbeat.timestamp())
            continue
        # The record comes first: a driver that died in between would lose the row. In the other
        # order the next driver would write a second row.
        kind = error_kind if state == FAILED else STOPPED
        epochs = logged_epochs(store.folder, record.content.get("row", {}).get("worker", ""), record)
        attempts.close(record, state, last_heartbeat.timestamp(), error=error, error_kind=kind, epochs=epochs)
        if "row" in record.content:
            writer.add(AttemptRows(_row(record, last_heartbeat, state, error, kind)))
        unstored.append(record)
    writer.flush()
    return unstored


def _row(record: AttemptRecord, last_heartbeat: datetime, state: str, error: str, error_kind: str) -> dict[str, Any]:
    """The row of the attempts table: the columns in the record, and the end."""
    started = datetime.fromtimestamp(record.content["started_at"], UTC)
    return {
        **record.content["row"],
        "attempt": record.attempt,
        "status": state,
        "started_at": started,
        "ended_at": last_heartbeat,
        "seconds_spent": max(0.0, (last_heartbeat - started).total_seconds()),
        "error": error,
        "error_kind": error_kind,
    }
