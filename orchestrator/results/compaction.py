"""Compacted tables: the rows of many parts in one file a table, and a list of whose rows stand where in it.

They are copies. The list names the digest of each file, so that a table that is damaged, or of another list, is not read; the parts are
read then. A part's name holds the digest of what is in it, so that rows under a name are the rows of that part.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from moleflow.files import write_atomically
from orchestrator.results import parts
from orchestrator.results.parts import serialise, temporary_folder
from orchestrator.results.schema import TABLES, arrow_schema

FILE = "compacted.json"
_AT_ONCE = 2**16
"""Rows, and bytes of a column: what is read of a table at a time, so that the memory is that of what is kept."""
Left = tuple[tuple[str, int], ...]
"""(trial id, number) of the attempts of a part that do not count."""


@dataclass(frozen=True)
class HeldRows:
    """What a compacted table holds of a part: `rows` rows from row `start` on, those of the attempts `left` not among them."""

    start: int
    rows: int
    left: Left


@dataclass(frozen=True)
class Compaction:
    """What the compacted tables of a results folder hold: the digest of each file, and by table what there is of each part."""

    digests: Mapping[str, str]
    held: Mapping[str, Mapping[str, HeldRows]]

    def covers(self, parts: Mapping[str, Left]) -> bool:
        """Whether they hold these parts with these attempts left out, and no others."""
        return {name: held.left for name, held in self.held[TABLES[0]].items()} == parts


NOTHING = Compaction({}, {table: {} for table in TABLES})


def file_of(folder: Path, table: str) -> Path:
    """Where a compacted table of the results in `folder` is."""
    return folder / "tables" / f"{table}.parquet"


def read_list(folder: Path) -> Compaction:
    """What the compacted tables in `folder` hold; nothing, where that is not known for certain."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        digest, _, content = (folder / "index" / FILE).read_bytes().partition(b"\n")
        if digest != hashlib.sha256(content).hexdigest().encode():
            return NOTHING
        told = json.loads(content)
        held: dict[str, dict[str, HeldRows]] = {table: {} for table in TABLES}
        start = dict.fromkeys(TABLES, 0)
        for name, rows, left in told["parts"]:
            gone = tuple((trial, attempt) for trial, attempt in left)
            for table, count in zip(TABLES, rows, strict=True):
                held[table][name] = HeldRows(start[table], count, gone)
                start[table] += count
        return Compaction(told["tables"], held)
    return NOTHING


class TableChanged(Exception):
    """A compacted table that was the right one when it was opened can no longer be read: somebody else has changed it, or the disk."""


def open_table(folder: Path, table: str, known: Compaction) -> pq.ParquetFile | None:
    """A compacted table; None where it is not the one that the list knows, or was written with another schema.

    Its digest is taken here, and what is read later is compared with the checksums of its pages.
    """
    if table not in known.digests:
        return None
    with contextlib.suppress(OSError, pa.ArrowException):
        content = pa.OSFile(str(file_of(folder, table)))
        if hashlib.file_digest(content, "sha256").hexdigest() != known.digests[table]:
            return None
        content.seek(0)
        file = pq.ParquetFile(content, pre_buffer=False, buffer_size=_AT_ONCE, page_checksum_verification=True)
        if file.schema_arrow.equals(arrow_schema(table), check_metadata=False):
            return file
    return None


def read_compacted_columns(file: pq.ParquetFile, columns: Sequence[str]) -> pa.Table:
    """Columns of a compacted table.

    Raises:
        Lost: it has changed since it was opened.

    """
    with _of_all_rows(file) as count:
        table = parts.read_columns(file, columns).select(columns)
        count(table.num_rows)
    return table


def read_marked(file: pq.ParquetFile, columns: Sequence[str], marks: pa.BooleanArray) -> pa.Table:
    """Columns of the marked rows of a compacted table, of which all rows have a mark.

    Raises:
        Lost: it has changed since it was opened.

    """
    kept, start = [], 0
    with _of_all_rows(file) as count:
        for batch in file.iter_batches(_AT_ONCE, columns=list(columns), use_threads=False):
            kept.append(batch.select(columns).filter(marks.slice(start, len(batch))))
            start += len(batch)
        count(start)
    return pa.Table.from_batches(kept, pa.schema([file.schema_arrow.field(name) for name in columns]))


@contextlib.contextmanager
def _of_all_rows(file: pq.ParquetFile) -> Iterator[Callable[[int], None]]:
    """Reading a file; gives what is to be told how many rows were read. One that was cut off may just have fewer."""

    def count(rows: int) -> None:
        if rows != file.metadata.num_rows:
            raise TableChanged(f"{rows} of {file.metadata.num_rows} rows")

    try:
        yield count
    except (OSError, pa.ArrowException) as error:
        raise TableChanged(str(error)) from error


def write_compacted(
    folder: Path, tables: Iterator[tuple[str, pa.Table, Mapping[str, int]]], left: Mapping[str, Left]
) -> None:
    """Write the tables, each with how many of its rows are of each part, in order; then the list of what they hold.

    Raises:
        OSError: the disk is full or not writable; the tables that were there stay.

    """
    (folder / "tables").mkdir(exist_ok=True)
    (folder / "index").mkdir(exist_ok=True)
    temporary = temporary_folder(folder / "parts")
    digests, rows = {}, {}
    for table, compacted, rows[table] in tables:
        content = serialise(compacted)
        digests[table] = hashlib.sha256(content).hexdigest()
        write_atomically(file_of(folder, table), content, folder=temporary)
    listed = [[name, [rows[table][name] for table in TABLES], gone] for name, gone in left.items()]
    text = json.dumps({"tables": digests, "parts": listed}, separators=(",", ":")).encode()
    write_atomically(
        folder / "index" / FILE, hashlib.sha256(text).hexdigest().encode() + b"\n" + text, folder=temporary
    )
