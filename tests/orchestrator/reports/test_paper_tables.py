"""Tables for papers leave out what only the author needs."""

from __future__ import annotations

import pytest

from orchestrator.reports.lock import Recipe
from orchestrator.reports.notes import CHANGE
from orchestrator.reports.paper_tables import paper_caption, paper_table
from orchestrator.reports.render import ABSENT, Cell, Table
from orchestrator.reports.tables import build_report

GAMMA = "loss.focal_gamma"


@pytest.fixture
def report(stored, add):
    """A report on images without masks: v3, an identical v7, and one with another gamma."""
    for seed in range(3):
        more = {"pixel": (None, None), "flags": '["leather: no masks, so no pixel metrics"]', "dataset": "parts.csv"}
        equal = {"state_digest": f"s{seed}", "scores_digest": f"x{seed}"} | more
        add({"version": "v3", GAMMA: 0.0}, seed, version="v3", **equal)
        add({"version": "v7", GAMMA: 0.0}, seed, version="v7", **equal)
        add({"version": "v7", GAMMA: 2.0}, seed, version="v7", image=(0.9, 0.7 + seed / 100), **more)
    return build_report(stored(), Recipe("t: is it?", baseline={"version": "v3", GAMMA: 0.0}))


def test_rows_names_notes_and_caption_are_those_of_a_paper(report):
    table = paper_table(report.tables[0], report.header)
    assert table.header == ("Metric", "v3, focal_gamma=0", "v7, focal_gamma=0", "v7, focal_gamma=2")
    assert [name for name, _ in table.rows] == ["leather Image AUROC", "grid Image AUROC", "Mean Image AUROC"]
    assert table.rules == {2}
    assert any(note.startswith("flag: ") for note in report.tables[0].notes)
    beginnings = [" ".join(note.split()[:3]) for note in table.notes]
    assert beginnings == [
        "Seeds: 0, 1,",
        "`v3, focal_gamma=0` and",
        "Routing Acc: 100%",
        "Dataset: parts.csv, digest",
        "Tasks in order,",
    ]
    assert paper_caption(report.tables[0], report.header) == "Per class, after the final task, on parts.csv."
    assert [cell.text for _, cells in table.rows for cell in cells].count(ABSENT) == 0


def test_confounds_and_intervals_stay_and_changes_are_explained(report):
    by_title = {table.title: paper_table(table) for table in report.tables}
    changes = next(table for title, table in by_title.items() if title.startswith("Change against"))
    assert CHANGE in changes.notes
    against = next(table for title, table in by_title.items() if title.startswith("Against"))
    assert any(note.startswith("Simultaneous 95 % t:") for note in against.notes)
    confounded = Table(
        "T", ("", "a", "b"), (("x", (Cell("1"), Cell("2"))),), ("† Confounded by `lora.rank`: 1 in `a`.",)
    )
    assert paper_table(confounded) == confounded


def test_latex_has_no_table_without_values(report):
    latex = report.latex()
    assert "% flag: leather: no masks, so no pixel metrics" in latex
    in_tables = [line for line in latex.partition("\\begin")[2].splitlines() if not line.startswith("%")]
    assert "flag" not in "\n".join(in_tables)
    assert "Pixel AUROC" not in "\n".join(in_tables)
    assert "version=" not in "\n".join(in_tables)
    assert latex.count("Dataset: parts.csv") == 1
