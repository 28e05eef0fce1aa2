"""A console for others' text, and Markdown on it."""

from __future__ import annotations

from typing import ClassVar

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.markdown import Markdown, MarkdownElement, TableElement
from rich.table import Table

from orchestrator.host.printable_text import printable, without_controls


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
        console.print(TerminalMarkdown(printable(markdown)), soft_wrap=False)
    else:
        # Not through rich: laying out megabytes takes seconds.
        console.file.write(f"{printable(markdown)}\n")
