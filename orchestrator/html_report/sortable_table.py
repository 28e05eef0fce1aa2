"""Tables as the page's script draws them: sortable, the best marked, and marks at the columns or rows that need them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.html_report.page_data import PageData
from orchestrator.reports.render import Table

VERDICT = "Verdict"
SheetCell = str | int | list[str] | dict[str, str]
"""A text, the place of a variant; in a list of one where it is the best; with the trial that it opens."""


@dataclass(frozen=True)
class SortableTable:
    """A table, and what is written under it.

    Args:
        title: its heading.
        head: the columns, the first being that of the row names.
        rows: the cells, row name first.
        right: for each column whether it holds numbers, which belong to the right.
        notes: what stands under it.
        column_marks: {column: its marks}.
        row_marks: {row: its marks}.

    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[SheetCell]]
    right: Sequence[bool]
    notes: tuple[str, ...] = ()
    column_marks: Mapping[int, Sequence[str]] = field(default_factory=dict)
    row_marks: Mapping[int, Sequence[str]] = field(default_factory=dict)

    def content(self) -> dict[str, object]:
        """What the page's script needs to draw it."""
        return {
            "title": self.title,
            "head": list(self.head),
            "rows": [list(row) for row in self.rows],
            "right": [int(right) for right in self.right],
            "columnMarks": {str(k): list(marks) for k, marks in self.column_marks.items()},
            "rowMarks": {str(k): list(marks) for k, marks in self.row_marks.items()},
        }


def sortable_table(table: Table, evidence: PageData | None = None) -> SortableTable:
    """A table of the report, with the marks of the variants that its columns or rows are."""
    table = _answer_first(table)
    places = {} if evidence is None else evidence.places
    rows: list[tuple[SheetCell, ...]] = [
        (places.get(name, name), *([cell.text] if cell.bold else cell.text for cell in cells))
        for name, cells in table.rows
    ]
    columns, of_rows = {}, {}
    if evidence is not None:
        marks = {name: evidence.marks[k] for name, k in evidence.places.items() if evidence.marks[k]}
        columns = {k: marks[name] for k, name in enumerate(table.header) if name in marks}
        of_rows = {k: marks[name] for k, (name, _) in enumerate(table.rows) if name in marks}
    return SortableTable(table.title, table.header, rows, [False, *table.numeric()], table.notes, columns, of_rows)


def _answer_first(table: Table) -> Table:
    """The verdict beside the name: at the end of a wide table it would be out of sight."""
    if VERDICT not in table.header[1:]:
        return table
    at = table.header.index(VERDICT)
    order = [at, *(k for k in range(1, len(table.header)) if k != at)]
    header = (table.header[0], *(table.header[k] for k in order))
    return replace(
        table, header=header, rows=tuple((name, tuple(cells[k - 1] for k in order)) for name, cells in table.rows)
    )
