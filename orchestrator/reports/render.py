"""One table, three notations: GitHub-flavoured Markdown, LaTeX (booktabs), and CSV for the numbers behind it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ABSENT = "\u2013"
"""What stands where there is no value: an en dash."""


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table and what is written under it.

    `header` names the columns, the first being that of the row names. A rule stands before each row of `rules`. In
    titles, names and notes, `code` between backquotes is set as code.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    notes: tuple[str, ...] = ()
    rules: frozenset[int] = frozenset()

    def numeric(self) -> list[bool]:
        """For each column after the first, whether what stands in it are numbers, which belong to the right."""
        columns = zip(*(cells for _, cells in self.rows), strict=True) if self.rows else [()] * (len(self.header) - 1)
        return [all(_is_number(cell.text) for cell in column) for column in columns]

    def turned(self, corner: str) -> Table:
        """The same table with rows as columns; `corner` names the new first column."""
        columns = zip(*(cells for _, cells in self.rows), strict=True)
        rows = tuple((name, cells) for name, cells in zip(self.header[1:], columns, strict=True))
        return Table(self.title, (corner, *(name for name, _ in self.rows)), rows, self.notes)


def _is_number(words: str) -> bool:
    """Whether a cell is numbers with nothing but signs and small words between them, or nothing at all."""
    digits = re.sub(r"(?<=\d)e[-+]?(?=\d)|\b(from|to|floor|n)\b", "", words)
    return not re.search(r"[^\W\d_]", digits)


def markdown_table(table: Table) -> str:
    """The table as a pipe table under its title, with its notes as a list."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rows = [[_markdown(name), *(_bold(cell) for cell in cells)] for name, cells in table.rows]
    lines = [f"## {_markdown(table.title)}", "", line(map(_markdown, table.header))]
    rules = "".join("---:|" if right else "---|" for right in table.numeric())
    lines += [f"|---|{rules}", *(line(row) for row in rows)]
    return "\n".join([*lines, "", *markdown_list(table.notes)]).rstrip() + "\n"


def markdown_list(items: Iterable[str]) -> list[str]:
    """The items as lines of a list."""
    return [f"- {_markdown(item)}" for item in items]


def _bold(cell: Cell) -> str:
    return f"**{_markdown(cell.text)}**" if cell.bold else _markdown(cell.text)


def _markdown(words: str) -> str:
    # GitHub splits cells at a pipe even inside code. Elsewhere only what would start markup is escaped.
    pieces = re.split(r"(`[^`]*`)", " ".join(words.split()))
    plain = [re.sub(r"([\\*<>\[\]~]|(?<!\w)_|_(?!\w))", r"\\\1", piece) for piece in pieces[::2]]
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


def latex_text(words: str) -> str:
    """Words with everything escaped that LaTeX would read as its own."""
    pieces = re.split(r"`([^`]*)`", " ".join(words.split()))
    escaped = ["".join(_LATEX.get(sign, sign) for sign in piece) for piece in pieces]
    escaped[1::2] = [f"\\texttt{{{piece}}}" for piece in escaped[1::2]]
    return "".join(escaped)


def latex_table(table: Table, caption: str) -> str:
    """The table as a floating `table` of booktabs rules; its notes stand below it in small print."""

    def line(cells: Sequence[str]) -> str:
        return f"    {' & '.join(cells)} \\\\"

    body = []
    for k, (name, cells) in enumerate(table.rows):
        body += ["    \\midrule"] * (k in table.rules)
        body.append(line([latex_text(name), *(_latex_cell(cell) for cell in cells)]))
    notes = [f"    \\item {latex_text(note)}" for note in table.notes]
    return "\n".join(
        [
            "\\begin{table}",
            "  \\centering",
            f"  \\caption{{{latex_text(caption)}}}",
            f"  \\begin{{tabular}}{{l{''.join('r' if right else 'l' for right in table.numeric())}}}",
            "    \\toprule",
            line([latex_text(name) for name in table.header]),
            "    \\midrule",
            *body,
            "    \\bottomrule",
            "  \\end{tabular}",
            *(["  \\begin{itemize}\\footnotesize", *notes, "  \\end{itemize}"] if notes else []),
            "\\end{table}",
            "",
        ]
    )


def _latex_cell(cell: Cell) -> str:
    return f"\\textbf{{{latex_text(cell.text)}}}" if cell.bold else latex_text(cell.text)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV; None is an empty field, reals are written so that they read back the same."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()
