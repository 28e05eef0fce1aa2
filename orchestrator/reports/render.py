"""A table in three notations: Markdown as GitHub reads it, LaTeX (booktabs), and CSV."""

from __future__ import annotations

import csv
import io
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from orchestrator.host.printable_text import printable, single_line

ABSENT = "\u2013"
"""The text of a cell without a value: an en dash."""
MOST_COLUMNS = 5
"""Columns of values that fit next to each other. Of more variants, each is a row."""
WIDTH = 120
"""Characters of a table that fit on a page, with three between two columns."""
MOST_ROWS = 20
"""With more variants, the values of single classes are in the CSV alone."""
_SPACE = 3
_CELL = len("0.1234 ± 0.1234")
_HEAD = 11


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

    def in_parts(self) -> list[Table]:
        """Return tables that fit on a page, each with the first column; the last has the notes."""
        room = WIDTH - max([_longest_word(self.header[0]), *(len(name) for name, _ in self.rows)])
        parts: list[list[int]] = [[]]
        used = 0
        for k, name in enumerate(self.header[1:]):
            width = max([_longest_word(name), *(len(cells[k].text) for _, cells in self.rows)]) + _SPACE
            if parts[-1] and (used + width > room or len(parts[-1]) == MOST_COLUMNS):
                parts.append([])
                used = 0
            parts[-1].append(k)
            used += width
        if len(parts) == 1:
            return [self]
        found = []
        for n, part in enumerate(parts, 1):
            rows = tuple((name, tuple(cells[k] for k in part)) for name, cells in self.rows)
            header = (self.header[0], *(self.header[1 + k] for k in part))
            notes = self.notes if n == len(parts) else ()
            found.append(Table(f"{self.title} ({n} of {len(parts)})", header, rows, notes, self.rules))
        return found


def fit_side_by_side(names: Sequence[str]) -> bool:
    """Say whether columns of these names, which hold `mean ± sd`, fit next to each other."""
    widths = [max(_CELL, _longest_word(name)) + _SPACE for name in names]
    return len(names) <= MOST_COLUMNS and sum(widths) <= WIDTH - 2 * _CELL


def columns_as_rows(table: Table, corner: str, groups: Sequence[tuple[str, str]]) -> list[Table]:
    """Return a table that does not fit as tables whose rows are its columns, one for each group.

    Args:
        table: the table.
        corner: the name of the new first column.
        groups: for each of its rows the group, which is the title of its table, and the name of the
            column that the row becomes.
    """
    found = []
    for title in dict.fromkeys(title for title, _ in groups):
        chosen = [(name, cells) for (of, name), (_, cells) in zip(groups, table.rows, strict=True) if of == title]
        found += Table(title, table.header, tuple(chosen)).transposed(corner).in_parts()
    return [*found[:-1], replace(found[-1], notes=table.notes)]


def _longest_word(text: str) -> int:
    """Return the characters of the longest word: lines break between words."""
    return max(map(len, text.split(" ")))


def _is_number(text: str) -> bool:
    """Say whether a cell is empty, or numbers with signs, units of time and words of intervals."""
    digits = re.sub(r"(?<=\d)e[-+]?(?=\d)|\b(from|to|floor|n|x|s|min|h)\b", "", text)
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
    signs = r"\\`*>\[\]~" if len(pieces) == 1 else r"\\*>\[\]~"
    # GitHub splits a cell at a pipe even within code, so pipes are escaped everywhere.
    plain = [re.sub(rf"([{signs}]|<(?!=)|(?<!\w)_|_(?!\w))", r"\\\1", piece) for piece in pieces[::2]]
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
            "  \\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}",
            f"  \\caption{{{latex_text(caption)}}}",
            f"  \\label{{{label}}}",
            "  \\begin{threeparttable}",
            f"  \\begin{{tabular}}{{l{''.join('r' if right else 'l' for right in table.numeric())}}}",
            "    \\toprule",
            line([_latex_head(name) for name in table.header]),
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


def _latex_head(name: str) -> str:
    """Return a column's name, in lines of at most `_HEAD` characters where it has several words."""
    lines = textwrap.wrap(single_line(name), _HEAD, break_long_words=False, break_on_hyphens=False)
    if len(lines) < 2:
        return latex_text(name)
    text = r" \\ ".join(map(latex_text, lines))
    return f"\\shortstack{{{text}}}"


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
