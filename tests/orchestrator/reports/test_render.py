"""A table in each notation."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.reports.render import Cell, Table, csv_text, latex_label, latex_table, markdown_table


def test_numbers_are_aligned_right_and_words_left():
    rows = (
        (
            "a",
            tuple(
                map(Cell, ("0.9 ± 0.1 (n=2)", "+0.1 to +0.2", "0.06 (floor 0.06)", "1e-05", "smaller than seed noise"))
            ),
        ),
        ("b", tuple(map(Cell, ("\u2013", "1 / 2", "+4.0%", "98.5% ‡", "\u2013")))),
    )
    table = Table("t", ("", "x", "y", "p", "s", "Verdict"), rows)
    assert "\n|---|---:|---:|---:|---:|---|\n" in markdown_table(table)
    assert "{lrrrrl}" in latex_table(table, "t", "tab:t")


def test_latex_sets_a_rule_above_the_rows_that_ask_for_one_and_bold_cells():
    rows = tuple((name, (Cell("1", bold=name == "b"),)) for name in "abc")
    lines = latex_table(Table("t", ("", "x"), rows, rules=frozenset({1})), "caption", "tab:t").splitlines()
    middle = [line.strip() for line in lines[lines.index("    \\toprule") : lines.index("    \\bottomrule")]]
    assert middle == [
        "\\toprule",
        "& x \\\\",
        "\\midrule",
        "a & 1 \\\\",
        "\\midrule",
        "b & \\textbf{1} \\\\",
        "c & 1 \\\\",
    ]


def test_latex_has_a_label_and_its_notes_under_the_table_by_their_signs():
    notes = ("† confounded: n", "plain", "[0, 1] is a range", "† and no more", "†")
    table = Table("Per class, after", ("", "x"), (("a", (Cell("1"),)),), notes)
    label = latex_label("v7_gamma", table.title)
    assert label == "tab:v7-gamma-per-class-after"
    text = latex_table(table, "caption", label)
    assert f"\\caption{{caption}}\n  \\label{{{label}}}\n" in text
    under = text[text.index("\\begin{tablenotes}") : text.index("\\end{tablenotes}")]
    assert [line.strip() for line in under.splitlines()[1:-1]] == [
        "\\item[$\\dagger$] confounded: n",
        "\\item plain",
        "\\item {}[0, 1] is a range",
        "\\item[$\\dagger$] and no more",
        "\\item $\\dagger$",
    ]
    assert "tablenotes" not in latex_table(replace(table, notes=()), "caption", label)


def test_markdown_escapes_pipes_everywhere_and_markup_outside_code():
    table = Table("a|b", ("", "*x*"), (("_r_", (Cell("`a|_b_`", bold=True),)),), ("under_score <b> [1]",))
    assert markdown_table(table).splitlines() == [
        "## a\\|b",
        "",
        "|  | \\*x\\* |",
        "|---|---|",
        "| \\_r\\_ | **`a\\|_b_`** |",
        "",
        "- under_score \\<b\\> \\[1\\]",
    ]


def test_a_transposed_table_has_rows_as_columns():
    rows = (("a", (Cell("1"), Cell("2"))), ("b", (Cell("3"), Cell("4"))))
    turned = Table("t", ("", "x", "y"), rows, ("note",)).transposed("Variant")
    assert turned.header == ("Variant", "a", "b")
    assert turned.rows == (("x", (Cell("1"), Cell("3"))), ("y", (Cell("2"), Cell("4"))))
    assert turned.notes == ("note",)


def test_csv_leaves_none_empty_and_keeps_every_digit():
    assert csv_text(("a", "b"), [(None, 0.1 + 0.2), ("x,y", 1)]) == 'a,b\n,0.30000000000000004\n"x,y",1\n'
