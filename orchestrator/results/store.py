"""The result store: workers add parts, readers get every row that counts once.

`parts/` is the truth; `tables/` is a copy of it that saves reading. Reading writes nothing. A
damaged part never stops a reader: `damaged` names it, and its attempts count as not finished.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from moleflow import files
from moleflow.errors import InvalidInput
from moleflow.owner import CODE, code_is_gone
from orchestrator.results import compaction
from orchestrator.results.compaction import CompactedPart, Compaction, LeftOut
from orchestrator.results.parts import (
    Damage,
    DamagedPart,
    Receipt,
    Stamps,
    StoredAttempt,
    check_digests,
    damaged_if_unreadable,
    file_stamps,
    make_part,
    open_part_file,
    part_file,
    read_columns,
    read_maps,
    read_receipt,
    serialise,
    temporary_folder,
    write_part,
)
from orchestrator.results.schema import ATTEMPTS, FINISHED, MAPS, PRUNED, TABLES, arrow_schema, to_table
from orchestrator.results.thumbnails import ThumbnailStore

GRACE_S = 3600.0
"""Age of files without a receipt from which no writer of another host finishes them."""
Result = TypeVar("Result")
_OWNED = re.compile(rf"-({CODE})-[0-9a-f]{{16}}$")
_EMPTY = "00000000-empty"
"""A part without rows, so that readers find the schema before the first attempt ends."""


@dataclass(frozen=True)
class FinishedAttempt:
    """The attempt that counts of a finished trial."""

    attempt: int
    code_digest: str
    started_at: datetime


@dataclass(frozen=True)
class Recovered:
    """Files of unfinished writes that `recover` removed, and parts that it set aside.

    Attributes:
        removed: files of writers that died.
        set_aside: damaged parts.
        doubled: parts with rows of an attempt that another part held too, now written without them.

    """

    removed: tuple[Path, ...]
    set_aside: tuple[Damage, ...]
    doubled: tuple[Path, ...] = ()


class ResultStore:
    """The results of one sweep.

    Parts never change, so this object looks at each part once. How closely depends on the
    compacted list:

    - A part in the list with the stamps of today is known to be whole; none of its files is read.
    - A part in the list with other stamps is compared with all its digests.
    - Of a part outside the list only the receipt is read. Its other files are compared with their
      digests before any row is read, and by `check`, `recover` and `compact`.

    Args:
        folder: the results folder.
        from_parts: compare every file of every part with its digest, and read no compacted table.

    """

    def __init__(self, folder: Path, from_parts: bool = False) -> None:
        self.folder = folder
        self.parts = folder / "parts"
        self._from_parts = from_parts
        self._receipts: dict[str, Receipt] = {}
        self._stamps: dict[str, Stamps | None] = {}
        self._unchecked: set[str] = set()
        self._damaged: dict[str, Damage] = {}
        self._counted_attempts: dict[str, StoredAttempt] | None = None
        self._kept_attempts: dict[tuple[str, int], StoredAttempt] | None = None
        self._list: tuple[tuple[int, int, int] | None, Compaction] = (None, compaction.NOTHING)

    def create(self) -> None:
        """Make the folders, and in each table a file without rows.

        Raises:
            OSError: the folder cannot be written.

        """
        files.make_folder(temporary_folder(self.parts))
        for table in TABLES:
            empty = part_file(self.parts, table, _EMPTY)
            if not files.exists(empty):
                files.make_folder(self.parts / table)
                files.write_atomically(empty, serialise(to_table(table, [])), folder=temporary_folder(self.parts))

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows that count, each once.

        Of a finished trial one attempt counts; attempts that ended otherwise all count.

        Args:
            table: metrics, scores, curves or attempts.
            columns: names to read; default: all of the schema.

        Raises:
            InvalidInput: the folder holds no store, or a part was written with another schema.
            Damaged: a file was removed while it was read.

        """
        self.check()
        return self._retry_if_changed(lambda compacted: self._read(table, compacted, columns)[0])

    def read_marked(
        self,
        table: str,
        mark_columns: Sequence[str],
        mark: Callable[[pa.Table], tuple[Result, pa.BooleanArray]],
        columns: Sequence[str],
    ) -> tuple[Result, pa.Table]:
        """Some of the rows that `read` gives, in their order, without the memory that all take.

        Args:
            table: as for `read`.
            mark_columns: the columns that `mark` needs.
            mark: gets these columns of all rows; returns a result of its own, and one boolean per
                row.
            columns: the columns to read of the rows with true.

        Raises:
            InvalidInput, Damaged: as `read`.

        """
        self.check()

        def work(compacted: bool) -> tuple[Result, pa.Table]:
            rows = self._rows(table, compacted)
            result, mask = mark(self._read_rows(rows, mark_columns)[0])
            if rows.one_file is not None:
                return result, compaction.read_marked(rows.one_file, columns, mask)
            return result, self._read_rows(rows, columns)[0].filter(mask)

        return self._retry_if_changed(work)

    def finished(self, fresh: bool = False) -> dict[str, FinishedAttempt]:
        """The finished trials by id, each with the attempt that counts.

        Of several finished attempts the lowest number counts. If they were made by different code,
        those of the most recently started one are considered only.

        Args:
            fresh: also those that another host stored a moment ago; needs write access.
        """
        self._update(fresh)
        return {trial: FinishedAttempt(a.attempt, a.code_digest, a.started_at) for trial, a in self._counted().items()}

    def pruned(self) -> frozenset[str]:
        """The trials that were stopped early for good and never finished."""
        self._update()
        stopped = {a.trial_id for a in self._one_of_each().values() if a.status == PRUNED}
        return frozenset(stopped - self._counted().keys())

    def statuses(self, fresh: bool = False) -> dict[tuple[str, int], str]:
        """The status of every stored attempt, by (trial id, number); `fresh` as for `finished`."""
        self._update(fresh)
        return {(a.trial_id, a.attempt): a.status for a in self._one_of_each().values()}

    def maps(self, trial_ids: Collection[str]) -> list[dict[str, Any]]:
        """The anomaly maps of finished trials that are intact, with small pictures of the images.

        Returns: Rows of the table `maps`, each with `picture` (JPEG, 128 x 128) and `mask` (1-bit
            PNG, or None without a mask).

        """
        self._update()
        wanted = {(a.trial_id, a.attempt): a.part for trial, a in self._counted().items() if trial in set(trial_ids)}
        tables = (read_maps(self.parts, part) for part in sorted(set(wanted.values())))
        rows = [row for table in tables if table is not None for row in table.to_pylist()]
        rows = [row for row in rows if (row["trial_id"], row["attempt"]) in wanted]
        pictures = ThumbnailStore(self.folder)
        pairs = ((row, pictures.read(row["image_digest"])) for row in rows)
        return [row | {"picture": image.picture, "mask": image.mask} for row, image in pairs if image is not None]

    def digest(self) -> str:
        """A digest of the parts: equal digests, equal rows."""
        # The name of a part holds the digest of its receipt, which holds those of its other files.
        damaged = [[str(damage.path.relative_to(self.folder)), damage.reason] for damage in self.damaged]
        return hashlib.sha256(json.dumps([sorted(self._receipts), damaged]).encode()).hexdigest()

    @property
    def damaged(self) -> tuple[Damage, ...]:
        """The damaged parts that are known so far; `recover` sets them aside."""
        self._update()
        return tuple(damage for _, damage in sorted(self._damaged.items()))

    def check(self) -> None:
        """Compare the parts outside the compacted list with their digests, each part once."""
        self._update()
        for name in sorted(self._unchecked):
            try:
                check_digests(self.parts, name, self._receipts[name])
            except DamagedPart as error:
                self._set_damaged(name, error.damage)
            self._unchecked.discard(name)

    def recover(self, grace_seconds: float = GRACE_S) -> Recovered:
        """Clean up after writers that died: at the start of a sweep, before anything is planned.

        Temporary files and files without a receipt are removed if their writer has died, or is of
        another host and has not touched them for `grace_seconds`. Damaged parts move to
        `damaged/<table>/` whole, so that every reader can read `parts/` again; their attempts count
        as not finished. A part with rows of an attempt that another part holds too, which earlier
        code could write, is replaced by one without them.

        Raises:
            OSError: the folder cannot be written.

        """
        self.create()
        folders = [self.parts / table for table in TABLES] + [self.folder / MAPS]
        receipts = set(files.names(self.parts / ATTEMPTS, fresh=True))
        unfinished = [
            folder / name
            for folder in folders
            for name in files.names(folder)
            if name.endswith(".parquet") and name not in receipts
        ]
        removed = files.remove_leftovers(temporary_folder(self.parts))
        for path in unfinished:
            if self._is_left(path, grace_seconds) and files.remove(path):
                removed.append(path)
        self.check()
        for name in list(self._damaged):
            # It may have been looked at between two renames of its writer, and be whole now.
            with contextlib.suppress(DamagedPart):
                self._add_checked(name, file_stamps(self.parts, name))
                del self._damaged[name]
        set_aside = self.damaged
        for name in list(self._damaged):
            for table in TABLES:
                self._set_aside(table, name)
        return Recovered(tuple(sorted(removed)), set_aside, tuple(self._split_doubled()))

    def _split_doubled(self) -> Iterator[Path]:
        """Write parts with rows of an attempt that another part holds anew, without them."""
        self._update()
        kept = self._one_of_each()
        for name, receipt in sorted(self._receipts.items()):
            doubled = tuple((a.trial_id, a.attempt) for a in receipt.attempts if kept[a.trial_id, a.attempt] != a)
            if not doubled:
                continue
            if len(doubled) < len(receipt.attempts):
                tables = {table: open_part_file(self.parts, table, name, receipt).read() for table in TABLES}
                if (maps := read_maps(self.parts, name)) is not None:
                    tables[MAPS] = maps
                write_part(
                    self.parts,
                    make_part(
                        name.rpartition("-")[0], {table: _without(rows, doubled) for table, rows in tables.items()}
                    ),
                )
            for table in reversed(TABLES):
                self._set_aside(table, name)
            yield part_file(self.parts, ATTEMPTS, name)

    def _is_left(self, path: Path, grace_seconds: float) -> bool:
        """True if the writer of a file without a receipt has died."""
        if files.exists(self.parts / ATTEMPTS / path.name):
            return False  # Its writer has finished meanwhile.
        owned = _OWNED.search(path.stem)
        gone = code_is_gone(owned[1]) if owned else None
        since = files.age(path) if gone is None else None
        return bool(gone) or (since is not None and since > grace_seconds)

    def _set_aside(self, table: str, name: str) -> None:
        """Move the file of a part to `damaged/<table>/`."""
        aside = part_file(self.folder / "damaged", table, name)
        files.make_folder(aside.parent)
        with contextlib.suppress(FileNotFoundError):
            files.rename(part_file(self.parts, table, name), aside)

    def compact(self) -> None:
        """Write `tables/`: the rows that count. Nothing is written if they are current.

        Raises:
            OSError: the disk is full or not writable; the tables stay as they were.

        """
        self._update()
        # Every file of a part outside the list is read below and compared with its digest.
        self._retry_if_changed(self._compact)
        self._unchecked.clear()

    def _update(self, fresh: bool = False) -> None:
        """Add the parts that are new since the last look, and drop those that are gone."""
        if not files.exists(self.parts):
            if files.exists(self.folder / "sweep.json"):
                raise InvalidInput(f"{self.folder}: its results are gone (no folder parts/); run the sweep again")
            raise InvalidInput(f"{self.folder}: no results here (no folder parts/); give the folder that a sweep wrote")
        listed_names = files.names(self.parts / ATTEMPTS, fresh)
        names = {name.removesuffix(".parquet") for name in listed_names if name.endswith(".parquet")} - {_EMPTY}
        for gone in (self._receipts.keys() | self._damaged.keys()) - names:
            self._receipts.pop(gone, None)
            self._damaged.pop(gone, None)
            self._unchecked.discard(gone)
            self._counted_attempts = self._kept_attempts = None
        new = sorted(names - self._receipts.keys() - self._damaged.keys())
        listed = self._compaction().parts if new else {}
        for name in new:
            self._counted_attempts = self._kept_attempts = None
            try:
                self._add(name, listed.get(name))
            except DamagedPart as error:
                self._damaged[name] = error.damage

    def _add(self, name: str, listed: CompactedPart | None) -> None:
        """Look at a part for the first time; `listed` is what the compacted list has of it.

        Raises:
            DamagedPart: it is damaged.

        """
        # The stamps come first: if files change while they are read, the listed stamps do not fit.
        stamps = file_stamps(self.parts, name)
        if listed is not None and listed.stamps == stamps:
            self._receipts[name], self._stamps[name] = listed.receipt, stamps
        elif listed is not None or stamps is None or self._from_parts:
            self._add_checked(name, stamps)
        else:
            self._receipts[name], self._stamps[name] = read_receipt(self.parts, name), stamps
            self._unchecked.add(name)

    def _add_checked(self, name: str, stamps: Stamps | None) -> None:
        """Add a part once all its files were compared with their digests.

        Raises:
            DamagedPart: one of them is missing or has changed.

        """
        receipt = read_receipt(self.parts, name)
        check_digests(self.parts, name, receipt)
        self._receipts[name], self._stamps[name] = receipt, stamps
        self._counted_attempts = self._kept_attempts = None

    def _set_damaged(self, name: str, damage: Damage) -> None:
        del self._receipts[name]
        self._unchecked.discard(name)
        self._damaged[name] = damage
        self._counted_attempts = self._kept_attempts = None

    def _compaction(self) -> Compaction:
        """The list of the compacted tables, read again after it was replaced."""
        if self._from_parts:
            return compaction.NOTHING
        status = files.stat_of(compaction.list_file(self.folder))
        if status is None:
            return compaction.NOTHING
        stamp = status.st_ino, status.st_size, status.st_mtime_ns
        if stamp != self._list[0]:
            self._list = stamp, compaction.read_list(self.folder)
        return self._list[1]

    def _one_of_each(self) -> dict[tuple[str, int], StoredAttempt]:
        """Each stored attempt once.

        Earlier code could store two rows of an attempt whose worker was taken for dead and went on.
        The one that counts for its trial is kept, then a finished one, then the earlier one.
        """
        if self._kept_attempts is None:
            counted = self._counted()
            stored = [a for _, receipt in sorted(self._receipts.items(), reverse=True) for a in receipt.attempts]
            stored.sort(key=lambda a: (counted.get(a.trial_id) == a, a.status == FINISHED))
            self._kept_attempts = {(a.trial_id, a.attempt): a for a in stored}
        return self._kept_attempts

    def _counted(self) -> dict[str, StoredAttempt]:
        """The attempt that counts of each finished trial."""
        if self._counted_attempts is None:
            trials: dict[str, list[StoredAttempt]] = {}
            for attempt in (a for receipt in self._receipts.values() for a in receipt.attempts if a.status == FINISHED):
                trials.setdefault(attempt.trial_id, []).append(attempt)
            self._counted_attempts = {}
            for trial, attempts in trials.items():
                code = max(attempts, key=lambda a: a.started_at).code_digest
                candidates = [a for a in attempts if a.code_digest == code]
                self._counted_attempts[trial] = min(candidates, key=lambda a: (a.attempt, a.started_at, a.part))
        return self._counted_attempts

    def _left_out(self) -> dict[str, LeftOut]:
        """The attempts of each part that do not count; the parts in order."""
        counted, kept = self._counted(), self._one_of_each()
        return {
            name: tuple(
                (a.trial_id, a.attempt)
                for a in receipt.attempts
                if a != (counted[a.trial_id] if a.status == FINISHED else kept[a.trial_id, a.attempt])
            )
            for name, receipt in sorted(self._receipts.items())
        }

    def _retry_if_changed(self, work: Callable[[bool], Result]) -> Result:
        """Work on the rows that count, again if what holds them changed meanwhile.

        Args:
            work: gets whether it may read the compacted tables.

        """
        compacted = not self._from_parts
        while True:
            try:
                return work(compacted)
            except _PartChanged as error:
                # The list trusts the part, or its digests fitted before. Failing disks change bytes
                # without a new stamp.
                self._set_damaged(error.part, error.damage)
                # If one is damaged, others may be: find them all before the work starts again.
                self.check()
            except compaction.TableChanged:
                compacted = False

    def _compact(self, compacted: bool) -> None:
        parts = {
            name: CompactedPart(self._stamps[name] or (), self._receipts[name], left_out)
            for name, left_out in self._left_out().items()
        }
        known = self._compaction()
        tables_fit = {name: part.left_out for name, part in known.parts.items()} == {
            name: part.left_out for name, part in parts.items()
        } and all(compaction.open_table(self.folder, table, known) is not None for table in TABLES)
        if not tables_fit:
            compaction.write_tables(self.folder, ((table, *self._read(table, compacted)) for table in TABLES), parts)
        elif any(known.parts[name].stamps != part.stamps for name, part in parts.items()):
            # The folder was copied, for example: same rows, other stamps.
            listed = {name: replace(part, stamps=parts[name].stamps) for name, part in known.parts.items()}
            compaction.write_list(self.folder, Compaction(known.digests, listed))

    def _read(
        self, table: str, compacted: bool, columns: Sequence[str] | None = None
    ) -> tuple[pa.Table, dict[str, int]]:
        """The rows that count, and the number of them by part."""
        return self._read_rows(self._rows(table, compacted), arrow_schema(table).names if columns is None else columns)

    def _rows(self, table: str, compacted: bool) -> _Rows:
        """The places of the rows of a table that count."""
        known = self._compaction() if compacted else compaction.NOTHING
        file = compaction.open_table(self.folder, table, known)
        index = TABLES.index(table)
        places: list[_RowRange | _UncompactedPart] = []
        for name, left_out in self._left_out().items():
            part = None if file is None else known.parts.get(name)
            if part is None or part.left_out != left_out:
                places.append(_UncompactedPart(name, left_out))
                continue
            last = places[-1] if places else None
            if not isinstance(last, _RowRange) or last.stop != part.starts[index]:
                places.append(last := _RowRange(part.starts[index], part.starts[index], {}))
            last.parts[name] = part.rows[index]
            last.stop += part.rows[index]
        return _Rows(table, file, places)

    def _read_rows(self, rows: _Rows, columns: Sequence[str]) -> tuple[pa.Table, dict[str, int]]:
        """Columns of these rows, and the number of them by part."""
        schema = pa.schema([arrow_schema(rows.table).field(name) for name in columns])
        compacted = None if rows.file is None else compaction.read_compacted_columns(rows.file, columns)
        pieces: list[pa.Table] = []
        counts: dict[str, int] = {}
        for place in rows.places:
            if isinstance(place, _UncompactedPart):
                pieces.append(self._read_part(rows.table, place.part, schema, place.left_out))
                counts[place.part] = len(pieces[-1])
            elif compacted is not None:
                pieces.append(compacted.slice(place.start, place.stop - place.start))
                counts |= place.parts
        return pa.concat_tables(pieces or [schema.empty_table()]).combine_chunks(), counts

    def _read_part(self, table: str, name: str, schema: pa.Schema, left_out: LeftOut) -> pa.Table:
        """One part's rows of a table, without the attempts `left_out`, in this schema."""
        path = part_file(self.parts, table, name)
        try:
            file = open_part_file(self.parts, table, name, self._receipts[name])
        except DamagedPart as error:
            if not files.exists(path):
                raise
            raise _PartChanged(name, error.damage) from error
        stored = set(file.schema_arrow.names)
        missing = {f.name for f in schema if f.name not in stored}
        for field in schema:
            if field.name in missing and not field.nullable:
                hint = "another version of moleflow-sweep wrote it; use that one, or a new folder"
                raise InvalidInput(f"{path}: has no column {field.name}: {hint}")
        try:
            with damaged_if_unreadable(path):
                piece = read_columns(file, sorted({f.name for f in schema} - missing | {"trial_id", "attempt"}))
                piece = _without(piece, left_out)
                arrays = [
                    pa.nulls(len(piece), f.type) if f.name in missing else piece[f.name].cast(f.type) for f in schema
                ]
                return pa.Table.from_arrays(arrays, schema=schema)
        except DamagedPart as error:
            raise _PartChanged(name, error.damage) from error


def _without(rows: pa.Table, left_out: LeftOut) -> pa.Table:
    """The rows of a table that are not of these attempts."""
    for trial_id, attempt in left_out:
        same = pc.and_(pc.equal(rows["trial_id"], trial_id), pc.equal(rows["attempt"], attempt))
        rows = rows.filter(pc.invert(same))
    return rows


class _PartChanged(Exception):
    """A part that was whole when it was looked at has changed."""

    def __init__(self, part: str, damage: Damage) -> None:
        super().__init__(damage.reason)
        self.part, self.damage = part, damage


@dataclass
class _RowRange:
    """Adjacent rows of the compacted table, `start` to before `stop`, and their number by part."""

    start: int
    stop: int
    parts: dict[str, int]


@dataclass(frozen=True)
class _UncompactedPart:
    """A part whose rows without the attempts `left_out` are not in the compacted table."""

    part: str
    left_out: LeftOut


@dataclass(frozen=True)
class _Rows:
    """The places of the rows of a table that count, in order; `file` is its compacted table."""

    table: str
    file: pq.ParquetFile | None
    places: Sequence[_RowRange | _UncompactedPart]

    @property
    def one_file(self) -> pq.ParquetFile | None:
        """The compacted table, if it holds exactly these rows."""
        match self.places:
            case [_RowRange(start=0, stop=stop)] if self.file is not None and stop == self.file.metadata.num_rows:
                return self.file
        return None
