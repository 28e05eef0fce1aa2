"""The writer of a worker: it stores the rows of ended attempts, several of them as one part."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from moleflow import files
from moleflow.owner import owner_code
from orchestrator.results.parts import make_part, part_file, write_part
from orchestrator.results.schema import ATTEMPTS, COMMON, MAPS, TABLES, to_table
from orchestrator.results.store import ResultStore

PART_INTERVAL_S = 1.0
_COMMON = tuple(column.name for column in COMMON)


@dataclass(frozen=True)
class AttemptRows:
    """The rows of one ended attempt.

    `attempt` is its row of the attempts table. The rows of the other tables get the common columns
    from it.
    """

    attempt: Mapping[str, object]
    metrics: Sequence[Mapping[str, object]] = ()
    scores: Sequence[Mapping[str, object]] = ()
    curves: Sequence[Mapping[str, object]] = ()
    maps: Sequence[Mapping[str, object]] = ()

    @property
    def name(self) -> tuple[str, int]:
        """Trial id and number of the attempt."""
        return str(self.attempt["trial_id"]), int(str(self.attempt["attempt"]))

    def tables(self) -> dict[str, pa.Table]:
        """The checked rows as Arrow tables, by name: the four tables and the maps.

        Raises:
            ValueError: a row does not fit the schema, or holds a NaN.

        """
        return attempt_tables([self])


def attempt_tables(attempts: Sequence[AttemptRows]) -> dict[str, pa.Table]:
    """The checked rows of several attempts as Arrow tables, by name: the four tables and the maps.

    Raises:
        ValueError: a row does not fit the schema, or holds a NaN.

    """
    rows: dict[str, list[Mapping[str, object]]] = {table: [] for table in (*TABLES, MAPS)}
    for each in attempts:
        common = {name: each.attempt.get(name) for name in _COMMON}
        rows[ATTEMPTS].append(each.attempt)
        for table in (*TABLES, MAPS):
            if table != ATTEMPTS:
                rows[table] += [{**common, **row} for row in getattr(each, table)]
    return {table: to_table(table, table_rows) for table, table_rows in rows.items()}


class InvalidRows(ValueError):
    """Attempts whose rows do not fit the schema, or hold a NaN; `errors` by (trial id, number)."""

    def __init__(self, errors: Mapping[tuple[str, int], ValueError]) -> None:
        super().__init__("; ".join(map(str, errors.values())))
        self.errors = errors


class PartWriter:
    """Collects the ended attempts of one process and writes them as parts, at most one per second.

    The worker adds each attempt when it ends, and flushes when `due()` and before it exits.
    """

    def __init__(self, store: ResultStore, clock: Callable[[], float] = time.monotonic) -> None:
        store.create()
        self._store = store
        self._clock = clock
        self._last: float | None = None
        self._pending: list[AttemptRows] = []

    def add(self, rows: AttemptRows) -> None:
        """Add an ended attempt; the next flush checks and stores it."""
        self._pending.append(rows)

    def drop(self, attempts: Collection[tuple[str, int]]) -> None:
        """Forget the rows of attempts, by (trial id, number)."""
        self._pending = [rows for rows in self._pending if rows.name not in attempts]

    def seconds_until_due(self) -> float | None:
        """Seconds to the next flush; None without attempts to write."""
        if not self._pending:
            return None
        return 0.0 if self._last is None else max(0.0, self._last + PART_INTERVAL_S - self._clock())

    def due(self) -> bool:
        """True if there are attempts to write, and the last part is a second old."""
        return self.seconds_until_due() == 0.0

    def flush(self) -> str | None:
        """Write the added attempts as one part.

        Returns:
            The name of the part; None without attempts to write.

        Raises:
            InvalidRows: some attempts do not fit the schema, or hold a NaN. They are dropped; the
                others stay.
            OSError: the disk is full or not writable. No file is left behind, and the attempts
                stay.

        """
        if not self._pending:
            return None
        tables = self._checked()
        # The time comes first, so parts sort by it. The owner tells which are a dead writer's.
        stem = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{owner_code()}"
        part = make_part(stem, tables)
        is_stored = False
        try:
            write_part(self._store.parts, part)
            is_stored = True
        finally:
            # Ctrl-C may come after the last rename. Stored attempts must not be written again.
            if is_stored or files.exists(part_file(self._store.parts, ATTEMPTS, part.name)):
                self._pending.clear()
                self._last = self._clock()
        return part.name

    def _checked(self) -> dict[str, pa.Table]:
        """The tables of the added attempts, checked together, which is much faster than one by one.

        Raises:
            InvalidRows: some attempts are invalid. They are dropped.

        """
        try:
            return attempt_tables(self._pending)
        except ValueError:
            errors: dict[tuple[str, int], ValueError] = {}
            for rows in self._pending:
                try:
                    rows.tables()
                except ValueError as error:
                    errors[rows.name] = error
            self._pending = [rows for rows in self._pending if rows.name not in errors]
            raise InvalidRows(errors) from None
