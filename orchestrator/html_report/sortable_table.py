"""The sections of the page and their sortable tables, with best values and caveats marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.html_report.chart import ChartGroup
from orchestrator.html_report.page_data import PageData
from orchestrator.reports.render import Table

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
    rows: list[tuple[TableCell, ...]] = [
        (page.variant_numbers.get(name, name), *([cell.text] if cell.bold else cell.text for cell in cells))
        for name, cells in table.rows
    ]
    caveats = {name: page.caveats[k] for name, k in page.variant_numbers.items() if page.caveats[k]}
    of_columns = {k: caveats[name] for k, name in enumerate(table.header) if name in caveats}
    of_rows = {k: caveats[name] for k, (name, _) in enumerate(table.rows) if name in caveats}
    return SortableTable(table.title, table.header, rows, [False, *table.numeric()], table.notes, of_columns, of_rows)
