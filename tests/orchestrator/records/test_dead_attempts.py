"""Dead attempts get a row and an end; attempts with stored rows get their status."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

from moleflow.owner import process_identity
from orchestrator.records.attempts import DIED, FAILED, FINISHED, WORKER_DIED, AttemptFolder, write_json
from orchestrator.records.dead_attempts import UNSEEN, record_dead_attempts
from orchestrator.results.store import ResultStore

LAST_SIGN = 1_800_000_000.0


@pytest.fixture
def left(finished):
    """A finished sweep with two records of a dead driver: one with stored rows, one without."""
    records = AttemptFolder(finished / "results/small/attempts")
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    done, other = records.all()[:2]
    row = dict(other.content["row"])
    for record, number in ((done, 1), (other, 2)):
        path = records.folder / f"{record.trial_id}-{number}.json"
        owner = {**process_identity(), "pid": process.pid, "started": None, "row": row}
        write_json(
            path,
            {"trial_id": record.trial_id, "attempt": number, "state": "running", "started_at": LAST_SIGN - 60, **owner},
        )
        os.utime(path, (LAST_SIGN, LAST_SIGN))
    return records, ResultStore(finished / "results/small"), done.trial_id, other.trial_id


def test_the_dead_get_a_row_and_those_that_had_ended_their_state(left):
    records, store, done, other = left
    dead = [record for record in records.all() if record.state == DIED]
    assert {(record.trial_id, record.attempt) for record in dead} == {(done, 1), (other, 2)}
    assert [record.trial_id for record in record_dead_attempts(records, store, dead, UNSEEN)] == [other]
    assert [record.state for record in records.of_trial(done)] == [FINISHED]
    assert [record.state for record in records.of_trial(other)] == [FINISHED, FAILED]
    rows = {(row["trial_id"], row["attempt"]): row for row in store.read("attempts").to_pylist()}
    assert len(rows) == 5
    row = rows[other, 2]
    assert (row["status"], row["error"], row["error_kind"]) == ("failed", UNSEEN, WORKER_DIED)
    assert row["ended_at"] == datetime.fromtimestamp(LAST_SIGN, UTC)
    assert row["seconds_spent"] == 60.0
    assert (row["device"], row["config"]) == (rows[other, 1]["device"], rows[other, 1]["config"])
    assert len(store.finished()) == 4


def test_dead_attempts_are_recorded_once(left):
    records, store, *_ = left
    record_dead_attempts(records, store, [record for record in records.all() if record.state == DIED], UNSEEN)
    assert not [record for record in records.all() if record.state == DIED]


def test_a_record_cut_off_while_it_was_made_has_no_row_to_give(finished):
    records, store = AttemptFolder(finished / "results/small/attempts"), ResultStore(finished / "results/small")
    path = records.folder / "0123456789ab-1.json"
    path.write_text("")
    os.utime(path, (time.time() - 3600,) * 2)
    assert len(record_dead_attempts(records, store, records.of_trial("0123456789ab"), UNSEEN)) == 1
    assert records.of_trial("0123456789ab")[0].state == FAILED
    assert store.read("attempts").num_rows == 4
