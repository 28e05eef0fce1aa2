"""Attempts whose process died: their end is written into the record and the attempts table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from moleflow import files
from orchestrator.records.attempts import FAILED, RUNNING, STOPPED, WORKER_DIED, AttemptFolder, AttemptRecord
from orchestrator.records.event_log import logged_epochs
from orchestrator.records.stalls import read_stall, stall_file
from orchestrator.results.store import ResultStore
from orchestrator.results.writer import AttemptRows, InvalidRows, PartWriter

UNSEEN = "its process is gone and left no word: it was killed, or the machine went down"


def record_dead_attempts(
    attempts: AttemptFolder,
    store: ResultStore,
    dead: Sequence[AttemptRecord],
    error: str,
    state: str = FAILED,
    error_kind: str = WORKER_DIED,
    certain: bool = False,
) -> list[AttemptRecord]:
    """Write the end of dead attempts; one whose rows were stored before it died gets their status.

    Args:
        attempts: the folder of the records.
        store: the store that gets a row of each attempt.
        dead: the records of attempts whose process is gone.
        error: the cause of death, as far as it is known.
        state: failed, or interrupted if the attempt itself was not the cause.
        error_kind: the class of the error of failed attempts; one that stalled gets its own error.
        certain: the processes have ended for certain, since their scheduler says so.

    Returns:
        The records of attempts that got their row here. Another process may be writing that of the
        others: their worker, if it only slept, or another driver.

    Raises:
        OSError: the disk is full or not writable; the rest is found dead at the next start.

    """
    running = [record for record in map(attempts.reread, dead) if record.stored_state == RUNNING]
    claimed = [
        record
        for record in running
        if attempts.claim_end(record.trial_id, record.attempt, record.content if certain else None)
    ]
    # Asked once the ends are claimed: whoever claimed them before may have stored rows and died.
    statuses = store.statuses(fresh=True) if running else {}
    for record in running:
        status = statuses.get((record.trial_id, record.attempt))
        if status is not None:
            attempts.close(record, status, _last_heartbeat(record).timestamp())
    unstored = [record for record in claimed if (record.trial_id, record.attempt) not in statuses]
    known = {"error": error, "error_kind": error_kind if state == FAILED else STOPPED, "traceback": None}
    if unstored:
        _store_ends(attempts, store, [(record, *_end(record, state, known)) for record in unstored])
    return [attempts.reread(record) for record in unstored]


def _end(record: AttemptRecord, state: str, known: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the state and the error of an attempt: its own, if it left word that it stalled."""
    stall = read_stall(record)
    return (FAILED, stall.facts) if stall else (state, known)


def _store_ends(
    attempts: AttemptFolder, store: ResultStore, ends: Sequence[tuple[AttemptRecord, str, Mapping[str, Any]]]
) -> None:
    """Write the rows of attempts, then their ends, so that the next driver finds the rows."""
    writer = PartWriter(store)
    closing = []
    for record, state, known in ends:
        last_heartbeat = _last_heartbeat(record)
        if {"row", "started_at"} <= record.content.keys():
            writer.add(AttemptRows(_row(record, last_heartbeat, state, known)))
        epochs = logged_epochs(store.folder, record.content.get("row", {}).get("worker", ""), record)
        closing.append((record, state, {"ended_at": last_heartbeat.timestamp(), **known, "epochs": epochs}))
    try:
        writer.flush()
    except InvalidRows:  # Of records that no worker wrote. Those are left out now.
        writer.flush()
    for record, state, facts in closing:
        attempts.close(record, state, **facts)
        files.remove(stall_file(record.path))


def _last_heartbeat(record: AttemptRecord) -> datetime:
    stamped = files.stat_of(record.path)
    return datetime.fromtimestamp(stamped.st_mtime, UTC) if stamped else datetime.now(UTC)


def _row(record: AttemptRecord, last_heartbeat: datetime, state: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """The row of the attempts table: the columns in the record, and the end."""
    started = datetime.fromtimestamp(record.content["started_at"], UTC)
    return {
        **record.content["row"],
        "trial_id": record.trial_id,
        "attempt": record.attempt,
        "status": state,
        "started_at": started,
        "ended_at": last_heartbeat,
        "seconds_spent": max(0.0, (last_heartbeat - started).total_seconds()),
        **known,
    }
