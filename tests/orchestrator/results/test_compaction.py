"""The compacted tables and their list: readers get what a full read of the parts gives."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.results import compaction, part_index, parts, row_reader
from orchestrator.results.schema import TABLES
from orchestrator.results.store import ResultStore
from orchestrator.results.writer import PartWriter

ONE, TWO = "000000000001", "000000000002"


def harm(path, how):
    content = path.read_bytes()
    if how == "remove":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        at = len(content) // 3
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


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
    st.tuples(st.sampled_from(["parts", "tables"]), st.integers(0, 99), st.sampled_from(["flip", "cut", "remove"])),
    st.sampled_from([("compact",), ("recover",), ("copy",)]),
)


def do(store, make_attempt, step):
    if step[0] == "write":
        writer = PartWriter(store)
        for trial, attempt, status, code, minute in step[1]:
            writer.add(make_attempt(trial, attempt, status, code, minute))
        writer.flush()
    elif step[0] == "compact":
        store.compact()
    elif step[0] == "recover":
        store.recover(grace_seconds=-1)
    elif step[0] == "copy":
        # A copy has the same bytes and other stamps.
        shutil.copytree(store.folder, store.folder.with_name("copy"))
        shutil.rmtree(store.folder)
        store.folder.with_name("copy").rename(store.folder)
    else:
        files = sorted(p for p in (store.folder / step[0]).rglob("*") if p.is_file() and "empty" not in p.name)
        if files:
            harm(files[step[1] % len(files)], step[2])


def check_agreement(folder):
    """Compare all that a reader gives with a full read of the parts."""
    quick, full = ResultStore(folder), ResultStore(folder, from_parts=True)
    for table in TABLES:
        assert quick.read(table).equals(full.read(table))
        assert quick.read(table, ["trial_id", "seed"]).equals(full.read(table, ["trial_id", "seed"]))
    assert quick.finished() == full.finished()
    assert quick.pruned() == full.pruned()
    assert quick.damaged == full.damaged


def test_tables_and_parts_agree_after_each_of_some_steps(store, make_attempt):
    old, new = (1, 1, "finished", "old", 0), (1, 2, "finished", "new", 1)
    steps = [("write", [old]), ("compact",), ("write", [new, (2, 1, "pruned", "new", 2)]), ("compact",), ("copy",)]
    for step in [*steps, ("write", [(2, 2, "finished", "new", 3)]), ("parts", 5, "flip"), ("compact",), ("recover",)]:
        do(ResultStore(store.folder), make_attempt, step)
        check_agreement(store.folder)


@pytest.mark.process
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, min_size=2, max_size=8))
def test_tables_and_parts_agree_after_any_steps(steps, make_attempt):
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "results"
        ResultStore(folder).create()
        for step in steps:
            do(ResultStore(folder), make_attempt, step)
            check_agreement(folder)


@pytest.fixture
def opened(monkeypatch):
    """The parts whose receipt or other files were read, as (what, name)."""
    calls = []
    places = {"read_receipt": part_index, "check_digests": part_index, "open_part_file": row_reader}
    for function, module in places.items():
        original = getattr(module, function)

        def record(*arguments, function=function, original=original):
            name = arguments[2] if function == "open_part_file" else arguments[1]
            calls.append((function, name))
            return original(*arguments)

        monkeypatch.setattr(module, function, record)
    return calls


@pytest.fixture
def two(store, write, make_attempt):
    """A compacted store of two parts: the name of the second."""
    write(make_attempt(trial=1))
    name = write(make_attempt(trial=2))
    store.compact()
    return name


def test_of_a_part_in_the_list_no_file_is_read(store, two, opened):
    reader = ResultStore(store.folder)
    assert set(reader.finished()) == {ONE, TWO}
    assert reader.read("metrics").num_rows == 6
    assert reader.recover().set_aside == ()
    reader.compact()
    assert opened == []


def test_of_a_part_outside_the_list_only_the_receipt_is_read_until_rows_are_needed(
    store, two, write, make_attempt, opened
):
    name = write(make_attempt(trial=3))
    reader = ResultStore(store.folder)
    assert len(reader.finished()) == 3
    assert reader.pruned() == frozenset()
    assert reader.statuses() == {(f"{n:012x}", 1): "finished" for n in (1, 2, 3)}
    assert opened == [("read_receipt", name)]
    assert reader.read("scores").num_rows == 6
    assert reader.read("metrics").num_rows == 9
    assert opened[1:] == [("check_digests", name), ("open_part_file", name), ("open_part_file", name)]


def test_a_full_read_reads_every_file_of_every_part(store, two, opened):
    ResultStore(store.folder, from_parts=True).finished()
    assert [call for call, _ in opened] == ["read_receipt", "check_digests"] * 2


def test_files_with_other_stamps_are_compared_with_their_digests(store, two, opened):
    path = store.parts / "metrics" / f"{two}.parquet"
    before = path.stat()
    harm(path, "flip")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    reader = ResultStore(store.folder)
    assert set(reader.finished()) == {ONE}
    assert [damage.path for damage in reader.damaged] == [path]
    assert opened == [("read_receipt", two), ("check_digests", two)]


def test_compaction_of_a_copied_folder_renews_the_stamps_only(store, two, opened):
    copy = store.folder.with_name("copy")
    shutil.copytree(store.folder, copy)
    tables = {path: path.stat().st_mtime_ns for path in (copy / "tables").glob("*.parquet")}
    ResultStore(copy).compact()
    assert {path: path.stat().st_mtime_ns for path in (copy / "tables").glob("*.parquet")} == tables
    del opened[:]
    assert ResultStore(copy).read("metrics").num_rows == 6
    assert opened == []


def test_reading_writes_nothing(store, two, write, make_attempt):
    write(make_attempt(trial=3))
    before = {path: path.stat().st_mtime_ns for path in store.folder.rglob("*")}
    reader = ResultStore(store.folder)
    assert (len(reader.finished()), reader.read("metrics").num_rows, reader.damaged) == (3, 9, ())
    assert {path: path.stat().st_mtime_ns for path in store.folder.rglob("*")} == before


def test_tables_are_written_again_only_for_new_rows(store, two, write, make_attempt):
    def stamps():
        # The inode alone is not enough: a freed one is used again.
        return {
            (path.name, path.stat().st_ino, path.stat().st_mtime_ns) for path in (store.folder / "tables").iterdir()
        }

    first = stamps()
    ResultStore(store.folder).compact()
    assert stamps() == first
    write(make_attempt(trial=3))
    ResultStore(store.folder).compact()
    assert stamps().isdisjoint(first)


def test_tables_and_list_are_synced_before_they_are_renamed(store, write, make_attempt, disk_calls):
    write(make_attempt())
    del disk_calls[:]
    store.compact()
    files = [store.folder / "tables" / f"{table}.parquet" for table in TABLES]
    expected = [f"rename synced to {path}" for path in (*files, store.folder / "tables" / "compacted.json")]
    assert [call for call in disk_calls if call.startswith("rename")] == expected


def test_a_table_of_another_list_is_not_read(store, write, make_attempt):
    write(make_attempt(trial=1))
    store.compact()
    older = (store.folder / "tables/metrics.parquet").read_bytes()
    write(make_attempt(trial=2))
    store.compact()
    (store.folder / "tables/metrics.parquet").write_bytes(older)
    assert ResultStore(store.folder).read("metrics").num_rows == 6


@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_a_damaged_list_costs_time_only(store, two, opened, how):
    harm(store.folder / "tables/compacted.json", how)
    assert ResultStore(store.folder).read("metrics").num_rows == 6
    assert ("check_digests", two) in opened
    ResultStore(store.folder).compact()
    del opened[:]
    assert ResultStore(store.folder).read("metrics").num_rows == 6
    assert opened == []


def test_the_list_names_rows_stamps_and_digests(store, write, make_attempt):
    write(make_attempt(trial=1, attempt=1, rows=4), make_attempt(trial=1, attempt=2, rows=5))
    name = write(make_attempt(trial=2, rows=2))
    store.compact()
    text = (store.folder / "tables/compacted.json").read_bytes().partition(b"\n")[2]
    first, second = json.loads(text)["parts"]
    assert first[4:] == [[[ONE, 2]], [4, 2, 1, 1]]
    assert second[0] == name
    assert second[1] == list(parts.file_stamps(store.parts, name))
    assert second[2] == list(parts.read_receipt(store.parts, name).digests)
    assert second[4:] == [[], [2, 2, 1, 1]]
    listed = compaction.read_list(store.folder).parts
    assert [part.starts for part in listed.values()] == [(0, 0, 0, 0), (4, 2, 1, 1)]


def test_the_second_copy_of_earlier_versions_is_ignored_and_removed(store, write, make_attempt):
    write(make_attempt())
    (store.folder / "index").mkdir()
    (store.folder / "index/compacted.json").write_text("of an earlier version")
    assert len(ResultStore(store.folder).finished()) == 1
    store.compact()
    assert not (store.folder / "index").exists()


FIGURE = 0.5  # The image_auroc of task 0 in the generated metrics.


def flip_unseen(store, table, name, old=FIGURE, new=1.5):
    """Change a figure as a failing disk does, without a new stamp.

    Programs cannot set the change time back, so the list gets the new one instead.
    """
    path = store.parts / table / f"{name}.parquet"
    before, content = path.stat(), path.read_bytes()
    at = content.find(struct.pack("<d", old))
    assert at > 0
    path.write_bytes(content[:at] + struct.pack("<d", new) + content[at + 8 :])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    listed = compaction.read_list(store.folder)
    if name in listed.parts:
        renewed = compaction.replace(listed.parts[name], stamps=parts.file_stamps(store.parts, name))
        compaction.write_list(store.folder, compaction.Compaction(listed.digests, {**listed.parts, name: renewed}))
    return path


def test_unseen_changes_of_a_compacted_part_change_no_row(store, two):
    flip_unseen(store, "metrics", two)
    reader = ResultStore(store.folder)
    rows = reader.read("metrics", ["task", "image_auroc"])
    assert rows.filter(pc.equal(rows["task"], 0))["image_auroc"].to_pylist() == [FIGURE, FIGURE]
    assert reader.damaged == ()


def test_unseen_changes_are_found_when_rows_are_read_from_the_part(store, two):
    path = flip_unseen(store, "metrics", two)
    harm(store.folder / "tables/metrics.parquet", "cut")
    reader = ResultStore(store.folder)
    assert set(reader.finished()) == {ONE, TWO}
    assert set(reader.read("metrics")["trial_id"].to_pylist()) == {ONE}
    assert [damage.path for damage in reader.damaged] == [path]
    assert set(reader.finished()) == {ONE}
    assert set(reader.read("scores")["trial_id"].to_pylist()) == {ONE}
    # The store that found them sets the part aside, although the list trusts it.
    assert [damage.path for damage in reader.recover().set_aside] == [path]
    assert not path.exists()


def test_a_part_that_compaction_finds_changed_leaves_the_list_and_is_set_aside_at_the_next_start(store, two):
    path = flip_unseen(store, "metrics", two)
    harm(store.folder / "tables/metrics.parquet", "cut")
    ResultStore(store.folder).compact()
    assert set(pq.read_table(store.folder / "tables/metrics.parquet")["trial_id"].to_pylist()) == {ONE}
    assert two not in compaction.read_list(store.folder).parts
    assert [damage.path for damage in ResultStore(store.folder).recover().set_aside] == [path]
    assert ResultStore(store.folder).damaged == ()


@pytest.mark.parametrize("table", ["metrics", "attempts"])
def test_unseen_changes_before_the_first_compaction_are_never_compacted(store, write, make_attempt, table):
    write(make_attempt(trial=1))
    name = write(make_attempt(trial=2))
    path = flip_unseen(store, table, name)
    once = ResultStore(store.folder)
    once.compact()
    assert [damage.path for damage in once.damaged] == [path]
    for reader in (ResultStore(store.folder), ResultStore(store.folder, from_parts=True)):
        assert set(reader.read("metrics")["trial_id"].to_pylist()) == {ONE}
        assert set(reader.finished()) == {ONE}


def flipped(content: bytes) -> bytes:
    """With one bit changed in the middle of a column of figures."""
    group = pq.ParquetFile(pa.BufferReader(content)).metadata.row_group(0)
    (column,) = [c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "image_auroc"]
    at = column.dictionary_page_offset + column.total_compressed_size // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("change", [lambda content: b"", lambda content: bytes(len(content)), flipped])
def test_a_table_that_is_overwritten_while_it_is_read_gives_way_to_the_parts(store, write, make_attempt, change):
    write(make_attempt(trial=1, rows=500))
    store.compact()
    before = store.read("metrics")
    path = store.folder / "tables" / "metrics.parquet"
    content = path.read_bytes()

    def mark(_):
        path.write_bytes(change(content))
        return None, pa.array([True] * 500)

    _, rows = ResultStore(store.folder).read_marked("metrics", ["task"], mark, before.column_names)
    assert rows.to_pylist() == before.to_pylist()
    path.write_bytes(content)
    file = compaction.open_table(store.folder, "metrics", compaction.read_list(store.folder))
    path.write_bytes(change(content))
    with pytest.raises(compaction.TableChanged):
        compaction.read_compacted_columns(file, before.column_names)
    with pytest.raises(compaction.TableChanged):
        compaction.read_marked(file, before.column_names, pa.array([True] * 500))
    store.compact()
    assert pq.read_table(path).equals(before)


def test_marked_rows_are_read_batch_by_batch(store, write, make_attempt, monkeypatch):
    monkeypatch.setattr(compaction, "_BATCH", 2)
    write(make_attempt(rows=5))
    store.compact()
    file = compaction.open_table(store.folder, "metrics", compaction.read_list(store.folder))
    rows = compaction.read_marked(file, ["task", "seed"], pa.array([True, False, False, True, True]))
    assert rows.to_pylist() == [{"task": task, "seed": 0} for task in (0, 3, 4)]
    assert compaction.read_compacted_columns(file, ["seed", "task"])["task"].to_pylist() == [0, 1, 2, 3, 4]
