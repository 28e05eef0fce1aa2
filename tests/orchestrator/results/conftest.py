"""Rows generated for the tests of the result store: no trial was run for any of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from orchestrator.results.schema import COLUMNS, COMMON
from orchestrator.results.store import ResultStore
from orchestrator.results.writer import AttemptRows, PartWriter

START = datetime(2025, 1, 1, tzinfo=UTC)


def _value(kind: Any, row: int) -> object:
    if pa.types.is_string(kind):
        return f"text {row}"
    if pa.types.is_integer(kind):
        return row % 2
    if pa.types.is_floating(kind):
        return 0.5 + row
    if pa.types.is_boolean(kind):
        return True
    return [10, 20] if pa.types.is_list(kind) else START


def generated_row(table: str, row: int = 0) -> dict[str, object]:
    """A row with a value in every column of `table` that is the table's own."""
    return {c.name: _value(c.type, row) for c in COLUMNS[table] if c not in COMMON}


def generated_attempt(
    trial: int = 1,
    attempt: int = 1,
    status: str = "finished",
    code: str = "code-a",
    minute: int = 0,
    seed: int = 0,
    rows: int = 3,
) -> AttemptRows:
    """An attempt with `rows` rows in metrics, two in scores and one in curves."""
    row = generated_row("attempts") | {
        "sweep": "generated",
        "trial_id": f"{trial:012x}",
        "attempt": attempt,
        "version": "v3",
        "seed": seed,
        "factors": '{"loss.focal_gamma":2.0}',
        "dataset": "embedded",
        "status": status,
        "started_at": START + timedelta(minutes=minute),
        "code_digest": code,
        "packages": "{}",
        "config": "{}",
        "flags": "[]",
    }
    return AttemptRows(
        row,
        [generated_row("metrics", k) | {"task": k} for k in range(rows)],
        [generated_row("scores", k) for k in range(2)],
        [generated_row("curves")],
    )


@pytest.fixture
def make_row() -> Callable[..., dict[str, object]]:
    return generated_row


@pytest.fixture
def make_attempt() -> Callable[..., AttemptRows]:
    return generated_attempt


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    store = ResultStore(tmp_path / "sweep")
    store.create()
    return store


@pytest.fixture
def write(store: ResultStore) -> Callable[..., str]:
    """Write attempts as one part and give its name."""

    def write(*attempts: AttemptRows) -> str:
        writer = PartWriter(store)
        for attempt in attempts:
            writer.add(attempt)
        name = writer.flush()
        assert name is not None
        return name

    return write
