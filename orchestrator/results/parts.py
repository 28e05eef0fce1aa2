"""Part files: four Parquet files of one name, written beside and renamed, the attempts file last.

The attempts file is the part's receipt: it carries the SHA-256 of the other three, and the part's name ends in its own.
A part without its receipt does not exist for readers; one that does not match its receipt is damaged.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from moleflow.errors import Damaged
from moleflow.files import sync_folder, write_atomically
from orchestrator.results.index import Digests, Stamps, file_stamps
from orchestrator.results.schema import ATTEMPTS, MAPS, TABLES

_SIBLINGS = [table for table in TABLES if table != ATTEMPTS]
_RECEIPT = b"digests"
_CHANGED = "its bytes are not those that were written"


@dataclass(frozen=True)
class Damage:
    """A file that cannot be used, and why."""

    path: Path
    reason: str


class DamagedPart(Damaged):
    """A file of a part is missing, or not what was written."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.damage = Damage(path, reason)


def part_file(parts: Path, table: str, name: str) -> Path:
    """Where the file of the part `name` in `table` is."""
    return parts / table / f"{name}.parquet"


def maps_file(parts: Path, name: str) -> Path:
    """Where the kept maps of the part `name` are: beside the parts, as a part is whole without them."""
    return parts.parent / MAPS / f"{name}.parquet"


def temporary_folder(parts: Path) -> Path:
    """Where files are written before they are renamed: same file system, out of every reader's sight."""
    return parts / ".tmp"


def serialise(table: pa.Table) -> bytes:
    """The bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    content: bytes = sink.getvalue().to_pybytes()
    return content


@dataclass(frozen=True)
class Part:
    """A part that is ready to be written: its name, the bytes of its file in each table, and the digests that the index holds."""

    name: str
    contents: Mapping[str, bytes]
    digests: Digests


def make_part(stem: str, tables: Mapping[str, pa.Table]) -> Part:
    """The part of the four tables, named `stem` and a digest; kept maps go with them where there are any."""
    given = [table for table in tables if table != ATTEMPTS and (table in TABLES or tables[table].num_rows)]
    contents = {table: serialise(tables[table]) for table in given}
    digests = {table: hashlib.sha256(content).hexdigest() for table, content in contents.items()}
    contents[ATTEMPTS] = serialise(tables[ATTEMPTS].replace_schema_metadata({_RECEIPT: json.dumps(digests).encode()}))
    return Part(f"{stem}-{_own_digest(contents[ATTEMPTS])}", contents, _told(digests))


def write_part(parts: Path, part: Part) -> Stamps | None:
    """Write one part; when this returns, its attempts have ended for good.

    Returns:
        The stamps of its files, on a file system that keeps nanoseconds; None where somebody took one away already.

    Raises:
        OSError: the disk is full or not writable; nothing of the part is left behind.

    """
    temps = {table: temporary_folder(parts) / f"{part.name}.{table}" for table in TABLES}
    if MAPS in part.contents:
        place = maps_file(parts, part.name)
        place.parent.mkdir(exist_ok=True)
        write_atomically(place, part.contents[MAPS], folder=temporary_folder(parts))
    try:
        written = [(len(part.contents[table]), _write_synced(temps[table], part.contents[table])) for table in TABLES]
        for table in TABLES:  # attempts is the last of them
            os.replace(temps[table], part_file(parts, table, part.name))
    except BaseException:
        _remove(list(temps.values()))
        if not part_file(parts, ATTEMPTS, part.name).exists():
            _remove([part_file(parts, table, part.name) for table in TABLES])
        raise
    sync_folder(parts / ATTEMPTS)
    # The renaming too is a change, of which the system alone tells the time.
    there = file_stamps(parts, part.name)
    return there and tuple((*own, changed) for own, (_, _, changed) in zip(written, there, strict=True))


def check_part(parts: Path, name: str, columns: Sequence[str]) -> tuple[pa.Table, Digests]:
    """Some columns of a part's attempts, and what the index holds of its files, once all four are known to be whole.

    Raises:
        DamagedPart: one of them is not.

    """
    path = part_file(parts, ATTEMPTS, name)
    content = _content(path)
    if not name.endswith(f"-{_own_digest(content)}"):
        raise DamagedPart(path, _CHANGED)
    file = parquet(content)
    digests = json.loads(file.schema_arrow.metadata[_RECEIPT])
    for table in TABLES:
        sibling = part_file(parts, table, name)
        if table != ATTEMPTS and hashlib.sha256(_content(sibling)).hexdigest() != digests[table]:
            raise DamagedPart(sibling, _CHANGED)
    return read_columns(file, columns), _told(digests)


def read_maps(parts: Path, name: str) -> pa.Table | None:
    """The kept maps of a part; None where it has none, or they are not those that were written."""
    try:
        receipt = parquet(_content(part_file(parts, ATTEMPTS, name))).schema_arrow.metadata[_RECEIPT]
        content = _content(maps_file(parts, name))
    except DamagedPart:
        return None
    if hashlib.sha256(content).hexdigest() != json.loads(receipt).get(MAPS):
        return None
    return parquet(content).read(use_threads=False)


def open_part_file(parts: Path, table: str, name: str, digests: Digests | None = None) -> pq.ParquetFile:
    """The Parquet file of a part that was checked before, in one table.

    Args:
        digests: what was told of the part then; its bytes are compared with that.

    Raises:
        DamagedPart: it is missing now, or has changed.

    """
    path = part_file(parts, table, name)
    content = _content(path)
    if digests is not None:
        told = name.rpartition("-")[2] if table == ATTEMPTS else digests[_SIBLINGS.index(table)]
        if hashlib.sha256(content).hexdigest()[: len(told)] != told:
            raise DamagedPart(path, _CHANGED)
    try:
        return parquet(content)
    except pa.ArrowException as error:
        raise DamagedPart(path, _CHANGED) from error


def read_columns(file: pq.ParquetFile, columns: Sequence[str]) -> pa.Table:
    """Some columns of an open part file, read in this thread: parts are small."""
    return file.read(columns=list(columns), use_threads=False)


def parquet(content: pa.Buffer) -> pq.ParquetFile:
    """The Parquet file that is this content."""
    return pq.ParquetFile(pa.BufferReader(content), pre_buffer=False)


def content_of(path: Path) -> pa.Buffer:
    """The bytes of a file.

    In Arrow's own memory, not Python's: one of its threads that gives Python's back while the interpreter ends aborts the process.
    """
    with pa.OSFile(str(path)) as file:
        return file.read_buffer()


def _content(path: Path) -> pa.Buffer:
    # Any other OSError (no permission, a failing disk) is not damage and passes through.
    try:
        return content_of(path)
    except FileNotFoundError as error:
        raise DamagedPart(path, "it is missing") from error


def _told(receipt: Mapping[str, str]) -> Digests:
    return tuple(receipt[table] for table in _SIBLINGS)


def _own_digest(content: bytes | pa.Buffer) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _write_synced(path: Path, content: bytes) -> int:
    """Write a file for good; when it changed, in ns since 1970."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        # Finer than the clock by which the system stamps files: whatever writes to it later leaves another stamp.
        now = time.time_ns()
        os.utime(file.fileno(), ns=(now, now))
        os.fsync(file.fileno())
    return now


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
