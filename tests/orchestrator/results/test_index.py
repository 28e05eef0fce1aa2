"""The index and the compacted tables: whatever they say equals what a full look at the parts says."""

from __future__ import annotations

import json
import os
import struct
import tempfile
import time
from pathlib import Path

import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.results import index
from orchestrator.results import store as results
from orchestrator.results.schema import TABLES
from orchestrator.results.store import FOUND, ResultStore
from orchestrator.results.writer import PartWriter

SHORT_NS = 30_000_000


def settle(store):
    """Wait until every file is so old that the index may hold it."""
    time.sleep(2 * SHORT_NS / 1e9)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Files are old after some hundredths of a second."""
    monkeypatch.setattr(index, "SETTLED_NS", SHORT_NS)


def harm(path, how):
    content = path.read_bytes()
    if how == "remove":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "flip":
        at = len(content) // 3
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    else:
        path.write_bytes(b"")


STEPS = st.one_of(
    st.tuples(
        st.just("write"),
        st.lists(
            st.tuples(
                st.integers(1, 3),
                st.integers(1, 2),
                st.sampled_from(["finished", "pruned", "failed"]),
                st.sampled_from(["old", "new"]),
                st.integers(0, 9),
            ),
            min_size=1,
            max_size=2,
        ),
    ),
    st.tuples(
        st.sampled_from(["parts", "tables", "index"]), st.integers(0, 99), st.sampled_from(["flip", "cut", "remove"])
    ),
    st.sampled_from([("compact",), ("recover",), ("settle",), ("other program",)]),
)


def do(store, make_attempt, step):
    if step[0] == "write":
        writer = PartWriter(store, "worker")
        for trial, attempt, status, code, minute in step[1]:
            writer.add(make_attempt(trial, attempt, status, code, minute))
        writer.flush()
    elif step[0] == "compact":
        store.compact()
    elif step[0] == "recover":
        store.recover(grace_seconds=-1)
    elif step[0] == "settle":
        settle(store)
    elif step[0] == "other program":  # A part comes from elsewhere, or was written before there was an index.
        (store.folder / "index/worker.jsonl").unlink(missing_ok=True)
    else:
        files = sorted(p for p in (store.folder / step[0]).rglob("*") if p.is_file() and "empty" not in p.name)
        if files:
            harm(files[step[1] % len(files)], step[2])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, min_size=2, max_size=9))
def test_the_index_and_a_full_look_say_the_same_whatever_happens(steps, make_attempt):
    with tempfile.TemporaryDirectory() as place:
        writer = ResultStore(Path(place))
        writer.create()
        for step in steps:
            do(ResultStore(Path(place)), make_attempt, step)
            quick, full = ResultStore(Path(place)), ResultStore(Path(place), from_parts=True)
            assert quick.finished() == full.finished()
            assert quick.pruned() == full.pruned()
            assert quick.damaged == full.damaged
            for table in TABLES:
                assert quick.read(table).equals(full.read(table))
                assert quick.read(table, ["trial_id", "seed"]).equals(full.read(table, ["trial_id", "seed"]))


@pytest.fixture
def opened(monkeypatch):
    """The names of the parts that were opened to check them."""
    names = []
    check = results.check_part
    monkeypatch.setattr(
        results, "check_part", lambda parts, name, columns: names.append(name) or check(parts, name, columns)
    )
    return names


def test_what_a_worker_wrote_is_not_read_to_know_that_it_is_whole(store, write, make_attempt, opened):
    name = write(make_attempt())
    assert set(ResultStore(store.folder).finished()) == {"000000000001"}
    assert opened == []
    ResultStore(store.folder, from_parts=True).finished()
    assert opened == [name]


def test_parts_from_before_the_index_are_noted_once_they_are_settled(store, write, make_attempt, opened):
    name = write(make_attempt())
    (store.folder / "index/test.jsonl").unlink()
    store = ResultStore(store.folder)
    store.recover()
    ResultStore(store.folder).finished()
    assert opened == [name, name]  # Fresh: it may change within one tick of the clock.
    settle(store)
    ResultStore(store.folder).recover()
    assert (store.folder / f"index/{FOUND}.jsonl").exists()
    del opened[:]
    assert set(ResultStore(store.folder).finished()) == {"000000000001"}
    assert opened == []


def test_reading_writes_nothing(store, write, make_attempt):
    write(make_attempt())
    (store.folder / "index/test.jsonl").unlink()
    settle(store)
    before = {p: p.stat().st_mtime_ns for p in store.folder.rglob("*")}
    reader = ResultStore(store.folder)
    assert (len(reader.finished()), reader.read("metrics").num_rows, reader.damaged) == (1, 3, ())
    assert {p: p.stat().st_mtime_ns for p in store.folder.rglob("*")} == before


def test_compacted_tables_are_read_in_the_place_of_parts_and_written_again_only_when_something_is_new(
    store, write, make_attempt, monkeypatch
):
    pieces = []
    piece = ResultStore._piece
    monkeypatch.setattr(
        ResultStore, "_piece", lambda self, table, name, *rest: pieces.append(name) or piece(self, table, name, *rest)
    )
    for trial in (1, 2):
        write(make_attempt(trial=trial))
    ResultStore(store.folder).compact()
    tables = store.folder / "tables"
    first = {p: p.stat().st_ino for p in tables.iterdir()}
    del pieces[:]
    ResultStore(store.folder).compact()
    assert {p: p.stat().st_ino for p in tables.iterdir()} == first
    assert ResultStore(store.folder).read("scores").num_rows == 4
    assert pieces == []
    new = write(make_attempt(trial=3))
    assert ResultStore(store.folder).read("scores").num_rows == 6
    assert pieces == [new]
    ResultStore(store.folder).compact()
    assert {p: p.stat().st_ino for p in tables.iterdir()} != first


def test_a_compacted_table_that_is_not_the_listed_one_is_not_read(store, write, make_attempt):
    write(make_attempt(trial=1))
    store.compact()
    older = (store.folder / "tables/metrics.parquet").read_bytes()
    write(make_attempt(trial=2))
    store.compact()
    (store.folder / "tables/metrics.parquet").write_bytes(older)  # Whole, and of another time.
    assert ResultStore(store.folder).read("metrics").num_rows == 6


def test_the_first_line_of_a_folder_that_cannot_be_written_is_lost_and_stops_nothing(store, make_attempt):
    (store.folder / "index").write_text("in the way")
    writer = PartWriter(store, "test")
    writer.add(make_attempt())
    assert writer.flush() is not None
    assert set(ResultStore(store.folder).finished()) == {"000000000001"}


FIGURE = 0.5  # image_auroc of task 0, where it stands in the file of the metrics


def flip_unseen(path, old=FIGURE, new=1.5):
    """Change a figure as a failing disk does: size and times stay. The index is told of the one time that no program
    can set, so that it knows no better."""
    before = path.stat()
    content = path.read_bytes()
    at = content.find(struct.pack("<d", old))
    assert at > 0
    path.write_bytes(content[:at] + struct.pack("<d", new) + content[at + 8 :])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    relate(path.parents[2], lambda told: told | {"files": index.file_stamps(path.parents[1], told["part"])})


def relate(folder, change):
    """Write the index of a folder anew, each line with a change."""
    lines = folder / "index/test.jsonl"
    told = [json.loads(line.partition(b" ")[2]) for line in lines.read_bytes().splitlines()]
    contents = [json.dumps(change(line), separators=(",", ":")).encode() for line in told]
    lines.write_bytes(b"".join(index._digest(content) + b" " + content + b"\n" for content in contents))


def file_of(store, table, name):
    return store.parts / table / f"{name}.parquet"


@pytest.fixture
def two(store, write, make_attempt):
    """A store of two parts: the name of the second."""
    write(make_attempt(trial=1))
    return write(make_attempt(trial=2))


def test_bytes_that_changed_without_a_trace_are_found_when_they_are_read(store, two, opened):
    flip_unseen(file_of(store, "metrics", two))
    reader = ResultStore(store.folder)
    assert set(reader.finished()) == {"000000000001", "000000000002"}  # Planning reads no figures.
    assert set(reader.read("metrics")["trial_id"].to_pylist()) == {"000000000001"}
    assert opened == []
    assert [damage.path for damage in reader.damaged] == [file_of(store, "metrics", two)]
    assert set(reader.finished()) == {"000000000001"}
    assert set(reader.read("scores")["trial_id"].to_pylist()) == {"000000000001"}


def test_bytes_that_changed_without_a_trace_are_never_compacted_and_run_again(store, two):
    path = file_of(store, "metrics", two)
    flip_unseen(path)
    once = ResultStore(store.folder)
    once.compact()
    assert [damage.path for damage in once.damaged] == [path]
    for reader in (ResultStore(store.folder), ResultStore(store.folder, from_parts=True)):
        rows = reader.read("metrics", ["task", "image_auroc"])
        assert rows.filter(pc.equal(rows["task"], 0))["image_auroc"].to_pylist() == [FIGURE]
        assert set(reader.finished()) == {"000000000001"}
        assert [damage.path for damage in reader.damaged] == [path]
    # The next start knows that from the index, and sets the part aside.
    (aside,) = ResultStore(store.folder).recover().set_aside
    assert aside.path == path
    assert ResultStore(store.folder).damaged == ()


def test_bytes_that_are_found_changed_are_set_aside_by_the_store_that_found_them(store, two):
    path = file_of(store, "metrics", two)
    flip_unseen(path)
    reader = ResultStore(store.folder)
    assert set(reader.read("metrics")["trial_id"].to_pylist()) == {"000000000001"}
    assert [damage.path for damage in reader.recover().set_aside] == [path]
    assert set(reader.finished()) == {"000000000001"}


def test_a_receipt_that_changed_without_a_trace_is_found_too(store, two):
    path = file_of(store, "attempts", two)
    flip_unseen(path)
    reader = ResultStore(store.folder)
    assert set(reader.read("attempts")["trial_id"].to_pylist()) == {"000000000001"}
    assert [damage.path for damage in reader.damaged] == [path]


def test_a_doubt_stays_whatever_else_is_said_of_the_part(store, two):
    stamps = index.file_stamps(store.parts, two)
    store.index.note("a later writer", {two: (stamps, None)})
    known = index.PartIndex(store.folder / "index").look()
    assert known[two, stamps] is None
    store.index.note("zz", {two: (stamps, index.IndexedPart((), ()))})
    assert index.PartIndex(store.folder / "index").look()[two, stamps] is None
    # The part is read, and is whole.
    assert set(ResultStore(store.folder).finished()) == {"000000000001", "000000000002"}


def test_lines_of_earlier_versions_are_of_no_part(store, two, opened):
    relate(store.folder, lambda told: told | {"files": [stamps[:2] for stamps in told["files"]]})
    assert set(ResultStore(store.folder).finished()) == {"000000000001", "000000000002"}
    assert len(opened) == 2


def test_a_file_that_was_replaced_by_one_of_the_same_size_and_time_is_checked(store, two, opened):
    path = file_of(store, "metrics", two)
    before = path.stat()
    content = path.read_bytes()
    time.sleep(SHORT_NS / 1e9)
    path.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert set(ResultStore(store.folder).finished()) == {"000000000001"}
    assert opened == [two]
