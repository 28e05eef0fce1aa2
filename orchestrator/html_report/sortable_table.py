"""The sections of the page and their sortable tables, with best values and caveats marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.html_report.chart import ChartGroup
from orchestrator.html_report.page_data import PageData
from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.render import Table

VERDICT = "Verdict"
MOST_COLUMNS = 4
"""Variants that fit next to each other; more of them become rows."""
TableCell = str | int | list[str] | dict[str, str]
"""A text, a variant's number, [text] for a best value, or {"t": text, "trial": id} for a link."""


@dataclass(frozen=True)
class SortableTable:
    """A table and its notes.

    Attributes:
        title: the heading.
        head: the column names; the first column holds the row names.
        rows: the cells, the row's name first.
        right: for each column true if it holds numbers, which are aligned to the right.
        notes: the sentences under the table.
        column_caveats: {column: caveats of the variant in it}.
        row_caveats: {row: caveats of the variant in it}.

    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[TableCell]]
    right: Sequence[bool]
    notes: tuple[str, ...] = ()
    column_caveats: Mapping[int, Sequence[str]] = field(default_factory=dict)
    row_caveats: Mapping[int, Sequence[str]] = field(default_factory=dict)

    def content(self) -> dict[str, object]:
        """The table as the page's script reads it."""
        return {
            "title": self.title,
            "head": list(self.head),
            "rows": [list(row) for row in self.rows],
            "right": [int(right) for right in self.right],
            "columnCaveats": {str(k): list(caveats) for k, caveats in self.column_caveats.items()},
            "rowCaveats": {str(k): list(caveats) for k, caveats in self.row_caveats.items()},
        }


@dataclass(frozen=True)
class PageSection:
    """A section of the page under its own heading."""

    id: str
    title: str
    intro: str = ""
    tables: tuple[SortableTable, ...] = ()
    groups: tuple[ChartGroup, ...] = ()
    notes: tuple[str, ...] = ()
    gallery: bool = False


def sortable_table(table: Table, page: PageData) -> SortableTable:
    """Return a table of the report for the page, with the caveats of its variants."""
    table = _turned_if_wide(_verdict_first(table), page)
    rows: list[tuple[TableCell, ...]] = [
        (page.variant_numbers.get(name, name), *([cell.text] if cell.bold else cell.text for cell in cells))
        for name, cells in table.rows
    ]
    caveats = {name: page.caveats[k] for name, k in page.variant_numbers.items() if page.caveats[k]}
    of_columns = {k: caveats[name] for k, name in enumerate(table.header) if name in caveats}
    of_rows = {k: caveats[name] for k, (name, _) in enumerate(table.rows) if name in caveats}
    return SortableTable(table.title, table.header, rows, [False, *table.numeric()], table.notes, of_columns, of_rows)


def _turned_if_wide(table: Table, page: PageData) -> Table:
    """Make variants the rows if they do not fit as columns; means come before classes."""
    if len(table.header) - 1 <= MOST_COLUMNS or not page.variant_numbers.keys() >= set(table.header[2:-1]):
        return table
    rows = sorted(table.rows, key=lambda row: not row[0].startswith(f"{MEAN} "))
    return replace(table, rows=tuple(rows)).transposed("Variant")


def _verdict_first(table: Table) -> Table:
    """Move the verdict next to the name, as it would be out of sight at the end of a wide table."""
    if VERDICT not in table.header[1:]:
        return table
    verdict = table.header.index(VERDICT)
    order = [verdict, *(k for k in range(1, len(table.header)) if k != verdict)]
    rows = tuple((name, tuple(cells[k - 1] for k in order)) for name, cells in table.rows)
    return replace(table, header=tuple(table.header[k] for k in (0, *order)), rows=rows)
