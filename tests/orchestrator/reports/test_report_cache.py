"""A report that lies there already is not made again, and one that would be another is."""

from __future__ import annotations

import pytest

from orchestrator.reports.report_cache import keep_report, kept_report
from orchestrator.results.store import ResultStore


def report_files(folder):
    """The files of a report, with what tells one that was written anew."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("report.*")}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("report.*")}


def test_a_second_start_shows_the_stored_report(finished, command):
    folder = finished / "results/small"
    first = command("sweep.yaml", "--backend", "inline")
    before = report_files(folder)
    again = command("sweep.yaml", "--backend", "inline")
    assert report_files(folder) == before
    assert (again.code, again.out) == (first.code, first.out)


def harm_the_text(folder):
    (folder / "report.csv").write_text("edited")


def take_a_file(folder):
    (folder / "report.tex").unlink()


def take_the_note(folder):
    (folder / "tables" / "report.json").unlink()


def cut_the_note(folder):
    (folder / "tables" / "report.json").write_text('{"inputs": 3')


@pytest.mark.parametrize("harm", [harm_the_text, take_a_file, take_the_note, cut_the_note])
def test_a_changed_report_is_made_again(finished, command, harm):
    folder = finished / "results/small"
    assert command("sweep.yaml", "--backend", "inline").code == 0
    before = contents(folder)
    harm(folder)
    assert command("sweep.yaml", "--backend", "inline").code == 0
    assert contents(folder) == before


def test_another_plan_and_other_rows_make_another_report(finished, command, edit):
    folder = finished / "results/small"
    assert command("sweep.yaml", "--backend", "inline").code == 0
    before = contents(folder)
    edit(seeds=1)
    assert command("sweep.yaml", "--backend", "inline").code == 0
    assert "seeds: 0 (n = 1" in (folder / "report.md").read_text()
    edit()
    assert command("sweep.yaml", "--backend", "inline").code == 0
    assert contents(folder) == before
    digest = ResultStore(folder).digest()
    part = min((folder / "parts/attempts").glob("2*.parquet"))
    part.write_bytes(part.read_bytes()[:-1])
    assert ResultStore(folder).digest() != digest


def test_a_note_names_its_inputs_and_its_files(tmp_path):
    (tmp_path / "parts/.tmp").mkdir(parents=True)
    (tmp_path / "report.md").write_text("text")
    keep_report(tmp_path, "inputs", {"md": tmp_path / "report.md"})
    assert kept_report(tmp_path, "inputs") == {"md": tmp_path / "report.md"}
    assert kept_report(tmp_path, "other inputs") is None
    (tmp_path / "report.md").write_text("another text")
    assert kept_report(tmp_path, "inputs") is None
