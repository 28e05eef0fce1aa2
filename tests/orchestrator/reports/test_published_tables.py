"""The report over the published rows, and the command that prints it."""

from __future__ import annotations

import csv
import io
import re

import pytest

from orchestrator.reports.published import load_published
from orchestrator.reports.published_tables import build_published_report


def test_the_report_of_published_rows_names_both_means_and_bolds_none_of_them():
    report = build_published_report(load_published())
    markdown, first = report.markdown(), report.tables[0]
    assert "Mean Image AUROC" in first.header
    assert "Mean Pixel AUROC" in first.header
    assert not any(cell.bold for _, cells in first.rows for cell in cells)
    assert "<!-- lock" not in markdown
    records = list(csv.DictReader(io.StringIO(report.csv())))
    one = next(r for r in records if (r["variant"], r["class"], r["metric"]) == ("published v2", "grid", "image_auroc"))
    assert (one["mean"], one["sd"], one["n"], one["marks"], one["text"]) == ("0.985", "", "1", "published †", "0.9850")
    assert "$\\ddagger$" in report.latex()
    assert not re.search(r"[†‡→]", report.latex())


def test_the_command_shows_the_published_rows_without_a_folder(place, command):
    ended = command("report", "--published")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == build_published_report(load_published()).markdown() + "\n"
    assert command("report", "--published", "--format", "csv").out.startswith("dataset,variant,class,metric")
    assert not (place / "results").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "report: give a results folder"),
        (["results/small", "--published"], "--published: takes neither"),
        (["--published", "--with-published"], "--published: takes neither"),
    ],
)
def test_contradictory_options_are_errors(command, words, said):
    ended = command("report", *words)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
