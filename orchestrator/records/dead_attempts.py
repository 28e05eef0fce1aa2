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
    if not (running := [record for record in map(attempts.reread, dead) if record.stored_state == RUNNING]):
        return []
    ended = {
        record.path
        for record in running
        if attempts.claim_end(record.trial_id, record.attempt, record.content if certain else None)
    }
    # Asked once the ends are claimed: whoever claimed them before may have stored rows and died.
    statuses = store.statuses(fresh=True)
    writer = PartWriter(store)
    unstored: list[tuple[AttemptRecord, str, dict[str, Any]]] = []
    for record in running:
        last_heartbeat = _last_heartbeat(record)
        status = statuses.get((record.trial_id, record.attempt))
        if status is not None:
            attempts.close(record, status, last_heartbeat.timestamp())
            continue
        if record.path not in ended:
            continue
        stall = read_stall(record)
        end = FAILED if stall else state
        known = {"error": error, "error_kind": error_kind if state == FAILED else STOPPED, "traceback": None}
        known = stall.facts if stall else known
        if {"row", "started_at"} <= record.content.keys():
            writer.add(AttemptRows(_row(record, last_heartbeat, end, known)))
        epochs = logged_epochs(store.folder, record.content.get("row", {}).get("worker", ""), record)
        unstored.append((record, end, {"ended_at": last_heartbeat.timestamp(), **known, "epochs": epochs}))
    # The rows come first. If this driver dies in between, the next one finds them.
    try:
        writer.flush()
    except InvalidRows:  # Of records that no worker wrote. Those are left out now.
        writer.flush()
    for record, end, facts in unstored:
        attempts.close(record, end, **facts)
        files.remove(stall_file(record.path))
    return [attempts.reread(record) for record, _, _ in unstored]


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
