"""What a results folder holds, for other programs and for papers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

from moleflow.code_digest import code_digest
from moleflow.errors import InvalidInput
from moleflow.files import write_atomically
from moleflow.settings.knobs import method_knobs, version_settings
from orchestrator.records import sweep_folder
from orchestrator.reports.make import check_split
from orchestrator.reports.render import csv_text
from orchestrator.reports.tables import Report, build_report
from orchestrator.results.store import ResultStore

What = Literal["tables", "metrics", "scores", "curves", "attempts"]
Format = Literal["csv", "latex", "markdown"]
WHAT: tuple[What, ...] = get_args(What)
FORMATS: tuple[Format, ...] = get_args(Format)
ROWS_AT_ONCE = 10_000


def export_tables(
    place: Path,
    form: Format = "csv",
    what: What = "tables",
    split: str = "test",
    everything: bool = False,
    document: bool = False,
    table: str | None = None,
) -> Iterator[str]:
    """The text, in pieces.

    Args:
        place: a results folder.
        form: csv | latex | markdown; stored tables are CSV alone.
        what: the comparison tables, or a stored table with its rows that count.
        split: test | validation: which images the comparison tables are about.
        everything: every stored trial, not only those of the latest plan.
        document: a whole LaTeX document in place of tables for one.
        table: of the comparison tables in LaTeX or Markdown one alone, by its number from 1 or the beginning of its title; None = all.

    Raises:
        InvalidInput: no such table, the folder holds no sweep, the stored table is asked for in another format, or no trial has
            images of the split.

    """
    if what != "tables" and form != "csv":
        raise InvalidInput(
            f"--format: given '{form}' for the stored table '{what}', allowed: csv; for {form} leave --what out"
        )
    if document and form != "latex":
        raise InvalidInput("--document: is for LaTeX; give --format latex too")
    if table is not None and (what != "tables" or form == "csv"):
        raise InvalidInput(
            "--table: is for the comparison tables in LaTeX or Markdown; give --format latex or markdown"
        )
    sweep = sweep_folder.read_sweep_folder(place)
    selection = None if everything else set(sweep.compared if what == "tables" else sweep.trial_ids)
    if what != "tables":
        yield from stored_csv(ResultStore(place), what, selection)
        return
    store = ResultStore(place)
    check_split(store, split, selection)
    made = build_report(
        store,
        selection,
        sweep.baseline,
        sweep.title,
        current_code=code_digest(),
        covers={"version": method_knobs()},
        bundles={"version": version_settings()},
        split=split,
    )
    yield render_report(made if table is None else with_one_table(made, table), form, document)


def with_one_table(report: Report, asked: str) -> Report:
    """The report with one of its tables alone.

    Args:
        asked: its number from 1, or the beginning of its title, in any case.

    Raises:
        InvalidInput: there is no such table, or several begin so.

    """
    numbered = {str(number): table for number, table in enumerate(report.tables, start=1)}
    found = [numbered[asked]] if asked in numbered else []
    found = found or [table for table in report.tables if table.title.lower().startswith(asked.lower())]
    if len(found) != 1:
        titles = "; ".join(f"{number} {table.title}" for number, table in numbered.items()) or "no table yet"
        raise InvalidInput(f"--table: given '{asked}', allowed: a number, or how one title alone begins: {titles}")
    return replace(report, tables=tuple(found))


def render_report(report: Report, form: Format, document: bool = False) -> str:
    """A report in one of the formats, without the lock that only report.md carries."""
    if form == "latex":
        return latex_document(report.latex()) if document else report.latex()
    return report.csv() if form == "csv" else report.body()


def latex_document(tables: str) -> str:
    """A document around the tables, which compiles as it is. Wide tables are as wide as they are: the page grows with them."""
    return "\n".join(
        [
            "\\documentclass{article}",
            "\\usepackage[T1]{fontenc}",
            "\\usepackage[utf8]{inputenc}",
            "\\usepackage{booktabs}",
            "\\usepackage[landscape,paperwidth=60cm,paperheight=80cm,margin=2cm]{geometry}",
            "\\begin{document}",
            tables.rstrip(),
            "\\end{document}",
            "",
        ]
    )


def stored_csv(store: ResultStore, table: str, selection: Iterable[str] | None) -> Iterator[str]:
    """A stored table as CSV, in pieces: null is an empty field, reals read back the same, times are ISO 8601, lists are JSON."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = store.read(table)
    if selection is not None:
        rows = rows.filter(pc.is_in(rows["trial_id"], value_set=pa.array(sorted(selection), pa.string())))
    names = rows.schema.names
    yield csv_text(names, [])
    for batch in rows.to_batches(max_chunksize=ROWS_AT_ONCE):
        columns = [[_plain(value) for value in column.to_pylist()] for column in batch.columns]
        yield csv_text(names, zip(*columns, strict=True)).partition("\n")[2]


def write_pieces(pieces: Iterable[str], path: Path) -> None:
    """Make a file hold the pieces, or leave it as it is.

    Raises:
        InvalidInput: it is a folder, or lies in none.
        OSError: the folder cannot be written.

    """
    if path.is_dir():
        raise InvalidInput(f"--to: {path} is a folder; give the name of a file in it")
    if not path.parent.is_dir():
        raise InvalidInput(f"--to: {path.parent} is no folder; make it, or give a file elsewhere")
    write_atomically(path, "".join(pieces).encode(), durable=False)


def _plain(value: Any) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return value.isoformat()
    return json.dumps(value) if isinstance(value, list | dict) else value
