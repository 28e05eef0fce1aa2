"""The result store: workers add parts, readers get every row that counts once.

`parts/` is the truth; `tables/` is a copy of it that saves reading. Reading writes nothing. A
damaged part never stops a reader: `damaged` names it, and its attempts count as not finished.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from moleflow import files
from orchestrator.results import compaction, recovery
from orchestrator.results.compaction import Compaction
from orchestrator.results.part_index import EMPTY, PartIndex
from orchestrator.results.parts import Damage, part_file, read_maps, serialise, temporary_folder
from orchestrator.results.row_reader import PartChanged, find_rows, load_rows
from orchestrator.results.schema import PRUNED, TABLES, to_table
from orchestrator.results.thumbnails import ThumbnailStore

Result = TypeVar("Result")


@dataclass(frozen=True)
class FinishedAttempt:
    """The attempt that counts of a finished trial."""

    attempt: int
    code_digest: str
    started_at: datetime


class ResultStore:
    """The results of one sweep. This object looks at each part once, since parts never change.

    Args:
        folder: the results folder.
        from_parts: compare every file of every part with its digest, and read no compacted table.

    """

    def __init__(self, folder: Path, from_parts: bool = False) -> None:
        self.folder = folder
        self.parts = folder / "parts"
        self._index = PartIndex(folder, from_parts)

    def create(self) -> None:
        """Make the folders, and in each table a file without rows.

        Raises:
            OSError: the folder cannot be written.

        """
        files.make_folder(temporary_folder(self.parts))
        for table in TABLES:
            empty = part_file(self.parts, table, EMPTY)
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
            rows = find_rows(self._index, table, compacted)
            result, mask = mark(load_rows(self._index, rows, mark_columns)[0])
            if rows.one_file is not None:
                return result, compaction.read_marked(rows.one_file, columns, mask)
            return result, load_rows(self._index, rows, columns)[0].filter(mask)

        return self._retry_if_changed(work)

    def finished(self, fresh: bool = False) -> dict[str, FinishedAttempt]:
        """The finished trials by id, each with the attempt that counts.

        Args:
            fresh: also those that another host stored a moment ago; needs write access.
        """
        self._index.update(fresh)
        return {
            trial: FinishedAttempt(a.attempt, a.code_digest, a.started_at) for trial, a in self._index.counted().items()
        }

    def pruned(self) -> frozenset[str]:
        """The trials that were stopped early for good and never finished."""
        self._index.update()
        stopped = {a.trial_id for a in self._index.stored().values() if a.status == PRUNED}
        return frozenset(stopped - self._index.counted().keys())

    def statuses(self, fresh: bool = False) -> dict[tuple[str, int], str]:
        """The status of every stored attempt, by (trial id, number); `fresh` as for `finished`."""
        self._index.update(fresh)
        return {(a.trial_id, a.attempt): a.status for a in self._index.stored().values()}

    def maps(self, trial_ids: Collection[str]) -> list[dict[str, Any]]:
        """The anomaly maps of finished trials that are intact, with small pictures of the images.

        Returns: Rows of the table `maps`, each with `picture` (JPEG, 128 x 128) and `mask` (1-bit
            PNG, or None without a mask).

        """
        self._index.update()
        wanted = {
            (a.trial_id, a.attempt): a.part for trial, a in self._index.counted().items() if trial in set(trial_ids)
        }
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
        return hashlib.sha256(json.dumps([sorted(self._index.receipts), damaged]).encode()).hexdigest()

    @property
    def damaged(self) -> tuple[Damage, ...]:
        """The damaged parts that are known so far; `recover` sets them aside."""
        self._index.update()
        return tuple(damage for _, damage in sorted(self._index.damaged.items()))

    def check(self) -> None:
        """Compare the parts outside the compacted list with their digests, each part once."""
        self._index.check()

    def recover(self, grace_seconds: float = files.LEFT_BEHIND_S) -> recovery.Recovered:
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
        return recovery.recover(self._index, grace_seconds)

    def compact(self) -> None:
        """Write `tables/`: the rows that count. Nothing is written if they are current.

        Raises:
            OSError: the disk is full or not writable; the tables stay as they were.

        """
        self._index.update()
        # Every file of a part outside the list is read below and compared with its digest.
        self._retry_if_changed(self._compact)
        self._index.set_checked()

    def _read(
        self, table: str, compacted: bool, columns: Sequence[str] | None = None
    ) -> tuple[pa.Table, dict[str, int]]:
        """The rows that count, and the number of them by part."""
        return load_rows(self._index, find_rows(self._index, table, compacted), columns)

    def _retry_if_changed(self, work: Callable[[bool], Result]) -> Result:
        """Work on the rows that count, again if what holds them changed meanwhile.

        Args:
            work: gets whether it may read the compacted tables.

        """
        compacted = True
        while True:
            try:
                return work(compacted)
            except PartChanged as error:
                # The list trusts the part, or its digests fitted before. Failing disks change bytes
                # without a new stamp.
                self._index.set_damaged(error.part, error.damage)
                # If one is damaged, others may be: find them all before the work starts again.
                self.check()
            except compaction.TableChanged:
                compacted = False

    def _compact(self, compacted: bool) -> None:
        parts, known = self._index.listing(), self._index.compaction()
        tables_fit = {name: part.left_out for name, part in known.parts.items()} == {
            name: part.left_out for name, part in parts.items()
        } and all(compaction.open_table(self.folder, table, known) is not None for table in TABLES)
        if not tables_fit:
            compaction.write_tables(self.folder, ((table, *self._read(table, compacted)) for table in TABLES), parts)
        elif any(known.parts[name].stamps != part.stamps for name, part in parts.items()):
            # The folder was copied, for example: same rows, other stamps.
            listed = {name: replace(part, stamps=parts[name].stamps) for name, part in known.parts.items()}
            compaction.write_list(self.folder, Compaction(known.digests, listed))
