"""The result store: every row that counts once, despite duplicates, damage and dead writers."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

import orchestrator.results.recovery
from moleflow.errors import InvalidInput
from moleflow.owner import owner_code
from orchestrator.results import parts
from orchestrator.results.schema import TABLES, arrow_schema
from orchestrator.results.store import ResultStore


def attempts_of(table):
    return {(t, a) for t, a in zip(table["trial_id"].to_pylist(), table["attempt"].to_pylist(), strict=True)}


def test_what_is_written_is_read_with_the_explicit_schema(store, write, make_attempt):
    rows = make_attempt()
    write(rows)
    for table in TABLES:
        got = store.read(table)
        assert got.schema == arrow_schema(table)
        assert got.to_pylist() == rows.tables()[table].to_pylist()
    assert store.read("metrics", ["task", "image_auroc"]).to_pylist() == [
        {"task": k, "image_auroc": 0.5 + k} for k in range(3)
    ]


def test_a_new_store_is_empty_for_every_reader(store):
    import duckdb
    import polars

    for table in TABLES:
        folder = store.parts / table
        assert store.read(table).num_rows == 0
        assert pyarrow.dataset.dataset(folder).to_table().schema.names == arrow_schema(table).names
        assert polars.read_parquet(folder).columns == arrow_schema(table).names
        assert duckdb.sql(f"select count(*) from '{folder}/*.parquet'").fetchall() == [(0,)]


def test_a_folder_without_results_is_an_invalid_input(tmp_path):
    with pytest.raises(InvalidInput, match="give the folder that a sweep wrote"):
        ResultStore(tmp_path).finished()
    assert list(tmp_path.iterdir()) == []


def test_of_two_finished_attempts_the_lower_number_counts(store, write, make_attempt):
    write(make_attempt(attempt=2, minute=1))
    write(make_attempt(attempt=1, minute=5))
    write(make_attempt(attempt=3, status="failed", minute=9))
    assert {t: f.attempt for t, f in store.finished().items()} == {"000000000001": 1}
    for table in TABLES:
        assert attempts_of(store.read(table)) == {("000000000001", 1), ("000000000001", 3)}
    assert store.read("metrics").num_rows == 6


def test_the_same_attempt_written_twice_is_read_once(store, write, make_attempt):
    write(make_attempt())
    write(make_attempt())
    assert store.read("metrics").num_rows == 3
    assert store.read("attempts").num_rows == 1


@pytest.mark.parametrize("finished_first", [True, False])
def test_two_rows_of_one_attempt_are_read_as_one_and_repaired(store, write, make_attempt, finished_first):
    """Earlier code took a live worker for dead, stored a row for it, and the worker its own."""
    other = make_attempt(trial=2)
    states = ["finished", "failed"] if finished_first else ["failed", "finished"]
    written = [write(make_attempt(status=states[0]), other), write(make_attempt(status=states[1]))]
    import duckdb

    wrong = parts.part_file(store.parts, "attempts", written[states.index("failed")])
    raw = f"select count(*), count(distinct trial_id) from '{store.parts}/attempts/*.parquet'"
    assert duckdb.sql(raw).fetchall() == [(3, 2)]

    def readers_see() -> None:
        for reader in (store, ResultStore(store.folder)):
            assert reader.statuses() == {("000000000001", 1): "finished", ("000000000002", 1): "finished"}
            rows = reader.read("attempts").to_pylist()
            assert [(row["trial_id"], row["status"]) for row in sorted(rows, key=lambda row: row["trial_id"])] == [
                ("000000000001", "finished"),
                ("000000000002", "finished"),
            ]
            assert reader.read("metrics").num_rows == 6

    readers_see()
    store.compact()
    readers_see()
    assert store.recover().doubled == (wrong,)
    readers_see()
    assert duckdb.sql(raw).fetchall() == [(2, 2)]
    assert (store.folder / "damaged" / "attempts" / wrong.name).exists()
    assert store.recover().doubled == ()


def test_across_code_versions_the_most_recently_started_finished_group_counts(store, write, make_attempt):
    write(make_attempt(attempt=1, code="old", minute=1), make_attempt(attempt=2, code="new", minute=2))
    write(make_attempt(attempt=3, code="new", minute=3))
    write(make_attempt(attempt=4, code="newest", minute=4, status="failed"))
    finished = store.finished()["000000000001"]
    assert (finished.attempt, finished.code_digest) == (2, "new")
    # One more attempt by the old code makes that group count, and in it the lowest number.
    write(make_attempt(attempt=5, code="old", minute=9))
    assert (store.finished()["000000000001"].attempt, store.finished()["000000000001"].code_digest) == (1, "old")


@pytest.mark.parametrize("status", ["failed", "pruned", "interrupted"])
def test_an_unfinished_attempt_is_stored_and_does_not_count(store, write, make_attempt, status):
    write(make_attempt(status=status))
    assert store.finished() == {}
    assert store.read("attempts", ["status"]).to_pylist() == [{"status": status}]


def test_compacted_tables_lie_outside_parts_and_hold_the_rows_that_count(store, write, make_attempt):
    write(make_attempt(trial=1, attempt=1), make_attempt(trial=1, attempt=2), make_attempt(trial=2, status="failed"))
    before = {p: p.read_bytes() for p in store.parts.rglob("*.parquet")}
    store.compact()
    write(make_attempt(trial=3))
    store.compact()
    assert before.items() <= {p: p.read_bytes() for p in store.parts.rglob("*.parquet")}.items()
    names = {path.name for path in (store.folder / "tables").iterdir()}
    assert names == {"metrics.parquet", "scores.parquet", "curves.parquet", "attempts.parquet", "compacted.json"}
    for table in TABLES:
        assert pq.read_table(store.folder / "tables" / f"{table}.parquet").equals(store.read(table))
    assert attempts_of(store.read("metrics")) == {(f"{n:012x}", 1) for n in (1, 2, 3)}


@pytest.mark.parametrize("compacted", [0, 1, 2, 3])
def test_marked_rows_are_selected_from_parts_and_tables_alike(store, write, make_attempt, compacted):
    for trial in (1, 2, 3):
        write(make_attempt(trial=trial, rows=4), make_attempt(trial=trial, attempt=2, rows=5))
        if trial == compacted:
            store.compact()
    rows = store.read("metrics")
    wanted = [task % 2 == 1 for task in rows["task"].to_pylist()]

    def mark(by):
        assert by.column_names == ["task", "trial_id"]
        assert by["trial_id"].equals(rows["trial_id"])
        return "result", pa.array(wanted)

    result, some = ResultStore(store.folder).read_marked(
        "metrics", ["task", "trial_id"], mark, ["aupro", "task", "sweep"]
    )
    assert result == "result"
    assert some.column_names == ["aupro", "task", "sweep"]
    assert some.to_pylist() == rows.select(["aupro", "task", "sweep"]).filter(pa.array(wanted)).to_pylist()
    assert some.num_rows == 6


def test_marked_rows_leave_out_a_part_that_is_damaged_meanwhile(store, write, make_attempt):
    write(make_attempt(trial=1))
    name = write(make_attempt(trial=2))
    reader = ResultStore(store.folder)
    assert len(reader.finished()) == 2
    (store.parts / "metrics" / f"{name}.parquet").write_bytes(b"PAR1")
    _, some = reader.read_marked("metrics", ["task"], lambda by: (None, pa.array([True] * len(by))), ["trial_id"])
    assert set(some["trial_id"].to_pylist()) == {"000000000001"}
    assert len(reader.damaged) == 1


def test_a_part_that_was_incomplete_when_first_seen_is_not_set_aside(store, write, make_attempt):
    name = write(make_attempt())
    part, away = store.parts / "scores" / f"{name}.parquet", store.folder / "away"
    part.rename(away)
    reader = ResultStore(store.folder)
    assert (reader.finished(), len(reader.damaged)) == ({}, 1)
    away.rename(part)
    assert reader.recover().set_aside == ()
    assert len(reader.finished()) == 1
    assert part.exists()


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [cut, flip, empty, os.unlink])
@pytest.mark.parametrize("table", TABLES)
def test_a_damaged_part_is_named_and_its_attempts_are_not_finished(
    store, write, make_attempt, table, harm, monkeypatch
):
    # Its writer, which is this process.
    monkeypatch.setattr(orchestrator.results.recovery, "code_is_gone", lambda code: True)
    good, bad = write(make_attempt(trial=1)), write(make_attempt(trial=2))
    path = store.parts / table / f"{bad}.parquet"
    harm(path)
    for reader in (store, ResultStore(store.folder)):
        for other in TABLES:
            assert attempts_of(reader.read(other)) == {("000000000001", 1)}
        assert set(reader.finished()) == {"000000000001"}
        without_receipt = table == "attempts" and harm is os.unlink  # then it was never finished: nothing to name
        assert [d.path for d in reader.damaged] == ([] if without_receipt else [path])
        assert all(d.reason for d in reader.damaged)

    recovered = store.recover(grace_seconds=-1)
    assert [d.path for d in recovered.set_aside] == ([] if without_receipt else [path])
    assert store.damaged == ()
    for other in TABLES:
        assert {p.stem for p in (store.parts / other).glob("*.parquet")} == {"00000000-empty", good}
        aside = store.folder / "damaged" / other / f"{bad}.parquet"
        assert aside.exists() == (not without_receipt and (harm is not os.unlink or other != table))
    assert pyarrow.dataset.dataset(store.parts / "metrics").to_table().num_rows == 3
    write(make_attempt(trial=2, attempt=2))
    assert set(store.finished()) == {"000000000001", "000000000002"}


def test_a_part_without_a_newer_nullable_column_is_read_with_nulls(store, make_attempt):
    tables = make_attempt().tables()
    older = tables | {"metrics": tables["metrics"].drop_columns(["aupro"])}
    parts.write_part(store.parts, parts.make_part("older", older))
    assert store.read("metrics")["aupro"].to_pylist() == [None] * 3
    other = tables | {"curves": tables["curves"].drop_columns(["epoch"])}
    parts.write_part(store.parts, parts.make_part("other", other))
    with pytest.raises(InvalidInput, match=r"other-.*\.parquet: has no column epoch"):
        store.read("curves")


def test_real_parts_from_before_a_column_are_read_beside_newer_ones(store, write, make_attempt):
    parts = Path(__file__).parent / "before_normal_latent_norm"
    shutil.copytree(parts, store.parts, dirs_exist_ok=True)
    older = pyarrow.dataset.dataset(parts / "metrics").to_table()
    assert older.num_rows > 0
    assert "normal_latent_norm" not in older.schema.names
    write(make_attempt())
    store.compact()
    for table in (store.read("metrics"), pq.read_table(store.folder / "tables" / "metrics.parquet")):
        assert store.damaged == ()
        assert table.schema == arrow_schema("metrics")
        assert Counter(table["image_auroc"].to_pylist()) == Counter([*older["image_auroc"].to_pylist(), 0.5, 1.5, 2.5])
        norms = dict(zip(table["trial_id"].to_pylist(), table["normal_latent_norm"].to_pylist(), strict=True))
        assert norms == dict.fromkeys(older["trial_id"].to_pylist()) | {"000000000001": 2.5}


def test_each_start_time_decides_between_equal_attempt_numbers(store, write, make_attempt):
    write(make_attempt(attempt=1, minute=5, rows=4))
    write(make_attempt(attempt=1, minute=2, rows=2))
    assert store.finished()["000000000001"].started_at.minute == 2


def test_a_trial_that_finished_after_it_was_pruned_is_not_pruned(store, write, make_attempt):
    write(make_attempt(trial=1, status="pruned"), make_attempt(trial=2, status="pruned"))
    write(make_attempt(trial=1, attempt=2))
    assert store.pruned() == {"000000000002"}
    assert store.statuses() == {
        ("000000000001", 1): "pruned",
        ("000000000002", 1): "pruned",
        ("000000000001", 2): "finished",
    }


def test_recovery_removes_the_files_of_dead_writers_and_the_old_ones_of_other_hosts(
    store, write, make_attempt, dead_pid
):
    name = write(make_attempt())
    here, elsewhere, digest = owner_code(dead_pid), "00000000-1", "0123456789abcdef"
    gone = [
        store.parts / "scores" / f"then-{here}-{digest}.parquet",
        store.parts / ".tmp" / f".x.{here}-0123456789ab.tmp",
        store.parts / "scores" / f"old-{elsewhere}-{digest}.parquet",
        store.parts / ".tmp" / f".x.{elsewhere}-0123456789ab.tmp",
        store.parts / ".tmp" / ".x.1.tmp",  # As earlier code named it.
    ]
    kept = [
        store.parts / "scores" / f"then-{owner_code()}-{digest}.parquet",
        store.parts / ".tmp" / f".x.{owner_code()}-0123456789ab.tmp",
        store.parts / "scores" / f"young-{elsewhere}-{digest}.parquet",
        store.parts / ".tmp" / f".young.{elsewhere}-0123456789ab.tmp",
    ]
    for path in gone + kept:
        path.write_bytes(b"half")
    for path in gone[2:]:
        os.utime(path, (time.time() - 3700, time.time() - 3700))
    assert set(store.recover().removed) == set(gone)
    assert all(path.exists() for path in kept)
    assert (store.parts / "scores" / f"{name}.parquet").exists()


def test_equal_digests_mean_equal_rows(store, write, make_attempt):
    empty = store.digest()
    write(make_attempt())
    first = ResultStore(store.folder).digest()
    assert len({empty, first, store.digest()}) == 2
    path = max((store.parts / "scores").iterdir())
    path.unlink()
    assert ResultStore(store.folder).digest() != first


def test_a_part_whose_receipt_is_renamed_during_recovery_is_kept(store, write, make_attempt, monkeypatch):
    name = write(make_attempt())
    listdir = os.listdir

    def list_late(folder):
        names = listdir(folder)
        return names if Path(folder).name != "attempts" else [each for each in names if name not in each]

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", list_late)
        assert store.recover(grace_seconds=-1).removed == ()
    assert len(store.finished()) == 1
    assert store.read("scores").num_rows == 2
