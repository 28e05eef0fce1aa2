"""Clean up a results folder after writers that died: leftovers, damaged parts, doubled rows."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moleflow import files
from moleflow.owner import CODE, code_is_gone
from orchestrator.results.part_index import PartIndex
from orchestrator.results.parts import (
    Damage,
    DamagedPart,
    make_part,
    open_part_file,
    part_file,
    read_maps,
    temporary_folder,
    write_part,
)
from orchestrator.results.row_reader import without_attempts
from orchestrator.results.schema import ATTEMPTS, MAPS, TABLES

_OWNED = re.compile(rf"-({CODE})-[0-9a-f]{{16}}$")


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


def recover(index: PartIndex, grace_seconds: float) -> Recovered:
    """Clean up a results folder, as `ResultStore.recover` describes it.

    Args:
        index: the parts of the folder, which must exist.
        grace_seconds: the age from which a file without a receipt, of another host, is left.

    Raises:
        OSError: the folder cannot be written.

    """
    removed = _remove_unfinished(index, grace_seconds)
    index.check()
    for name in list(index.damaged):
        # It may have been looked at between two renames of its writer, and be whole now.
        with contextlib.suppress(DamagedPart):
            index.look_again(name)
    damaged = sorted(index.damaged.items())
    for name, _ in damaged:
        for table in TABLES:
            _set_aside(index, table, name)
    index.update()
    return Recovered(tuple(sorted(removed)), tuple(damage for _, damage in damaged), tuple(_split_doubled(index)))


def _remove_unfinished(index: PartIndex, grace_seconds: float) -> list[Path]:
    """Remove temporary files and files without a receipt that dead writers left; return them."""
    folders = [index.parts / table for table in TABLES] + [index.folder / MAPS]
    receipts = set(files.names(index.parts / ATTEMPTS, fresh=True))
    unfinished = [
        folder / name
        for folder in folders
        for name in files.names(folder)
        if name.endswith(".parquet") and name not in receipts
    ]
    removed = files.remove_leftovers(temporary_folder(index.parts))
    return removed + [path for path in unfinished if _is_left(index, path, grace_seconds) and files.remove(path)]


def _is_left(index: PartIndex, path: Path, grace_seconds: float) -> bool:
    """Return True if the writer of a file without a receipt has died."""
    if files.exists(index.parts / ATTEMPTS / path.name):
        return False  # Its writer has finished meanwhile.
    owned = _OWNED.search(path.stem)
    gone = code_is_gone(owned[1]) if owned else None
    since = files.age(path) if gone is None else None
    return bool(gone) or (since is not None and since > grace_seconds)


def _split_doubled(index: PartIndex) -> Iterator[Path]:
    """Write parts with rows of an attempt that another part holds anew, without them."""
    stored = index.stored()
    for name, receipt in sorted(index.receipts.items()):
        doubled = tuple((a.trial_id, a.attempt) for a in receipt.attempts if stored[a.trial_id, a.attempt] != a)
        if not doubled:
            continue
        if len(doubled) < len(receipt.attempts):
            tables = {table: open_part_file(index.parts, table, name, receipt).read() for table in TABLES}
            if (maps := read_maps(index.parts, name)) is not None:
                tables[MAPS] = maps
            left = {table: without_attempts(rows, doubled) for table, rows in tables.items()}
            write_part(index.parts, make_part(name.rpartition("-")[0], left))
        for table in reversed(TABLES):  # The receipt first: no reader sees the rows twice.
            _set_aside(index, table, name)
        yield part_file(index.parts, ATTEMPTS, name)


def _set_aside(index: PartIndex, table: str, name: str) -> None:
    """Move the file of a part to `damaged/<table>/`."""
    aside = part_file(index.folder / "damaged", table, name)
    files.make_folder(aside.parent)
    with contextlib.suppress(FileNotFoundError):
        files.rename(part_file(index.parts, table, name), aside)
