"""Part files: synced before they are renamed, the receipt last, damage found by digests."""

from __future__ import annotations

import hashlib
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.results import parts
from orchestrator.results.parts import DamagedPart
from orchestrator.results.schema import ATTEMPTS, MAPS, TABLES


@pytest.fixture
def part(store, make_attempt):
    """A written part: its name."""
    made = parts.make_part("stem", make_attempt().tables())
    parts.write_part(store.parts, made)
    return made.name


def test_each_file_is_synced_before_it_is_renamed_and_the_receipt_is_last(store, make_attempt, disk_calls):
    made = parts.make_part("stem", make_attempt().tables())
    parts.write_part(store.parts, made)
    paths = [store.parts / table / f"{made.name}.parquet" for table in ("metrics", "scores", "curves", "attempts")]
    assert disk_calls == [
        *(call for path in paths for call in ("sync file", f"rename synced to {path}")),
        f"sync folder {store.parts / 'attempts'}",
    ]


def test_maps_are_synced_and_renamed_before_the_part(store, make_attempt, make_row, disk_calls):
    tables = make_attempt().tables()
    row = tables[ATTEMPTS].to_pylist()[0]
    common = {name: row[name] for name in tables["metrics"].column_names if name in row}
    maps = pa.table({"trial_id": [common["trial_id"]], "attempt": [1], "map": [b"grey"]})
    made = parts.make_part("stem", tables | {MAPS: maps})
    parts.write_part(store.parts, made)
    assert disk_calls[:2] == ["sync file", f"rename synced to {store.folder / 'maps' / f'{made.name}.parquet'}"]
    assert parts.read_maps(store.parts, made.name).equals(maps)


@pytest.mark.parametrize("step", range(4))
def test_a_failed_rename_leaves_nothing_behind(store, make_attempt, monkeypatch, step):
    made = parts.make_part("stem", make_attempt().tables())
    replace, calls = os.replace, []

    def fail_at(source, target):
        calls.append(target)
        if len(calls) == step + 1:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_at)
    with pytest.raises(OSError, match="No space left"):
        parts.write_part(store.parts, made)
    assert [path for path in store.parts.rglob("*stem*") if path.is_file()] == []
    assert len(calls) == step + 1


def test_an_interruption_after_the_last_rename_keeps_the_part(store, make_attempt, monkeypatch):
    made = parts.make_part("stem", make_attempt().tables())
    replace = os.replace

    def interrupt(source, target):
        replace(source, target)
        if "/attempts/" in str(target):
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        parts.write_part(store.parts, made)
    assert sorted(path.parent.name for path in store.parts.rglob(f"{made.name}*")) == sorted(TABLES)


def test_the_receipt_holds_the_sha256_of_the_other_files(store, part):
    content = (store.parts / "attempts" / f"{part}.parquet").read_bytes()
    assert part == f"stem-{hashlib.sha256(content).hexdigest()[:16]}"
    receipt = json.loads(pq.read_schema(pa.BufferReader(content)).metadata[b"digests"])
    for table in ("metrics", "scores", "curves"):
        file = store.parts / table / f"{part}.parquet"
        assert receipt[table] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_receipt_of_an_earlier_version_is_read_from_its_columns(store, make_attempt):
    made = parts.make_part("stem", make_attempt(trial=7, status="pruned", minute=3).tables())
    table = pq.read_table(pa.BufferReader(made.contents[ATTEMPTS]))
    digests = json.loads(table.schema.metadata[b"digests"])
    del digests[ATTEMPTS]
    content = parts.serialise(table.replace_schema_metadata({b"digests": json.dumps(digests).encode()}))
    older = f"older-{hashlib.sha256(content).hexdigest()[:16]}"
    (store.parts / "attempts" / f"{older}.parquet").write_bytes(content)
    parts.write_part(store.parts, made)
    old, new = parts.read_receipt(store.parts, older), parts.read_receipt(store.parts, made.name)
    assert old.digests == new.digests
    (attempt,), (expected,) = old.attempts, new.attempts
    assert (attempt.part, expected.part) == (older, made.name)
    assert (attempt.trial_id, attempt.status, attempt.started_at.minute) == ("000000000007", "pruned", 3)
    assert attempt.to_json() == expected.to_json()


@pytest.mark.parametrize("table", TABLES)
def test_a_file_with_one_flipped_bit_is_damaged(store, part, table):
    receipt = parts.read_receipt(store.parts, part)
    path = store.parts / table / f"{part}.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedPart, match="its bytes are not those that were written") as damaged:
        parts.open_part_file(store.parts, table, part, receipt)
    assert damaged.value.damage.path == path
    check = parts.read_receipt if table == ATTEMPTS else parts.check_digests
    arguments = (store.parts, part) if table == ATTEMPTS else (store.parts, part, receipt)
    with pytest.raises(DamagedPart):
        check(*arguments)


def test_maps_that_differ_from_the_receipt_are_not_read(store, make_attempt):
    maps = pa.table({"map": [b"grey"]})
    made = parts.make_part("stem", make_attempt().tables() | {MAPS: maps})
    parts.write_part(store.parts, made)
    other = pa.table({"map": [b"gray"]})
    parts.maps_file(store.parts, made.name).write_bytes(parts.serialise(other))
    assert parts.read_maps(store.parts, made.name) is None


def test_stamps_change_with_size_and_each_time_of_any_file(store, part):
    before = parts.file_stamps(store.parts, part)
    assert len(before) == 12
    path = store.parts / "curves" / f"{part}.parquet"
    status = path.stat()
    assert before[6:9] == (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    # A program can set the modification time back, but not the change time.
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = parts.file_stamps(store.parts, part)
    assert after[7] == before[7]
    assert after[8] > before[8]
    path.unlink()
    assert parts.file_stamps(store.parts, part) is None


def test_a_part_is_read_into_memory_that_no_thread_returns_to_python(store, write, make_attempt):
    name = write(make_attempt(rows=2000))
    receipt = parts.read_receipt(store.parts, name)
    before = pa.total_allocated_bytes()
    file = parts.open_part_file(store.parts, "metrics", name, receipt)
    size = (store.parts / "metrics" / f"{name}.parquet").stat().st_size
    assert pa.total_allocated_bytes() - before >= size
    assert file.metadata.num_rows == 2000
