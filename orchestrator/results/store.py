"""The result store: parts in, every row that counts out once. `parts/` is the truth, `tables/` and `index/` copies of it that save reading.

Reading writes nothing. Damaged parts never stop a reader: they are named in `damaged`, and their attempts count as not
finished.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moleflow.errors import InvalidInput
from moleflow.files import write_atomically
from orchestrator.results import compaction
from orchestrator.results.index import (
    COLUMNS,
    AttemptEntry,
    Digests,
    IndexedPart,
    PartIndex,
    Stamps,
    file_stamps,
    older_than_clock_tick,
)
from orchestrator.results.parts import (
    Damage,
    DamagedPart,
    check_part,
    open_part_file,
    part_file,
    read_columns,
    read_maps,
    serialise,
    temporary_folder,
)
from orchestrator.results.schema import ATTEMPTS, FINISHED, MAPS, PRUNED, TABLES, arrow_schema, rows_of, to_table
from orchestrator.results.thumbnails import ThumbnailStore

GRACE_S = 60.0
FOUND = "found"
Found = TypeVar("Found")
_EMPTY = "00000000-empty"  # no rows: every reader sees the folder, with its schema, before the first attempt ends


@dataclass(frozen=True)
class FinishedAttempt:
    """The attempt that counts of a finished trial."""

    attempt: int
    code_digest: str
    started_at: datetime


@dataclass(frozen=True)
class Recovered:
    """What `recover` did: files of unfinished writes that it removed, and damaged parts that it moved to `damaged/`."""

    removed: tuple[Path, ...]
    set_aside: tuple[Damage, ...]


class ResultStore:
    """The results of one sweep in `folder`.

    Parts are immutable, so each is checked once for the life of this object; later calls look at new parts alone. What the index
    knows to be whole is not read to check it, and what the compacted tables hold is read from them; `from_parts` does without both.
    """

    def __init__(self, folder: Path, from_parts: bool = False) -> None:
        self.folder = folder
        self.parts = folder / "parts"
        self.index = PartIndex(folder / "index")
        self._from_parts = from_parts
        self._seen: dict[str, tuple[AttemptEntry, ...]] = {}
        self._damaged: dict[str, Damage] = {}
        self._digests: dict[str, Digests] = {}
        self._unnoted: dict[str, tuple[Stamps, IndexedPart | None]] = {}
        self._counting: dict[str, AttemptEntry] | None = None

    def create(self) -> None:
        """Make the folders, and in each table a file without rows.

        Raises:
            OSError: the folder cannot be written.

        """
        temporary_folder(self.parts).mkdir(parents=True, exist_ok=True)
        for table in TABLES:
            (self.parts / table).mkdir(exist_ok=True)
            empty = part_file(self.parts, table, _EMPTY)
            if not empty.exists():
                write_atomically(empty, serialise(to_table(table, [])), folder=temporary_folder(self.parts))

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows that count, each once: of a finished trial its one attempt, and every attempt that ended otherwise.

        Args:
            table: metrics, scores, curves or attempts.
            columns: names to read; all of the schema when left out.

        Raises:
            InvalidInput: there is no store in the folder, or a part was written with another schema.
            Damaged: a file went away while it was read.

        """
        self._look()
        return self._unless_changed(lambda compacted: self._gathered(table, compacted, columns)[0])

    def read_marked(
        self,
        table: str,
        by: Sequence[str],
        mark: Callable[[pa.Table], tuple[Found, pa.BooleanArray]],
        columns: Sequence[str],
    ) -> tuple[Found, pa.Table]:
        """Some of the rows that `read` would give, in their order, without the memory that all of them would take.

        Args:
            table: as for `read`.
            by: the columns that decide.
            mark: given these of all rows, whatever it finds, and a mark for each row to read.
            columns: what to read of the marked rows.

        Raises:
            InvalidInput, Damaged: as `read`.

        """
        self._look()

        def work(compacted: bool) -> tuple[Found, pa.Table]:
            rows = self._rows(table, compacted)
            found, marks = mark(self._taken(rows, by)[0])
            if rows.one_file is not None:
                return found, compaction.read_marked(rows.one_file, columns, marks)
            return found, self._taken(rows, columns)[0].filter(marks)

        return self._unless_changed(work)

    def finished(self) -> dict[str, FinishedAttempt]:
        """The finished trials by id, each with the attempt that counts.

        Of several finished attempts the lowest number counts; where code versions differ, of those made by the code of
        the most recently started one.
        """
        self._look()
        return {trial: FinishedAttempt(e.attempt, e.code_digest, e.started_at) for trial, e in self._counted().items()}

    def maps(self, trial_ids: Collection[str]) -> list[dict[str, Any]]:
        """The kept anomaly maps of finished trials, with small pictures of the images; without those that are lost.

        Returns:
            Rows of the table `maps`, each with `picture` (JPEG, 128 x 128) and `mask` (1-bit PNG, or None where there is no mask).

        """
        self._look()
        wanted = {(e.trial_id, e.attempt): e.part for trial, e in self._counted().items() if trial in set(trial_ids)}
        read = (read_maps(self.parts, part) for part in sorted(set(wanted.values())))
        rows = [row for table in read if table is not None for row in table.to_pylist()]
        rows = [row for row in rows if (row["trial_id"], row["attempt"]) in wanted]
        pictures = ThumbnailStore(self.folder)
        found = ((row, pictures.read(row["image_digest"])) for row in rows)
        return [row | {"picture": seen.picture, "mask": seen.mask} for row, seen in found if seen is not None]

    def pruned(self) -> frozenset[str]:
        """The trials that were stopped early for good and never finished."""
        self._look()
        stopped = {e.trial_id for entries in self._seen.values() for e in entries if e.status == PRUNED}
        return frozenset(stopped - self._counted().keys())

    def digest(self) -> str:
        """A digest of what there is to read: equal digests, equal rows."""
        # The name of a part holds the digest of what is in it.
        damaged = [[str(damage.path.relative_to(self.folder)), damage.reason] for damage in self.damaged]
        return hashlib.sha256(json.dumps([sorted(self._seen), damaged]).encode()).hexdigest()

    @property
    def damaged(self) -> tuple[Damage, ...]:
        """The parts that cannot be used as they are; `recover` sets them aside."""
        self._look()
        return tuple(damage for _, damage in sorted(self._damaged.items()))

    def recover(self, grace_seconds: float = GRACE_S) -> Recovered:
        """Clean up after writers that died: for the start of a sweep, before anything is planned.

        Files without a receipt, and temporary ones, older than `grace_seconds` are removed. Damaged parts move to
        `damaged/<table>/` whole, so that every reader can read `parts/` again; their attempts count as not finished.

        Raises:
            OSError: the folder cannot be written.

        """
        self.create()
        whole = set(os.listdir(self.parts / ATTEMPTS))
        unfinished = [
            self.parts / table / name
            for table in TABLES
            for name in os.listdir(self.parts / table)
            if name not in whole and name.endswith(".parquet")
        ]
        with contextlib.suppress(FileNotFoundError):
            unfinished += (path for path in (self.folder / MAPS).glob("*.parquet") if path.name not in whole)
        removed = []
        for path in [*unfinished, *temporary_folder(self.parts).iterdir()]:
            # Its writer may finish, or another driver remove it, in this very moment.
            with contextlib.suppress(FileNotFoundError):
                receipt = self.parts / ATTEMPTS / path.name
                if time.time() - path.stat().st_mtime > grace_seconds and not receipt.exists():
                    path.unlink()
                    removed.append(path)
        # What was damaged when it was looked at may have been on its way, and whole by now; what the index was wrong about is noted first,
        # so that it is read.
        self._note()
        self._damaged.clear()
        set_aside = self.damaged
        for name in list(self._damaged):
            for table in TABLES:
                aside = part_file(self.folder / "damaged", table, name)
                aside.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):
                    os.replace(part_file(self.parts, table, name), aside)
        self._note()
        return Recovered(tuple(sorted(removed)), set_aside)

    def compact(self) -> None:
        """Write `tables/<table>.parquet`, outside `parts/`: the rows that count, each file replaced atomically.

        Raises:
            OSError: the disk is full or not writable; the tables that were there stay.

        """
        self._look()
        self._unless_changed(self._compact)
        self._note()

    def _look(self) -> None:
        """Take note of the parts that are new or gone since the last look."""
        if not self.parts.is_dir():
            if (self.folder / "sweep.json").exists():
                raise InvalidInput(f"{self.folder}: its results are gone (no folder parts/); run the sweep again")
            raise InvalidInput(f"{self.folder}: no results here (no folder parts/); give the folder that a sweep wrote")
        there: list[str] = []
        with contextlib.suppress(FileNotFoundError):
            there = os.listdir(self.parts / ATTEMPTS)
        names = {name.removesuffix(".parquet") for name in there if name.endswith(".parquet")} - {_EMPTY}
        for gone in (self._seen.keys() | self._damaged.keys()) - names:
            self._seen.pop(gone, None)
            self._damaged.pop(gone, None)
            self._counting = None
        new = sorted(names - self._seen.keys() - self._damaged.keys())
        known = self.index.look() if new and not self._from_parts else {}
        for name in new:
            self._counting = None
            stamps = file_stamps(self.parts, name)
            noted = None if stamps is None else known.get((name, stamps))
            if noted is not None:
                self._digests[name], self._seen[name] = noted.digests, noted.entries
                continue
            try:
                rows, digests = check_part(self.parts, name, COLUMNS)
            except DamagedPart as error:
                self._damaged[name] = error.damage
                continue
            self._digests[name] = digests
            self._seen[name] = tuple(AttemptEntry(name, **row) for row in rows_of(rows))
            if stamps is not None and older_than_clock_tick(stamps):
                self._unnoted[name] = stamps, IndexedPart(digests, self._seen[name])

    def _note(self) -> None:
        """Let the index know of parts that were found whole without it, or not to be what it says."""
        self.index.note(FOUND, self._unnoted)
        self._unnoted.clear()

    def _counted(self) -> dict[str, AttemptEntry]:
        if self._counting is None:
            self._counting = self._count()
        return self._counting

    def _count(self) -> dict[str, AttemptEntry]:
        trials: dict[str, list[AttemptEntry]] = {}
        for entry in (entry for entries in self._seen.values() for entry in entries if entry.status == FINISHED):
            trials.setdefault(entry.trial_id, []).append(entry)
        counted = {}
        for trial, attempts in trials.items():
            code = max(attempts, key=lambda e: e.started_at).code_digest
            of_that_code = [e for e in attempts if e.code_digest == code]
            counted[trial] = min(of_that_code, key=lambda e: (e.attempt, e.started_at, e.part))
        return counted

    def _left_out(self) -> dict[str, compaction.Left]:
        """Of each part, in order, the finished attempts that do not count."""
        counted = self._counted()
        return {
            name: tuple((e.trial_id, e.attempt) for e in entries if e.status == FINISHED and e != counted[e.trial_id])
            for name, entries in sorted(self._seen.items())
        }

    def _unless_changed(self, work: Callable[[bool], Found]) -> Found:
        """Work on the rows that count, again where what holds them turns out not to be what it was.

        Args:
            work: told whether to read what the compacted tables hold from them.

        """
        compacted = not self._from_parts
        while True:
            try:
                return work(compacted)
            except _Changed as error:
                self._doubt(error)
            except compaction.TableChanged:
                compacted = False

    def _compact(self, compacted: bool) -> None:
        left = self._left_out()
        known = compaction.read_list(self.folder)
        whole = (compaction.open_table(self.folder, table, known) is not None for table in TABLES)
        if not (known.covers(left) and all(whole)):
            compaction.write_compacted(
                self.folder, ((table, *self._gathered(table, compacted)) for table in TABLES), left
            )

    def _doubt(self, changed: _Changed) -> None:
        """A part that the index knows to be whole is not: its attempts do not count from here on, nor, once that is noted, for others."""
        del self._seen[changed.part]
        self._counting = None
        self._damaged[changed.part] = changed.damage
        self._unnoted.pop(changed.part, None)
        stamps = file_stamps(self.parts, changed.part)
        if stamps is not None:
            self._unnoted[changed.part] = stamps, None

    def _gathered(
        self, table: str, compacted: bool, columns: Sequence[str] | None = None
    ) -> tuple[pa.Table, dict[str, int]]:
        """The rows that count, and how many of them are of each part."""
        return self._taken(self._rows(table, compacted), arrow_schema(table).names if columns is None else columns)

    def _rows(self, table: str, compacted: bool) -> _Rows:
        """Where the rows of a table that count are."""
        known = compaction.read_list(self.folder) if compacted else compaction.NOTHING
        file = compaction.open_table(self.folder, table, known)
        held = {} if file is None else known.held[table]
        runs: list[_RowRange | _UncompactedPart] = []
        for name, left in self._left_out().items():
            own = held.get(name)
            if own is None or own.left != left:
                runs.append(_UncompactedPart(name, left))
                continue
            last = runs[-1] if runs else None
            if not isinstance(last, _RowRange) or last.stop != own.start:
                runs.append(last := _RowRange(own.start, own.start, {}))
            last.parts[name] = own.rows
            last.stop += own.rows
        return _Rows(table, file, runs)

    def _taken(self, rows: _Rows, columns: Sequence[str]) -> tuple[pa.Table, dict[str, int]]:
        """Columns of these rows, and how many of them are of each part."""
        wanted = pa.schema([arrow_schema(rows.table).field(name) for name in columns])
        compacted = None if rows.file is None else compaction.read_compacted_columns(rows.file, columns)
        pieces: list[pa.Table] = []
        counts: dict[str, int] = {}
        for run in rows.runs:
            if isinstance(run, _UncompactedPart):
                pieces.append(self._piece(rows.table, run.part, wanted, run.left))
                counts[run.part] = len(pieces[-1])
            elif compacted is not None:
                pieces.append(compacted.slice(run.start, run.stop - run.start))
                counts |= run.parts
        return pa.concat_tables(pieces or [wanted.empty_table()]).combine_chunks(), counts

    def _piece(self, table: str, name: str, wanted: pa.Schema, left_out: compaction.Left) -> pa.Table:
        """One part's rows of a table, without the attempts `left_out`, in the schema `wanted`."""
        path = part_file(self.parts, table, name)
        try:
            file = open_part_file(self.parts, table, name, self._digests[name])
        except DamagedPart as error:
            if not path.exists():
                raise
            raise _Changed(name, error.damage) from error
        there = set(file.schema_arrow.names)
        missing = {f.name for f in wanted if f.name not in there}
        for field in wanted:
            if field.name in missing and not field.nullable:
                hint = "another version of moleflow-sweep wrote it; use that one, or a new folder"
                raise InvalidInput(f"{path}: has no column {field.name}: {hint}")
        piece = read_columns(file, sorted({f.name for f in wanted} - missing | {"trial_id", "attempt"}))
        for trial_id, attempt in left_out:
            same = pc.and_(pc.equal(piece["trial_id"], trial_id), pc.equal(piece["attempt"], attempt))
            piece = piece.filter(pc.invert(same))
        arrays = [pa.nulls(len(piece), f.type) if f.name in missing else piece[f.name].cast(f.type) for f in wanted]
        return pa.Table.from_arrays(arrays, schema=wanted)


class _Changed(Exception):
    """A part that was known to be whole is not what it was."""

    def __init__(self, part: str, damage: Damage) -> None:
        super().__init__(damage.reason)
        self.part, self.damage = part, damage


@dataclass
class _RowRange:
    """Rows of the compacted table that lie side by side: from `start` to before `stop`, so many of each part."""

    start: int
    stop: int
    parts: dict[str, int]


@dataclass(frozen=True)
class _UncompactedPart:
    """A part whose rows the compacted table does not hold, or not as they count: without the attempts `left`."""

    part: str
    left: compaction.Left


@dataclass(frozen=True)
class _Rows:
    """Where the rows of a table that count are, in order; `file` is the compacted one, if there is one that can be used."""

    table: str
    file: pq.ParquetFile | None
    runs: Sequence[_RowRange | _UncompactedPart]

    @property
    def one_file(self) -> pq.ParquetFile | None:
        """The compacted table, where it holds just these rows."""
        match self.runs:
            case [_RowRange(start=0, stop=stop)] if self.file is not None and stop == self.file.metadata.num_rows:
                return self.file
        return None
