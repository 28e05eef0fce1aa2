"""How a table is set in each notation."""

from __future__ import annotations

from orchestrator.reports.render import Cell, Table, latex_table, markdown_table


def test_numbers_stand_to_the_right_and_words_to_the_left():
    rows = (
        ("a", tuple(map(Cell, ("0.9 ± 0.1 (n=2)", "+0.1 to +0.2", "0.06 (floor 0.06)", "1e-05", "beyond seed noise")))),
        ("b", tuple(map(Cell, ("\u2013", "1 / 2", "+4.0%", "98.5% ‡", "\u2013")))),
    )
    table = Table("t", ("", "x", "y", "p", "s", "Verdict"), rows)
    assert "\n|---|---:|---:|---:|---:|---|\n" in markdown_table(table)
    assert "{lrrrrl}" in latex_table(table, "t")
