"""A report's tables for papers: short names, no empty rows, and the notes that readers need."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from orchestrator.reports.notes import CHANGE
from orchestrator.reports.render import ABSENT, Table

DATASET, TASKS, IMAGES = "dataset: ", ("tasks in order", "classes in order"), "images: "
"""The beginnings of the header's lines on the data; `IMAGES` names other images."""
_DRAWN = "flag: validation anomalies are synthetic"
_FOR_AUTHORS = (
    "Compared: ",
    "Set by `version`",
    "Nothing else differs",
    "The density is of adapted features",
    "flag: ",
    "Undefined (null) for ",
    "stale: ",
    "`--rerun-stale`",
    "No change is given",
    "With so many variants, ",
    "Variants as in the first table",
)
"""The beginnings of notes about the sweep, the code or the report; report.md has them."""


def paper_table(table: Table, header: Sequence[str] = ()) -> Table:
    """Return a table for a paper.

    `version=v7` becomes `v7`, rows without any value are left out, and so are notes for authors.

    Args:
        table: a table of a report.
        header: the report's header, of which the lines on the images become notes; empty = none.
    """
    shown = [k for k, (_, cells) in enumerate(table.rows) if any(cell.text != ABSENT for cell in cells)]
    rows = tuple((_short(name), cells) for name, cells in (table.rows[k] for k in shown))
    rules = frozenset(n for rule in table.rules if 0 < (n := sum(k < rule for k in shown)) < len(rows))
    drawn = (_DRAWN,) if _other_split(header) else ()
    notes = [
        _short(note.removeprefix("flag: "))
        for note in table.notes
        if note != CHANGE and (note.startswith(drawn) or not note.startswith(_FOR_AUTHORS))
    ]
    names = (table.title, *table.header)
    notes += [CHANGE] * any("change" in name.lower() for name in names)
    notes += [f"{line[0].upper()}{line[1:]}." for line in header if line.startswith((DATASET, *TASKS))]
    return replace(table, header=tuple(map(_short, table.header)), rows=rows, rules=rules, notes=tuple(notes))


def notes_for_authors(table: Table) -> list[str]:
    """Return the notes of a table that a paper leaves out."""
    return [note for note in table.notes if note.startswith(_FOR_AUTHORS)]


def paper_caption(table: Table, header: Sequence[str]) -> str:
    """Return the caption of a table: its title, and the images that it is about."""
    names = next((line.removeprefix(DATASET) for line in header if line.startswith(DATASET)), "")
    images = names.partition(", digest ")[0]
    split = _other_split(header)
    images += f", {split} images" if split else ""
    return f"{_short(table.title)}, on {images}." if images else f"{_short(table.title)}."


def _other_split(header: Sequence[str]) -> str:
    """Return the split of a report that is not about test images, or nothing."""
    return next((line.removeprefix(IMAGES).partition(",")[0] for line in header if line.startswith(IMAGES)), "")


def _short(text: str) -> str:
    return re.sub(r"\bversion=", "", text)
