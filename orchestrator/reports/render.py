"""A table in three notations: Markdown as GitHub reads it, LaTeX (booktabs), and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.host.printable_text import printable, single_line

ABSENT = "\u2013"
"""The text of a cell without a value: an en dash."""
WIDEST = 8
"""With more variants, variants become rows, and values of single classes are in the CSV alone."""


@dataclass(frozen=True)
class Cell:
    """The text of a table cell, and whether it is bold."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table and the notes under it.

    In titles, names and notes, `code` between backquotes is set as code.

    Attributes:
        header: the columns' names; the first one heads the row names.
        rows: (row name, one cell for each column after the first).
        rules: numbers of the rows that LaTeX sets a rule above.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    notes: tuple[str, ...] = ()
    rules: frozenset[int] = frozenset()

    def numeric(self) -> list[bool]:
        """Say for each column after the first whether it holds numbers, which are right-aligned."""
        columns = zip(*(cells for _, cells in self.rows), strict=True) if self.rows else [()] * (len(self.header) - 1)
        return [all(_is_number(cell.text) for cell in column) for column in columns]

    def transposed(self, corner: str) -> Table:
        """Return the table with rows as columns; `corner` names the new first column."""
        columns = zip(*(cells for _, cells in self.rows), strict=True)
        rows = tuple((name, cells) for name, cells in zip(self.header[1:], columns, strict=True))
        return Table(self.title, (corner, *(name for name, _ in self.rows)), rows, self.notes)


def _is_number(text: str) -> bool:
    """Say whether a cell is empty, or numbers with signs and the words of intervals and p."""
    digits = re.sub(r"(?<=\d)e[-+]?(?=\d)|\b(from|to|floor|n)\b", "", text)
    return not re.search(r"[^\W\d_]", digits)


def markdown_table(table: Table) -> str:
    """Return the table as a pipe table under its title, with its notes as a list."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rows = [[markdown_text(name), *(_markdown_cell(cell) for cell in cells)] for name, cells in table.rows]
    lines = [f"## {markdown_text(table.title)}", "", line(map(markdown_text, table.header))]
    rules = "".join("---:|" if right else "---|" for right in table.numeric())
    lines += [f"|---|{rules}", *(line(row) for row in rows)]
    return "\n".join([*lines, "", *markdown_list(table.notes)]).rstrip() + "\n"


def markdown_list(items: Iterable[str]) -> list[str]:
    """Return the items as lines of a list."""
    return [f"- {markdown_text(item)}" for item in items]


def _markdown_cell(cell: Cell) -> str:
    return f"**{markdown_text(cell.text)}**" if cell.bold else markdown_text(cell.text)


def markdown_text(text: str) -> str:
    """Return a text in one line, with every character escaped that would start markup."""
    line = single_line(text)
    # Readers of Markdown pair backquotes by the length of their runs. If not all are single ones in
    # pairs, none is taken for code.
    pieces = [line] if "``" in line or line.count("`") % 2 else re.split(r"(`[^`]*`)", line)
    signs = r"\\`*<>\[\]~" if len(pieces) == 1 else r"\\*<>\[\]~"
    # GitHub splits a cell at a pipe even within code, so pipes are escaped everywhere.
    plain = [re.sub(rf"([{signs}]|(?<!\w)_|_(?!\w))", r"\\\1", piece) for piece in pieces[::2]]
    pieces[::2] = plain
    return "".join(pieces).replace("|", "\\|")


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "→": r"$\to$",
    ABSENT: "--",
    **{sign: f"\\{sign}" for sign in "&%$#_"},
}


def latex_text(text: str) -> str:
    """Return a text with every character escaped that has a meaning in LaTeX."""
    pieces = re.split(r"`([^`]*)`", single_line(text))
    escaped = ["".join(_LATEX.get(sign, sign) for sign in piece) for piece in pieces]
    escaped[1::2] = [f"\\texttt{{{piece}}}" for piece in escaped[1::2]]
    return "".join(escaped)


def latex_label(name: str, title: str) -> str:
    """Return the label of a table, such as `tab:v7-gamma-per-class-after-the-final-task`.

    Args:
        name: the sweep.
        title: the table's title, by which a report's labels differ.
    """
    words = re.findall(r"[a-z0-9]+", f"{name} {title}".lower())
    return f"tab:{'-'.join(words)}"


def latex_table(table: Table, caption: str, label: str) -> str:
    """Return the table as a floating `table` with booktabs rules, and its notes as `tablenotes`.

    It needs the packages booktabs and threeparttable.
    """

    def line(cells: Sequence[str]) -> str:
        return f"    {' & '.join(cells)} \\\\"

    body = []
    for k, (name, cells) in enumerate(table.rows):
        body += ["    \\midrule"] * (k in table.rules)
        body.append(line([latex_text(name), *(_latex_cell(cell) for cell in cells)]))
    notes = [f"      \\item{_latex_note(note)}" for note in table.notes]
    return "\n".join(
        [
            "\\begin{table}",
            "  \\centering",
            f"  \\caption{{{latex_text(caption)}}}",
            f"  \\label{{{label}}}",
            "  \\begin{threeparttable}",
            f"  \\begin{{tabular}}{{l{''.join('r' if right else 'l' for right in table.numeric())}}}",
            "    \\toprule",
            line([latex_text(name) for name in table.header]),
            "    \\midrule",
            *body,
            "    \\bottomrule",
            "  \\end{tabular}",
            *(["    \\begin{tablenotes}\\footnotesize", *notes, "    \\end{tablenotes}"] if notes else []),
            "  \\end{threeparttable}",
            "\\end{table}",
            "",
        ]
    )


def _latex_note(note: str) -> str:
    """Return a note, after its sign in brackets if it begins with one."""
    sign, space, text = note.partition(" ")
    if space and sign in ("†", "‡", "*"):
        return f"[{latex_text(sign)}] {latex_text(text)}"
    # A bracket at the beginning would be taken for a sign.
    return f" {{}}{latex_text(note)}" if note.startswith("[") else f" {latex_text(note)}"


def _latex_cell(cell: Cell) -> str:
    return f"\\textbf{{{latex_text(cell.text)}}}" if cell.bold else latex_text(cell.text)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV: None is an empty field, and reals read back the same.

    A text that a spreadsheet would take for a formula gets a `'` in front, as OWASP recommends.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(_csv_field, header))
    writer.writerows(map(_csv_field, row) for row in rows)
    return out.getvalue()


def _csv_field(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\n")) else text
