"""Read the rows of a table that count, from its compacted table and from the parts beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moleflow import files
from moleflow.errors import InvalidInput
from orchestrator.results import compaction
from orchestrator.results.compaction import LeftOut
from orchestrator.results.part_index import PartIndex
from orchestrator.results.parts import (
    Damage,
    DamagedPart,
    damaged_if_unreadable,
    open_part_file,
    part_file,
    read_columns,
)
from orchestrator.results.schema import TABLES, arrow_schema


class PartChanged(Exception):
    """A part that was whole when it was looked at has changed.

    Attributes:
        part: its name.
        damage: the file, and what is wrong with it.

    """

    def __init__(self, part: str, damage: Damage) -> None:
        super().__init__(damage.reason)
        self.part, self.damage = part, damage


@dataclass
class RowRange:
    """Adjacent rows of the compacted table, `start` to before `stop`, and their number by part."""

    start: int
    stop: int
    parts: dict[str, int]


@dataclass(frozen=True)
class UncompactedPart:
    """A part whose rows without the attempts `left_out` are not in the compacted table."""

    part: str
    left_out: LeftOut


@dataclass(frozen=True)
class Rows:
    """The places of the rows of a table that count, in order; `file` is its compacted table."""

    table: str
    file: pq.ParquetFile | None
    places: Sequence[RowRange | UncompactedPart]

    @property
    def one_file(self) -> pq.ParquetFile | None:
        """The compacted table, if it holds exactly these rows."""
        match self.places:
            case [RowRange(start=0, stop=stop)] if self.file is not None and stop == self.file.metadata.num_rows:
                return self.file
        return None


def find_rows(index: PartIndex, table: str, compacted: bool) -> Rows:
    """The places of the rows of a table that count.

    Args:
        index: the parts of the store.
        table: metrics, scores, curves or attempts.
        compacted: whether the compacted table may be read.

    """
    known = index.compaction() if compacted else compaction.NOTHING
    file = compaction.open_table(index.folder, table, known)
    number = TABLES.index(table)
    places: list[RowRange | UncompactedPart] = []
    for name, left_out in index.left_out().items():
        part = None if file is None else known.parts.get(name)
        if part is None or part.left_out != left_out:
            places.append(UncompactedPart(name, left_out))
            continue
        last = places[-1] if places else None
        if not isinstance(last, RowRange) or last.stop != part.starts[number]:
            places.append(last := RowRange(part.starts[number], part.starts[number], {}))
        last.parts[name] = part.rows[number]
        last.stop += part.rows[number]
    return Rows(table, file, places)


def load_rows(index: PartIndex, rows: Rows, columns: Sequence[str] | None = None) -> tuple[pa.Table, dict[str, int]]:
    """Columns of these rows, and the number of them by part.

    Args:
        index: the parts of the store.
        rows: the places of the rows.
        columns: names of columns; None = all of the schema.

    Raises:
        PartChanged: a part was changed after it was looked at.
        InvalidInput: a part was written with another schema.
        DamagedPart: a part was removed meanwhile.

    """
    whole = arrow_schema(rows.table)
    schema = pa.schema([whole.field(name) for name in (whole.names if columns is None else columns)])
    compacted = None if rows.file is None else compaction.read_compacted_columns(rows.file, schema.names)
    pieces: list[pa.Table] = []
    counts: dict[str, int] = {}
    for place in rows.places:
        if isinstance(place, UncompactedPart):
            pieces.append(_read_part(index, rows.table, place, schema))
            counts[place.part] = len(pieces[-1])
        elif compacted is not None:
            pieces.append(compacted.slice(place.start, place.stop - place.start))
            counts |= place.parts
    return pa.concat_tables(pieces or [schema.empty_table()]).combine_chunks(), counts


def without_attempts(rows: pa.Table, attempts: Iterable[tuple[str, int]]) -> pa.Table:
    """The rows of a table that are not of these attempts, given by trial id and number."""
    for trial_id, attempt in attempts:
        same = pc.and_(pc.equal(rows["trial_id"], trial_id), pc.equal(rows["attempt"], attempt))
        rows = rows.filter(pc.invert(same))
    return rows


def _read_part(index: PartIndex, table: str, place: UncompactedPart, schema: pa.Schema) -> pa.Table:
    """Return one part's rows of a table that count, in this schema."""
    path = part_file(index.parts, table, place.part)
    try:
        file = open_part_file(index.parts, table, place.part, index.receipts[place.part])
    except DamagedPart as error:
        if not files.exists(path):
            raise
        raise PartChanged(place.part, error.damage) from error
    stored = set(file.schema_arrow.names)
    missing = {f.name for f in schema if f.name not in stored}
    for field in schema:
        if field.name in missing and not field.nullable:
            hint = "another version of moleflow-sweep wrote it; use that one, or a new folder"
            raise InvalidInput(f"{path}: has no column {field.name}: {hint}")
    try:
        with damaged_if_unreadable(path):
            piece = read_columns(file, sorted({f.name for f in schema} - missing | {"trial_id", "attempt"}))
            piece = without_attempts(piece, place.left_out)
            arrays = [pa.nulls(len(piece), f.type) if f.name in missing else piece[f.name].cast(f.type) for f in schema]
            return pa.Table.from_arrays(arrays, schema=schema)
    except DamagedPart as error:
        raise PartChanged(place.part, error.damage) from error
