"""Part files: Parquet files of one name, one per table, that hold whole attempts for good.

Each file is written to a temporary one and renamed, the attempts file last. The attempts file is
the part's receipt: its metadata hold the SHA-256 of the other files and what planning needs of the
attempts, and the part's name ends in its own SHA-256. Readers ignore a part without a receipt. A
part that differs from its receipt is damaged.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from moleflow import files
from moleflow.errors import Damaged
from orchestrator.results.schema import ATTEMPTS, MAPS, TABLES, rows_of

Stamps = tuple[int, ...]
"""Size (bytes), mtime and ctime (ns) of a part's file in each of TABLES, one after the other."""

SLOW_S = 60.0
"""Seconds of writing a part after which its writer looks whether all its files are still there."""
_SIBLINGS = [table for table in TABLES if table != ATTEMPTS]
_RECEIPT = b"digests"
_CHANGED = "its bytes are not those that were written"
_ATTEMPT_COLUMNS = ("trial_id", "attempt", "status", "code_digest", "started_at")


@dataclass(frozen=True)
class Damage:
    """A file that cannot be used, and the reason."""

    path: Path
    reason: str


class DamagedPart(Damaged):
    """A file of a part is missing, or differs from what was written."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.damage = Damage(path, reason)


@dataclass(frozen=True)
class StoredAttempt:
    """The columns of a row of the attempts table that planning needs, with the name of its part."""

    part: str
    trial_id: str
    attempt: int
    status: str
    code_digest: str
    started_at: datetime

    def to_json(self) -> list[object]:
        """The values without the part's name."""
        return [self.trial_id, self.attempt, self.status, self.code_digest, self.started_at.isoformat()]

    @staticmethod
    def from_json(part: str, values: Sequence[Any]) -> StoredAttempt:
        """The attempt of a part with values from `to_json`."""
        trial_id, attempt, status, code_digest, started_at = values
        return StoredAttempt(part, trial_id, attempt, status, code_digest, datetime.fromisoformat(started_at))


@dataclass(frozen=True)
class Receipt:
    """The attempts of a part, and the SHA-256 of its metrics, scores and curves file."""

    digests: tuple[str, ...]
    attempts: tuple[StoredAttempt, ...]


def part_file(parts: Path, table: str, name: str) -> Path:
    """The path of a part's file in a table."""
    return parts / table / f"{name}.parquet"


def maps_file(parts: Path, name: str) -> Path:
    """The path of a part's anomaly maps. It lies outside `parts/`: a part is whole without them."""
    return parts.parent / MAPS / f"{name}.parquet"


def temporary_folder(parts: Path) -> Path:
    """The folder of temporary files: on the same filesystem, and never read."""
    return parts / ".tmp"


def serialise(table: pa.Table) -> bytes:
    """The bytes of a Parquet file with page checksums."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    content: bytes = sink.getvalue().to_pybytes()
    return content


@dataclass(frozen=True)
class Part:
    """A part that is ready to be written: its name, and the bytes of its file by table."""

    name: str
    contents: Mapping[str, bytes]


def make_part(stem: str, tables: Mapping[str, pa.Table]) -> Part:
    """The part of the four tables, named `stem` and a digest; a table `maps` may be among them."""
    siblings = [table for table in tables if table != ATTEMPTS and (table in TABLES or tables[table].num_rows)]
    contents = {table: serialise(tables[table]) for table in siblings}
    digests = {table: hashlib.sha256(content).hexdigest() for table, content in contents.items()}
    rows = rows_of(tables[ATTEMPTS].select(_ATTEMPT_COLUMNS))
    receipt = digests | {ATTEMPTS: [StoredAttempt("", **row).to_json() for row in rows]}
    contents[ATTEMPTS] = serialise(tables[ATTEMPTS].replace_schema_metadata({_RECEIPT: json.dumps(receipt).encode()}))
    return Part(f"{stem}-{_name_digest(contents[ATTEMPTS])}", contents)


def write_part(parts: Path, part: Part) -> None:
    """Write one part. Once this returns, its attempts have ended for good.

    Raises:
        OSError: the disk is full or not writable; nothing of the part is left behind.

    """
    begin, temporary = files.uptime(), temporary_folder(parts)
    if MAPS in part.contents:
        maps, content = maps_file(parts, part.name), part.contents[MAPS]
        files.make_folder_if_missing(maps.parent, lambda: files.write_atomically(maps, content, folder=temporary))
    written = []
    try:
        # The receipt is the last of TABLES. A writer that dies between two files leaves none, so no
        # reader sees half a part.
        for table in TABLES:
            path = part_file(parts, table, part.name)
            written.append(path)
            files.write_atomically(path, part.contents[table], folder=temporary)
    except BaseException:
        if not files.exists(part_file(parts, ATTEMPTS, part.name)):
            for path in written:
                with contextlib.suppress(OSError):
                    files.remove(path)
        raise
    files.sync_folder(parts / ATTEMPTS)
    # Another driver removes files without a receipt after an hour, as a dead writer's. This writer
    # may have slept for so long.
    for table in TABLES if files.uptime() - begin > SLOW_S else ():
        path = part_file(parts, table, part.name)
        if not files.exists(path):
            files.write_atomically(path, part.contents[table], folder=temporary)


def file_stamps(parts: Path, name: str) -> Stamps | None:
    """Size and times of change of a part's files; None if one is missing.

    The change time is among them because programs can set back the modification time, as `cp -p`
    does.
    """
    stamps: list[int] = []
    for table in TABLES:
        status = files.stat_of(part_file(parts, table, name))
        if status is None:
            return None
        stamps += (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return tuple(stamps)


def read_receipt(parts: Path, name: str) -> Receipt:
    """The receipt of a part, compared with the digest in the part's name.

    Raises:
        DamagedPart: the attempts file is missing, has changed, or was written by something else.

    """
    path = part_file(parts, ATTEMPTS, name)
    content = _content(path)
    if not name.endswith(f"-{_name_digest(content)}"):
        raise DamagedPart(path, _CHANGED)
    with damaged_if_unreadable(path):
        receipt = json.loads(pq.read_metadata(pa.BufferReader(content)).metadata[_RECEIPT])
        digests = tuple(str(receipt[table]) for table in _SIBLINGS)
        if ATTEMPTS in receipt:
            return Receipt(digests, tuple(StoredAttempt.from_json(name, values) for values in receipt[ATTEMPTS]))
        # Parts of earlier versions hold them in the columns alone, which take longer to read.
        rows = rows_of(read_columns(parquet(content), _ATTEMPT_COLUMNS))
        return Receipt(digests, tuple(StoredAttempt(name, **row) for row in rows))


@contextlib.contextmanager
def damaged_if_unreadable(path: Path) -> Iterator[None]:
    """Turn errors over content that no worker writes into DamagedPart.

    Raises:
        DamagedPart: the block could not make sense of the file.

    """
    try:
        yield
    except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DamagedPart(path, f"no worker wrote it: {reason}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        # Arrow's word for a file that is no Parquet.
        raise DamagedPart(path, "no worker wrote it: it is no Parquet file") from error


def check_digests(parts: Path, name: str, receipt: Receipt) -> None:
    """Read the files of a part beside its receipt, and compare their digests.

    Raises:
        DamagedPart: one is missing or has changed.

    """
    for table, digest in zip(_SIBLINGS, receipt.digests, strict=True):
        path = part_file(parts, table, name)
        if hashlib.sha256(_content(path)).hexdigest() != digest:
            raise DamagedPart(path, _CHANGED)


def open_part_file(parts: Path, table: str, name: str, receipt: Receipt) -> pq.ParquetFile:
    """The Parquet file of a part in one table, compared with the part's receipt.

    Raises:
        DamagedPart: it is missing or has changed.

    """
    path = part_file(parts, table, name)
    content = _content(path)
    digest = name.rpartition("-")[2] if table == ATTEMPTS else receipt.digests[_SIBLINGS.index(table)]
    # The name of a part holds the first 16 digits only.
    if hashlib.sha256(content).hexdigest()[: len(digest)] != digest:
        raise DamagedPart(path, _CHANGED)
    with damaged_if_unreadable(path):
        return parquet(content)


def read_maps(parts: Path, name: str) -> pa.Table | None:
    """The anomaly maps of a part; None if it has none, or they differ from what was written."""
    path = maps_file(parts, name)
    try:
        with damaged_if_unreadable(path):
            receipt = parquet(_content(part_file(parts, ATTEMPTS, name))).metadata.metadata[_RECEIPT]
            content = _content(path)
            if hashlib.sha256(content).hexdigest() != json.loads(receipt).get(MAPS):
                return None
            return parquet(content).read(use_threads=False)
    except DamagedPart:
        return None


def read_columns(file: pq.ParquetFile, columns: Sequence[str]) -> pa.Table:
    """Columns of an open part file, read in this thread: parts are small."""
    return file.read(columns=list(columns), use_threads=False)


def parquet(content: pa.Buffer) -> pq.ParquetFile:
    """A Parquet file in memory."""
    return pq.ParquetFile(pa.BufferReader(content), pre_buffer=False)


def _content(path: Path) -> pa.Buffer:
    """The bytes of a file of a part.

    Raises:
        DamagedPart: it is missing, or no file.

    """
    # Any other OSError (no permission, a failing disk) is not damage and passes through.
    try:
        content = files.read(path)
    except FileNotFoundError as error:
        raise DamagedPart(path, "it is missing") from error
    except files.NotAFile as error:
        raise DamagedPart(path, "it is no regular file") from error
    # In Arrow's own memory. In Python's memory an Arrow thread could free them while the
    # interpreter ends, which aborts the process.
    copy = pa.allocate_buffer(len(content))
    memoryview(copy).cast("B")[:] = content
    return copy


def _name_digest(content: bytes | pa.Buffer) -> str:
    """The digest of an attempts file that the part's name ends in."""
    return hashlib.sha256(content).hexdigest()[:16]
