"""Export of comparison tables and stored rows: `moleflow-sweep export`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

from moleflow.errors import InvalidInput, did_you_mean
from moleflow.files import write_atomically
from orchestrator.records.sweep_folder import read_sweep_folder
from orchestrator.reports.finished_trials import default_split
from orchestrator.reports.make import stored_report
from orchestrator.reports.notes import damage_notes
from orchestrator.reports.render import Table, csv_text
from orchestrator.reports.stored_trials import stored_trials
from orchestrator.reports.tables import Report
from orchestrator.reports.trials_table import trials_table
from orchestrator.results.store import ResultStore

if TYPE_CHECKING:
    import pyarrow as pa

What = Literal["tables", "trials", "metrics", "scores", "curves", "attempts"]
Format = Literal["csv", "latex", "markdown", "parquet"]
WHAT: tuple[What, ...] = get_args(What)
FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIXES: Mapping[str, Format] = MappingProxyType(
    {".csv": "csv", ".tex": "latex", ".md": "markdown", ".parquet": "parquet"}
)
"""{ending of a file's name: its format}."""
ROWS_AT_ONCE = 10_000
_PREAMBLE = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{booktabs}
\IfFileExists{threeparttable.sty}{\usepackage{threeparttable}}{%
  \newenvironment{threeparttable}{}{}%
  \newenvironment{tablenotes}{\begin{itemize}}{\end{itemize}}}
\usepackage[landscape,paperwidth=60cm,paperheight=80cm,margin=2cm]{geometry}
\begin{document}
"""


def export_tables(
    place: Path,
    form: Format = "csv",
    what: What = "tables",
    split: str | None = None,
    everything: bool = False,
    document: bool = False,
    table: str | None = None,
    caption: str | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Iterator[str]:
    """Yield the exported text in pieces.

    Args:
        place: a results folder.
        form: csv | latex | markdown; trials and stored tables are CSV alone.
        what: the comparison tables, the trials (a row each), or a stored table with its rows that
            count.
        split: test | validation, the images that the comparison tables are about; None = test, or
            validation where no trial scored test images.
        everything: every stored trial, not only those of the latest plan.
        document: a whole LaTeX document instead of tables to put into one.
        table: one of the comparison tables in LaTeX or Markdown, by its number or the beginning
            of its title; 0 is the ranking under the answer; None = all.
        caption: the caption of that table in LaTeX; None = its title and images.
        note: called with a line about each damaged part if the format is CSV, which has no notes.

    Raises:
        InvalidInput: there is no such table, the folder holds no sweep, no trial has images of the
            split, or the options contradict one another.
    """
    if form == "parquet":
        raise InvalidInput("--format: parquet is no text for the terminal; give a file, such as --to trials.parquet")
    if what != "tables" and form != "csv":
        raise InvalidInput(
            f"--format: given '{form}' for the table '{what}', allowed: csv | parquet; for {form} leave --what out"
        )
    if document and form != "latex":
        raise InvalidInput("--document: is for LaTeX; give --format latex too")
    if table is not None and (what != "tables" or form == "csv"):
        raise InvalidInput(
            "--table: is for the comparison tables in LaTeX or Markdown; give --format latex or markdown"
        )
    if caption is not None and (form != "latex" or table is None):
        raise InvalidInput("--caption: is for one table in LaTeX; give --format latex and --table NUMBER too")
    sweep, store = read_sweep_folder(place), ResultStore(place)
    if what == "tables":
        report = stored_report(place, sweep, everything, split=split, store=store)
        yield render_report(report if table is None else with_one_table(report, table), form, document, caption)
    else:
        yield from csv_pieces(rows_to_export(place, what, split, everything, store))
    if form == "csv":
        for line in damage_notes(store):
            note(line)


def with_one_table(report: Report, asked: str) -> Report:
    """Return the report with one of its tables, by its number or the beginning of its title.

    The ranking under the answer is number 0.

    Raises:
        InvalidInput: no table, or several, begin so.
    """
    numbered = {"0": ranking} if (ranking := _ranking(report)) else {}
    numbered |= {str(number): table for number, table in enumerate(report.tables, start=1)}
    found = [numbered[asked]] if asked in numbered else []
    found = found or [table for table in numbered.values() if table.title.lower().startswith(asked.lower())]
    if len(found) != 1:
        titles = "; ".join(f"{number} {table.title}" for number, table in numbered.items()) or "no table yet"
        raise InvalidInput(f"--table: given '{asked}', allowed: a number, or the beginning of one title: {titles}")
    return replace(report, tables=tuple(found), answer=None)


def _ranking(report: Report) -> Table | None:
    """Return the ranking with the notes that it needs where it stands alone."""
    table = report.answer.table if report.answer else None
    if table is None:
        return None
    notes = [note.partition(" Cells are")[0] for note in report.tables[0].notes if note.startswith(("†", "Seeds: "))]
    judged = next((of for of in report.compared if of.has_differences), None)
    if judged is not None:
        family = max(result.family for result in judged.results.values())
        corrected = f", corrected for {family} comparisons" if family > 1 else ""
        notes.append(f"95 % interval: t interval of the paired differences over the seeds{corrected}.")
    return replace(table, notes=(*table.notes, *notes))


def format_of(given: str | None, path: Path | None) -> Format:
    """Return the format of an export: the one that was given, that of the file's name, or CSV.

    Raises:
        InvalidInput: there is no such format, the name's ending is none of SUFFIXES, or both
            contradict each other.
    """
    if given is not None and given not in FORMATS:
        raise InvalidInput(f"--format: given '{given}', allowed: {' | '.join(FORMATS)}{did_you_mean(given, FORMATS)}")
    form: Format | None = next((one for one in FORMATS if one == given), None)
    if path is None:
        return form or "csv"
    named = SUFFIXES.get(path.suffix.lower())
    if named is None:
        hint = "; for a chart: --figure FILE" if path.suffix.lower() in (".pdf", ".svg", ".png") else ""
        raise InvalidInput(f"--to: given '{path}', allowed: a file whose name ends in {' | '.join(SUFFIXES)}{hint}")
    if form not in (None, named):
        fitting = next(suffix for suffix, of in SUFFIXES.items() if of == form)
        raise InvalidInput(
            f"--to: given '{path}' with --format {form}, allowed: a name that ends in {fitting}, or --format {named}"
        )
    return named


def render_report(report: Report, form: Format, document: bool = False, caption: str | None = None) -> str:
    """Return a report in one of the formats, without the lock that only report.md carries."""
    if form == "latex":
        return latex_document(report.latex(caption)) if document else report.latex(caption)
    return report.csv() if form == "csv" else report.body()


def latex_document(tables: str) -> str:
    """Return a document around the tables that compiles as it is.

    The page is large, since wide tables are not broken. Where threeparttable is not installed, the
    notes are a list below the table, as wide as the page.
    """
    return f"{_PREAMBLE}{tables.rstrip()}\n\\end{{document}}\n"


def export_parquet(
    place: Path,
    path: Path,
    what: What,
    split: str | None = None,
    everything: bool = False,
    note: Callable[[str], None] = lambda line: None,
) -> None:
    """Write the trials or a stored table as one Parquet file; arguments as for `export_tables`.

    Raises:
        InvalidInput: as `export_tables` and `write_pieces`, or the comparison tables are asked for,
            whose cells are text.
        OSError: the folder cannot be written.
    """
    from orchestrator.results.parts import serialise

    if what == "tables":
        allowed = " | ".join(WHAT[1:])
        raise InvalidInput(
            f"--format: parquet is for --what {allowed}; the comparison tables are csv, latex or markdown"
        )
    check_file(path)
    store = ResultStore(place)
    write_atomically(path, serialise(rows_to_export(place, what, split, everything, store)), durable=False)
    for line in damage_notes(store):
        note(line)


def rows_to_export(
    place: Path, what: What, split: str | None = None, everything: bool = False, store: ResultStore | None = None
) -> pa.Table:
    """Return the trials, or a stored table with its rows that count; arguments as above.

    Raises:
        InvalidInput: the folder holds no sweep or no results.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    sweep, store = read_sweep_folder(place), store or ResultStore(place)
    if what == "trials":
        split = split or default_split(store, None if everything else set(sweep.compared))
        return trials_table(stored_trials(store, sweep, (split,), everything), sweep.name, split)
    rows = store.read(what)
    if everything:
        return rows
    return rows.filter(pc.is_in(rows["trial_id"], value_set=pa.array(sorted(sweep.trial_ids), pa.string())))


def csv_pieces(rows: pa.Table) -> Iterator[str]:
    """Yield a table as CSV.

    Null is an empty field, reals read back the same, times are ISO 8601, lists are JSON.
    """
    names = rows.schema.names
    yield csv_text(names, [])
    for batch in rows.to_batches(max_chunksize=ROWS_AT_ONCE):
        columns = [[_csv_value(value) for value in column.to_pylist()] for column in batch.columns]
        yield csv_text(names, zip(*columns, strict=True)).partition("\n")[2]


def write_pieces(pieces: Iterable[str], path: Path) -> None:
    """Replace a file by the pieces, or leave it as it is if one of them fails.

    Raises:
        InvalidInput: the path is a folder, or its folder does not exist.
        OSError: the folder cannot be written.
    """
    check_file(path)
    write_atomically(path, "".join(pieces).encode(), durable=False)


def check_file(path: Path, option: str = "--to") -> None:
    """Check that a file can be written under a path.

    Raises:
        InvalidInput: the path is a folder, or its folder does not exist.
    """
    if path.is_dir():
        raise InvalidInput(f"{option}: {path} is a folder; give the name of a file in it")
    if not path.parent.is_dir():
        raise InvalidInput(f"{option}: {path.parent} is no folder; create it, or give a file in another one")


def _csv_value(value: Any) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return value.isoformat()
    return json.dumps(value) if isinstance(value, list | dict) else value
