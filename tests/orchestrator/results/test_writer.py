"""The writer of a worker: at most one part per second, whole attempts, invalid ones dropped."""

from __future__ import annotations

import os

import pyarrow.parquet as pq
import pytest

from moleflow.owner import owner_code
from orchestrator.results.schema import TABLES
from orchestrator.results.writer import InvalidRows, PartWriter


def attempts_of(table):
    return {(t, a) for t, a in zip(table["trial_id"].to_pylist(), table["attempt"].to_pylist(), strict=True)}


def test_at_most_one_part_a_second_each_with_whole_attempts(store, make_attempt):
    now = [100.0]
    writer = PartWriter(store, clock=lambda: now[0])
    assert (writer.seconds_until_due(), writer.due(), writer.flush()) == (None, False, None)
    writer.add(make_attempt(trial=1))
    assert writer.due()
    first = writer.flush()
    writer.add(make_attempt(trial=2))
    now[0] = 100.25
    writer.add(make_attempt(trial=3))
    assert not writer.due()
    assert writer.seconds_until_due() == 0.75
    now[0] = 101.0
    assert writer.due()
    second = writer.flush()
    assert owner_code() in first < second
    for table in TABLES:
        names = sorted(p.stem for p in (store.parts / table).glob("*.parquet"))
        assert names[1:] == [first, second]
    of_second = attempts_of(pq.read_table(store.parts / "metrics" / f"{second}.parquet"))
    assert of_second == {("000000000002", 1), ("000000000003", 1)}


def test_an_invalid_attempt_is_dropped_whole_and_the_others_are_stored(store, make_attempt):
    writer = PartWriter(store)
    for trial in (1, 2, 3):
        rows = make_attempt(trial=trial)
        if trial == 2:
            rows.metrics[1]["pixel_ap"] = float("nan")
        writer.add(rows)
    with pytest.raises(InvalidRows, match=r"metrics\.pixel_ap") as refused:
        writer.flush()
    assert refused.value.errors.keys() == {("000000000002", 1)}
    assert store.finished() == {}
    writer.flush()
    assert store.finished().keys() == {"000000000001", "000000000003"}
    assert writer.flush() is None


def test_rows_stay_for_another_try_after_a_full_disk(store, make_attempt, monkeypatch):
    writer = PartWriter(store)
    writer.add(make_attempt())

    def full(source, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            writer.flush()
    assert store.finished() == {}
    assert writer.due()
    writer.flush()
    assert len(store.finished()) == 1


def test_rows_are_written_once_although_an_interruption_follows_the_last_rename(store, make_attempt, monkeypatch):
    writer = PartWriter(store)
    writer.add(make_attempt())
    replace = os.replace

    def interrupt(source, target):
        replace(source, target)
        if "/attempts/" in str(target):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            writer.flush()
    assert writer.flush() is None
    assert store.read("metrics").num_rows == 3


def test_rows_of_other_tables_get_the_common_columns(make_attempt):
    tables = make_attempt(trial=7, attempt=2, seed=5).tables()
    for table in TABLES:
        assert set(tables[table]["trial_id"].to_pylist()) == {"000000000007"}
        assert set(tables[table]["attempt"].to_pylist()) == {2}
        assert set(tables[table]["seed"].to_pylist()) == {5}
    assert [tables[table].num_rows for table in TABLES] == [3, 2, 1, 1]
