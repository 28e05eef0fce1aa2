"""What a worker stores: the rows of the attempts that it ends, several of them as one part."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from orchestrator.results.index import COLUMNS, AttemptEntry, IndexedPart
from orchestrator.results.parts import make_part, part_file, write_part
from orchestrator.results.schema import ATTEMPTS, COMMON, MAPS, TABLES, rows_of, to_table
from orchestrator.results.store import ResultStore

PART_INTERVAL_S = 1.0
_COMMON = tuple(column.name for column in COMMON)


@dataclass(frozen=True)
class AttemptRows:
    """The rows of one attempt that has ended.

    `attempt` is its whole row of the attempts table; the rows of the other tables get the common columns from it.
    """

    attempt: Mapping[str, object]
    metrics: Sequence[Mapping[str, object]] = ()
    scores: Sequence[Mapping[str, object]] = ()
    curves: Sequence[Mapping[str, object]] = ()
    maps: Sequence[Mapping[str, object]] = ()

    @property
    def name(self) -> tuple[str, int]:
        """(trial id, number) of the attempt."""
        return str(self.attempt["trial_id"]), int(str(self.attempt["attempt"]))

    def tables(self) -> dict[str, pa.Table]:
        """The rows, checked, as one Arrow table for each of the four tables and the kept maps.

        Raises:
            ValueError: a row does not fit the schema, or holds a NaN.

        """
        return attempt_tables([self])


def attempt_tables(attempts: Sequence[AttemptRows]) -> dict[str, pa.Table]:
    """The rows of several attempts, checked, as one Arrow table for each of the four tables and the kept maps.

    Raises:
        ValueError: a row does not fit the schema, or holds a NaN.

    """
    rows: dict[str, list[Mapping[str, object]]] = {table: [] for table in (*TABLES, MAPS)}
    for one in attempts:
        common = {name: one.attempt.get(name) for name in _COMMON}
        rows[ATTEMPTS].append(one.attempt)
        for table, own in (("metrics", one.metrics), ("scores", one.scores), ("curves", one.curves), (MAPS, one.maps)):
            rows[table] += [{**common, **row} for row in own]
    return {table: to_table(table, of) for table, of in rows.items()}


class InvalidRows(ValueError):
    """Rows of attempts that do not fit the schema, or hold a NaN: what is wrong, by trial id and number of the attempt."""

    def __init__(self, errors: Mapping[tuple[str, int], ValueError]) -> None:
        super().__init__("; ".join(map(str, errors.values())))
        self.errors = errors


class PartWriter:
    """Collects the attempts that one worker ends, and writes them as parts, at most one a second.

    The worker adds each attempt when it ends and flushes when `due()`; before it leaves it flushes once more, whatever
    the time.
    """

    def __init__(self, store: ResultStore, worker: str, clock: Callable[[], float] = time.monotonic) -> None:
        store.create()
        self._store = store
        self._worker = re.sub(r"[^A-Za-z0-9.-]+", "-", worker)
        self._clock = clock
        self._last: float | None = None
        self._pending: list[AttemptRows] = []

    def add(self, rows: AttemptRows) -> None:
        """Take an ended attempt; it is checked and stored, and so finished, with the next flush."""
        self._pending.append(rows)

    def seconds_until_due(self) -> float | None:
        """How long to wait before the next flush; None while there is nothing to write."""
        if not self._pending:
            return None
        return 0.0 if self._last is None else max(0.0, self._last + PART_INTERVAL_S - self._clock())

    def due(self) -> bool:
        """Whether there is something to write, and the last part is a second old."""
        return self.seconds_until_due() == 0.0

    def flush(self) -> str | None:
        """Write what was added as one part, and give its name; None when nothing was.

        Raises:
            Refused: rows of some attempts do not fit the schema, or hold a NaN; these are let go, the others stay for another try.
            OSError: the disk is full or not writable; no file is left behind, and the rows stay for another try.

        """
        if not self._pending:
            return None
        tables = self._checked()
        stem = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{self._worker}"  # the time comes first: parts sort by it
        part = make_part(stem, tables)
        try:
            stamps = write_part(self._store.parts, part)
        finally:
            # Ctrl-C may come after the last rename: what is stored must not be written again.
            if part_file(self._store.parts, ATTEMPTS, part.name).exists():
                self._pending.clear()
                self._last = self._clock()
        rows = rows_of(tables[ATTEMPTS].select(COLUMNS))
        if stamps is not None:
            known = IndexedPart(part.digests, tuple(AttemptEntry(part.name, **row) for row in rows))
            self._store.index.note(self._worker, {part.name: (stamps, known)})
        return part.name

    def _checked(self) -> dict[str, pa.Table]:
        """The tables of what was added: together, which is faster by far than one by one."""
        try:
            return attempt_tables(self._pending)
        except ValueError:
            wrong: dict[tuple[str, int], ValueError] = {}
            for rows in self._pending:
                try:
                    rows.tables()
                except ValueError as error:
                    wrong[rows.name] = error
            self._pending = [rows for rows in self._pending if rows.name not in wrong]
            raise InvalidRows(wrong) from None
