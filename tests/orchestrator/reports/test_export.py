"""Exports: stored rows read back the same, and LaTeX is well formed.

The LaTeX is judged by its structure: balanced groups and environments, as many cells as columns,
and every special character escaped. Where pdflatex is installed, it compiles the document too.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from moleflow.errors import InvalidInput
from orchestrator.reports import make
from orchestrator.reports.export import export_parquet, export_tables, latex_document, rows_to_export, write_pieces
from orchestrator.reports.render import Cell, Table, latex_table
from orchestrator.results.schema import TABLES, arrow_schema
from orchestrator.results.store import ResultStore

NASTY = r"50% of a_b & c#1 {x} ~y^2 $z$ \w <p> ± † ‡ → |"


def exported(place, **options):
    return "".join(export_tables(place, **options))


@pytest.mark.parametrize("table", TABLES)
def test_stored_rows_read_back_the_same(small_run, table):
    place = small_run / "results/small"
    rows = list(csv.DictReader(io.StringIO(exported(place, what=table))))
    stored = ResultStore(place).read(table).to_pylist()
    assert list(rows[0]) == arrow_schema(table).names
    assert len(rows) == len(stored)
    for row, own in zip(rows, stored, strict=True):
        for name, value in own.items():
            if value is None:
                assert row[name] == ""
            elif isinstance(value, float):
                assert float(row[name]) == value
            elif isinstance(value, bool):
                assert row[name] == str(value).lower()
            elif isinstance(value, datetime):
                assert datetime.fromisoformat(row[name]) == value
            elif isinstance(value, list):
                assert json.loads(row[name]) == value
            else:
                assert row[name] == str(value)


def test_stored_rows_are_those_of_the_latest_plan_or_all(finished):
    path = finished / "results/small/sweep.json"
    sweep = json.loads(path.read_text())
    path.write_text(json.dumps(sweep | {"trials": sweep["trials"][:1]}))
    assert len(exported(path.parent, what="attempts").splitlines()) == 2
    assert len(exported(path.parent, what="attempts", everything=True).splitlines()) == 5


def test_tables_are_those_of_the_report_and_nothing_is_written(finished):
    place = finished / "results/small"
    made, paths = make.make_report(place)
    for path in paths.values():
        path.unlink()
    assert exported(place) == made.csv()
    assert exported(place, form="latex") == made.latex()
    assert exported(place, form="markdown") == made.body()
    assert not list(place.glob("report.*"))


def test_one_table_is_named_by_its_number_or_the_beginning_of_its_title(small_run):
    place = small_run / "results/small"
    first = exported(place, form="markdown", table="1")
    assert re.findall(r"^## (.*)", first, re.MULTILINE) == ["Per class, after the final task"]
    assert exported(place, form="markdown", table="per CLASS") == first
    ranking = exported(place, form="latex", table="0")
    assert ranking == exported(place, form="latex", table="variants") and "Difference" in ranking
    assert "item Seeds: " in ranking and "item 95 \\% interval: t interval of the paired differences" in ranking
    assert exported(place, form="latex", table="1").count(r"\begin{tabular}") == 1
    for table in ("99", "nothing", ""):
        with pytest.raises(
            InvalidInput, match=r"--table: given .*, allowed: a number, or .*: 0 Variants, the best first; 1 Per class"
        ):
            exported(place, form="latex", table=table)
    for form, what in (("csv", "tables"), ("csv", "scores")):
        with pytest.raises(InvalidInput, match="--table: is for the comparison tables in LaTeX or Markdown"):
            exported(place, form=form, what=what, table="1")


def checked(document):
    """See that a document holds together; its tabular environments."""
    bare = re.sub(r"(?<!\\)%.*", "", document)
    assert document.isascii()
    open_ones = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", bare):
        if kind == "begin":
            open_ones.append(name)
        else:
            assert open_ones.pop() == name
    assert open_ones == []
    unescaped = re.sub(r"\\[{}]", "", bare)
    assert unescaped.count("{") == unescaped.count("}")
    found = re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", bare, re.DOTALL)
    for columns, body in found:
        assert [body.count(f"\\{rule}rule") for rule in ("top", "bottom")] == [1, 1]
        for row in re.findall(r"^(.*?) \\\\$", body, re.MULTILINE):
            assert len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1
    words = re.sub(r"\$\\(pm|dagger|ddagger|to)\$", "", bare)
    assert not re.search(r"(?<!\\)[#$_^~]", words)
    return found


def test_the_latex_of_a_report_holds_together(small_run, tmp_path):
    document = exported(small_run / "results/small", form="latex", document=True)
    assert "\\usepackage{booktabs}" in document
    labels = re.findall(r"\\label\{(.*?)\}", document)
    assert labels[0] == "tab:small-per-class-after-the-final-task"
    assert len(set(labels)) == len(labels) == document.count("\\begin{table}")
    assert len(checked(document)) == len(re.findall(r"\\begin\{table\}", document)) >= 3
    if shutil.which("pdflatex"):
        write_pieces([document], tmp_path / "report.tex")
        words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout


def test_special_characters_of_latex_are_escaped():
    table = Table(NASTY, ("", NASTY), ((NASTY, (Cell(NASTY, bold=True),)),), (f"a note of {NASTY} and `co_de`",))
    document = latex_document(latex_table(table, NASTY, "tab:nasty"))
    ((columns, body),) = checked(document)
    assert columns == "ll"
    assert r"50\% of a\_b \& c\#1 \{x\} \textasciitilde{}y\textasciicircum{}2 \$z\$ \textbackslash{}w" in body
    assert "\\texttt{co\\_de}" in document


def test_a_file_is_replaced_whole_or_left(tmp_path, small_run):
    path = tmp_path / "scores.csv"
    path.write_text("before")

    def broken():
        yield "half"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_pieces(broken(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["scores.csv"]
    assert path.read_text() == "before"
    write_pieces(export_tables(small_run / "results/small", what="scores"), path)
    assert path.read_text() == exported(small_run / "results/small", what="scores")


def test_impossible_exports_are_errors(small_run, tmp_path):
    with pytest.raises(InvalidInput, match="given 'latex' for the table 'scores', allowed: csv"):
        exported(small_run / "results/small", form="latex", what="scores")
    with pytest.raises(InvalidInput, match="--document: is for LaTeX"):
        exported(small_run / "results/small", document=True)
    with pytest.raises(InvalidInput, match="is a folder"):
        write_pieces([], tmp_path)
    with pytest.raises(InvalidInput, match="is no folder"):
        write_pieces([], Path("not/there/x.csv"))


@pytest.mark.parametrize("what", ["trials", *TABLES])
def test_parquet_holds_the_rows_of_the_csv(small_run, tmp_path, what):
    place, path = small_run / "results/small", tmp_path / "rows.parquet"
    export_parquet(place, path, what)
    stored = pq.read_table(path)
    assert stored.equals(rows_to_export(place, what))
    assert len(list(csv.DictReader(io.StringIO(exported(place, what=what))))) == len(stored)


def test_parquet_is_for_rows_and_files_alone(small_run, tmp_path):
    place = small_run / "results/small"
    with pytest.raises(InvalidInput, match=r"--format: parquet is for --what trials \| metrics"):
        export_parquet(place, tmp_path / "x", "tables")
    with pytest.raises(InvalidInput, match="parquet is no text for the terminal; give a file"):
        exported(place, form="parquet", what="trials")
    with pytest.raises(InvalidInput, match=r"allowed: csv \| parquet"):
        exported(place, form="latex", what="trials")
    assert list(tmp_path.iterdir()) == []
