"""A console for others' text, and Markdown on it."""

from __future__ import annotations

from typing import ClassVar

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.markdown import Markdown, MarkdownElement, TableElement
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from orchestrator.host.printable_text import printable, without_controls
from orchestrator.host.whole_numbers import whole_numbers


class _FittedTable(TableElement):
    """A table whose numbers stay whole: what does not fit stands below, under the first column."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in super().__rich_console__(console, options):
            yield from fitting_tables(part, console, options) if isinstance(part, Table) else [part]


_STAND_IN = "\ue000"
_PADDING = 3
"""Characters that a column takes besides its text."""
_NAMES = 3
"""The first column takes at most one part of so many of the width."""
_WORDS = 24
"""Characters at which a column of words is wrapped."""


def fitting_tables(table: Table, console: Console, options: ConsoleOptions) -> list[Table]:
    """Split a table into tables that fit side by side into the width, each with the first column.

    Cells of right-aligned columns, which are numbers, are never wrapped. Words are, at spaces, and
    the first column anywhere: names that were cut could look alike.
    """
    if not table.columns:
        return [table]

    def measured(column: Column) -> int:
        cells = [Measurement.get(console, options, cell) for cell in column.cells]
        head = Measurement.get(console, options, column.header)
        longest = max([head.minimum, *(cell.minimum for cell in cells)])
        whole = max([head.minimum, *(cell.maximum for cell in cells)])
        # Markdown gives the alignment to the texts, not to their column.
        numbers = isinstance(column.header, Text) and column.header.justify == "right"
        return whole if numbers else max(longest, min(whole, _WORDS))

    first = table.columns[0]
    room = options.max_width - min(measured(first), options.max_width // _NAMES) - _PADDING
    groups: list[list[Column]] = [[]]
    used = 0
    for column in table.columns[1:]:
        width = measured(column) + _PADDING
        if groups[-1] and used + width > room:
            groups.append([])
            used = 0
        used += width
        groups[-1].append(column)
        column.min_width = width - _PADDING if width <= room else None
        column.overflow = "fold"
    first.overflow = "fold"
    return [table] if len(groups) == 1 else [_with_columns(table, [first, *group]) for group in groups]


def _with_columns(table: Table, columns: list[Column]) -> Table:
    part = Table(box=table.box, pad_edge=table.pad_edge, style=table.style, show_edge=table.show_edge)
    for column in columns:
        part.add_column(
            column.header, justify=column.justify, style=column.style, min_width=column.min_width, overflow="fold"
        )
    for cells in zip(*(column.cells for column in columns), strict=True):
        part.add_row(*cells)
    return part


class TerminalMarkdown(Markdown):
    """Markdown whose tables lose nothing on a narrow terminal."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {**Markdown.elements, "table_open": _FittedTable}


class _WholeNumbers:
    """Markdown in which no line break parts a number from its unit, or the bounds of an interval.

    Rich breaks lines at every kind of space, so that another sign stands in for some until then.
    """

    def __init__(self, markdown: str) -> None:
        self._content = TerminalMarkdown(whole_numbers(markdown, _STAND_IN))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._content, options):
            yield segment._replace(text=segment.text.replace(_STAND_IN, " "))


class Printable:
    """A renderable without its control characters, each of which rich lays out as no column.

    Args:
        content: the renderable; its colours stay.
    """

    def __init__(self, content: RenderableType) -> None:
        self._content = content

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._content, options):
            yield segment if segment.control else segment._replace(text=without_controls(segment.text))


class _PrintableOnly(RenderHook):
    """Makes all that a console prints printable."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [Printable(one) for one in renderables]


def printable_console(stderr: bool = False, soft_wrap: bool = True) -> Console:
    """A console that prints text as it is, but without the control characters in it.

    Labels and messages may hold `[...]` and `:x:`, and those of others' folders escape codes.
    """
    console = Console(markup=False, emoji=False, highlight=False, soft_wrap=soft_wrap, stderr=stderr)
    console.push_render_hook(_PrintableOnly())
    return console


def show_markdown(markdown: str, console: Console) -> None:
    """Print Markdown: rendered on a terminal, as its text elsewhere."""
    if console.is_terminal:
        console.print(_WholeNumbers(printable(markdown)), soft_wrap=False)
    else:
        # Not through rich: laying out megabytes takes seconds.
        console.file.write(f"{printable(markdown)}\n")
