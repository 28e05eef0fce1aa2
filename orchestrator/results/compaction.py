"""The compacted tables: one file per table with the rows that count, and a list of their parts.

- `tables/<table>.parquet`: the rows that count.
- `tables/compacted.json`: for each part the stamps and digests of its files, its attempts, and its
  rows in the tables.

All of it is a copy of `parts/` that saves reading 10,000 small files. A part in the list is
unchanged while its files have the stamps in the list; otherwise their digests decide. The list
also has the digest of each table, so a table that is damaged, or belongs to another list, is not
read; the parts are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from moleflow import files
from orchestrator.results import parts
from orchestrator.results.parts import Receipt, Stamps, StoredAttempt, serialise, temporary_folder
from orchestrator.results.schema import TABLES, arrow_schema

LIST = "compacted.json"
_BATCH = 2**16
"""Rows, and bytes of a column, that are read of a table at a time, to save memory."""
LeftOut = tuple[tuple[str, int], ...]
"""(trial id, number) of the finished attempts of a part that do not count."""


@dataclass(frozen=True)
class CompactedPart:
    """A part in the compacted tables.

    Attributes:
        stamps: its files' stamps when they were compared with their digests.
        receipt: its attempts and digests.
        left_out: its attempts whose rows are not in the tables.
        rows: the number of its rows in each table, in the order of TABLES.
        starts: its first row in each table.

    """

    stamps: Stamps
    receipt: Receipt
    left_out: LeftOut
    rows: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Compaction:
    """The compacted tables of a folder: the SHA-256 of each file, and the parts in them by name."""

    digests: Mapping[str, str]
    parts: Mapping[str, CompactedPart]


NOTHING = Compaction({}, {})


def table_file(folder: Path, table: str) -> Path:
    """The path of a compacted table of the results in `folder`."""
    return folder / "tables" / f"{table}.parquet"


def list_file(folder: Path) -> Path:
    """The path of the list."""
    return folder / "tables" / LIST


def read_list(folder: Path) -> Compaction:
    """The list of the compacted tables in `folder`; empty if it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        digest, _, content = files.read(list_file(folder)).partition(b"\n")
        if digest != hashlib.sha256(content).hexdigest().encode():
            return NOTHING
        stored = json.loads(content)
        compacted: dict[str, CompactedPart] = {}
        starts = (0,) * len(TABLES)
        for name, stamps, digests, attempts, left_out, rows in stored["parts"]:
            receipt = Receipt(tuple(digests), tuple(StoredAttempt.from_json(name, values) for values in attempts))
            compacted[name] = CompactedPart(tuple(stamps), receipt, tuple(map(tuple, left_out)), tuple(rows), starts)
            starts = tuple(start + count for start, count in zip(starts, rows, strict=True))
        return Compaction(stored["tables"], compacted)
    return NOTHING


class TableChanged(Exception):
    """A compacted table changed after it was opened: another process or the disk changed it."""


def open_table(folder: Path, table: str, compaction: Compaction) -> pq.ParquetFile | None:
    """A compacted table; None if it differs from the list, or was written with another schema.

    Its digest is compared here. Later reads are compared with the checksums of its pages.
    """
    if table not in compaction.digests:
        return None
    with contextlib.suppress(OSError, pa.ArrowException):
        files.open_file(table_file(folder, table)).close()  # A pipe in its place would hang below.
        content = pa.OSFile(str(table_file(folder, table)))
        if hashlib.file_digest(content, "sha256").hexdigest() != compaction.digests[table]:
            return None
        content.seek(0)
        file = pq.ParquetFile(content, pre_buffer=False, buffer_size=_BATCH, page_checksum_verification=True)
        if file.schema_arrow.equals(arrow_schema(table), check_metadata=False):
            return file
    return None


def read_compacted_columns(file: pq.ParquetFile, columns: Sequence[str]) -> pa.Table:
    """Columns of a compacted table.

    Raises:
        TableChanged: it changed since it was opened.

    """
    with _expect_all_rows(file) as check_count:
        table = parts.read_columns(file, columns).select(columns)
        check_count(table.num_rows)
    return table


def read_marked(file: pq.ParquetFile, columns: Sequence[str], mask: pa.BooleanArray) -> pa.Table:
    """Columns of the rows of a compacted table for which `mask` (one value per row) is true.

    Raises:
        TableChanged: it changed since it was opened.

    """
    kept, start = [], 0
    with _expect_all_rows(file) as check_count:
        for batch in file.iter_batches(_BATCH, columns=list(columns), use_threads=False):
            kept.append(batch.select(columns).filter(mask.slice(start, len(batch))))
            start += len(batch)
        check_count(start)
    return pa.Table.from_batches(kept, pa.schema([file.schema_arrow.field(name) for name in columns]))


@contextlib.contextmanager
def _expect_all_rows(file: pq.ParquetFile) -> Iterator[Callable[[int], None]]:
    """Turn errors of reading into TableChanged; yield a check of the number of rows read."""

    def check_count(rows: int) -> None:
        # A file that was cut off may yield fewer rows without an error.
        if rows != file.metadata.num_rows:
            raise TableChanged(f"{rows} of {file.metadata.num_rows} rows")

    try:
        yield check_count
    except (OSError, pa.ArrowException) as error:
        raise TableChanged(str(error)) from error


def write_tables(
    folder: Path, tables: Iterator[tuple[str, pa.Table, Mapping[str, int]]], compacted: Mapping[str, CompactedPart]
) -> None:
    """Write the compacted tables, then their list.

    Args:
        folder: the results folder.
        tables: name, rows and number of rows by part; the parts in the order of `compacted`.
        compacted: the parts; their `rows` and `starts` are found here.

    Raises:
        OSError: the disk is full or not writable; each file that was not replaced stays.

    """
    files.make_folder(folder / "tables")
    digests, rows = {}, {}
    for table, content, rows[table] in tables:
        data = serialise(content)
        digests[table] = hashlib.sha256(data).hexdigest()
        files.write_atomically(table_file(folder, table), data, folder=temporary_folder(folder / "parts"))
    listed = {
        name: replace(part, rows=tuple(rows[table][name] for table in TABLES)) for name, part in compacted.items()
    }
    write_list(folder, Compaction(digests, listed))
    # Earlier versions kept a second copy there. Nothing reads it any more.
    shutil.rmtree(folder / "index", ignore_errors=True)


def write_list(folder: Path, compaction: Compaction) -> None:
    """Write the list of the compacted tables.

    Raises:
        OSError: the disk is full or not writable; the list stays as it was.

    """
    listed = [
        [
            name,
            part.stamps,
            part.receipt.digests,
            [attempt.to_json() for attempt in part.receipt.attempts],
            part.left_out,
            part.rows,
        ]
        for name, part in compaction.parts.items()
    ]
    text = json.dumps({"tables": compaction.digests, "parts": listed}, separators=(",", ":")).encode()
    digest = hashlib.sha256(text).hexdigest().encode()
    files.write_atomically(list_file(folder), digest + b"\n" + text, folder=temporary_folder(folder / "parts"))
