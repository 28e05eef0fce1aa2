"""Markdown on a terminal."""

from __future__ import annotations

from typing import ClassVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, MarkdownElement, TableElement
from rich.table import Table


class _FoldedTable(TableElement):
    """A table that wraps wide cells. If they were cut, two columns could look alike."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in super().__rich_console__(console, options):
            if isinstance(part, Table):
                for column in part.columns:
                    column.overflow = "fold"
            yield part


class TerminalMarkdown(Markdown):
    """Markdown whose tables lose nothing on a narrow terminal."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {**Markdown.elements, "table_open": _FoldedTable}


def show_markdown(markdown: str, console: Console) -> None:
    """Print Markdown: rendered on a terminal, as its text elsewhere."""
    if console.is_terminal:
        console.print(TerminalMarkdown(markdown), soft_wrap=False)
    else:
        # Not through rich: laying out megabytes takes seconds.
        console.file.write(f"{markdown}\n")
