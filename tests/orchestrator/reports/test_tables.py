"""The tables: mean ± sd, best in bold, changes, and the three notations."""

from __future__ import annotations

import csv
import io
import re

import pytest

from orchestrator.reports.lock import Recipe
from orchestrator.reports.tables import build_report, write_report

GAMMA = "loss.focal_gamma"


def rows_of(markdown, title):
    """The cells of the table under `title`, row by row, the header first."""
    section = markdown.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert all(len(row) == len(rows[0]) for row in rows)
    return [rows[0], *rows[2:]]


def values(report, title="Per class, after the final task"):
    return {row[0]: row[1:] for row in rows_of(report.markdown(), title)}


def test_cells_are_mean_and_sd_over_seeds_with_the_best_in_bold(stored, add):
    for seed, shift in ((0, 0.00), (1, 0.02)):
        add({GAMMA: 0.0}, seed, image=(0.90 + shift, 0.70), pixel=(0.9, 0.8))
        add({GAMMA: 2.0}, seed, image=(0.95 + shift, 0.70), pixel=(0.8, 0.8))
    table = values(build_report(stored(), Recipe("t")))
    assert table["Metric"] == ["focal_gamma=0", "focal_gamma=2"]
    assert table["leather Image AUROC"] == ["0.9100 ± 0.0141", "**0.9600 ± 0.0141**"]  # ddof 1: .02 / sqrt 2
    assert table["leather Pixel AUROC"] == ["**0.9000 ± 0.0000**", "0.8000 ± 0.0000"]
    assert table["grid Image AUROC"] == ["0.7000 ± 0.0000"] * 2  # equal: nothing is best
    # The sd of a mean is that of the seeds' means, not the mean of the classes' sds.
    assert table["Mean Image AUROC"] == ["0.8050 ± 0.0071", "**0.8300 ± 0.0071**"]
    assert list(table)[-2:] == ["Mean Image AUROC", "Mean Pixel AUROC"]


def test_routing_that_is_perfect_everywhere_is_a_note_and_no_row(stored, add):
    for gamma in (0.0, 2.0):
        add({GAMMA: gamma}, routing=(1.0, 1.0))
    report = build_report(stored(), Recipe("t"))
    assert "leather Routing Acc" not in values(report)
    assert report.tables[0].notes[-1] == "Routing Acc: 100% for every class and seed of every variant."
    add({GAMMA: 4.0}, routing=(1.0, 0.99))
    assert values(build_report(stored(), Recipe("t")))["leather Routing Acc"] == ["100%"] * 3


def test_one_seed_gives_the_value_alone_and_ties_are_all_bold(stored, add):
    for gamma, grid in ((0.0, 0.81), (1.0, 0.83), (2.0, 0.83 + 1e-9)):
        add({GAMMA: gamma}, image=(0.9, grid), routing=(1.0, 0.985 if gamma == 0 else 0.99999))
    report = build_report(stored(), Recipe("t"))
    table = values(report)
    assert table["grid Image AUROC"] == ["0.8100", "**0.8300**", "**0.8300**"]
    assert table["grid Routing Acc"] == ["98.5%", "**100.0%**", "**100.0%**"]  # 100% is for exactly 1
    assert "n = 1 in every variant). One seed gives no standard deviation" in report.markdown()


def test_two_columns_have_a_column_of_changes(stored, add):
    # The published v1 and v2 of the notes, to four digits.
    classes = ("leather", "grid", "transistor")
    for version, image, pixel in (
        ("v1", (1.0, 0.8204, 0.6654), (0.9481, 0.9259, 0.7144)),
        ("v2", (0.9997, 0.9850, 0.8075), (0.8900, 0.9841, 0.8973)),
    ):
        add({"version": version}, image=image, pixel=pixel, routing=(1, 1, 1), classes=classes, version=version)
    table = values(build_report(stored(), Recipe("t", baseline={"version": "v1"})))
    assert table["Metric"] == ["v1", "v2", "Change"]
    assert table["leather Image AUROC"] == ["1.0000", "0.9997", "-0.03%"]
    changes = {name: cells[-1] for name, cells in table.items()}
    assert changes["leather Pixel AUROC"] == "-6.1%"
    assert changes["transistor Image AUROC"] == "+21.4%"
    assert changes["transistor Pixel AUROC"] == "+25.6%"
    assert changes["Mean Image AUROC"] == "+12.3%"
    assert changes["Mean Pixel AUROC"] == "+7.1%"
    assert "Mean Routing Acc" not in changes


def test_more_columns_get_a_table_of_changes(stored, add):
    for gamma, grid in ((0.0, 0.50), (1.0, 0.55), (2.0, 0.45)):
        add({GAMMA: gamma}, image=(0.9, grid))
    report = build_report(stored(), Recipe("t", baseline={"focal_gamma": 0}))  # a short name and a whole number will do
    changes = values(report, "Change against focal_gamma=0")
    assert changes["Metric"] == ["focal_gamma=1", "focal_gamma=2"]
    assert changes["grid Image AUROC"] == ["+10.0%", "-10.0%"]


def test_with_two_factors_each_column_is_measured_against_its_own_baseline(stored, add):
    weight = "loss.center_weight"
    for gamma, center, grid in ((0.0, 0.0, 0.5), (2.0, 0.0, 0.55), (0.0, 0.1, 0.8), (2.0, 0.1, 0.88)):
        add({GAMMA: gamma, weight: center}, image=(0.9, grid))
    report = build_report(stored(), Recipe("t", baseline={GAMMA: 0.0}))
    changes = values(report, "Change against loss.focal_gamma=0")
    assert changes["Metric"] == ["center_weight=0, focal_gamma=2", "center_weight=0.1, focal_gamma=2"]
    assert changes["grid Image AUROC"] == ["+10.0%", "+10.0%"]
    assert "`center_weight=0.1, focal_gamma=2` against `center_weight=0.1, focal_gamma=0`" in report.markdown()


def test_without_its_baseline_a_report_says_so(stored, add):
    add({GAMMA: 1.0})
    add({GAMMA: 2.0})
    markdown = build_report(stored(), Recipe("t", baseline={GAMMA: 0.0})).markdown()
    words = "No change is given: no finished trial fits the baseline `loss.focal_gamma=0` yet."
    assert words in markdown
    assert "## Change" not in markdown


def test_with_several_baselines_to_choose_from_a_report_says_so(stored, add):
    for rank, gamma in ((4, 0.0), (8, 0.0), (16, 2.0)):
        add({"lora.rank": rank, GAMMA: gamma})
    markdown = build_report(stored(), Recipe("t", baseline={GAMMA: 0.0})).markdown()
    assert (
        "No change is given for `rank=16, focal_gamma=2`: several columns fit the baseline `loss.focal_gamma=0`."
        in markdown
    )


def test_many_variants_become_rows_and_classes_go_to_the_csv(stored, add):
    for gamma in range(21):
        add({GAMMA: float(gamma)}, image=(0.9, 0.5 + gamma / 100))
    report = build_report(stored(), Recipe("t", baseline={GAMMA: 0.0}))
    rows = rows_of(report.markdown(), "After the final task")
    assert rows[0][:5] == ["Variant", "n", "Mean Image AUROC", "Mean Pixel AUROC", "Mean Image AUROC, change"]
    assert rows[0][4:] == ["Mean Image AUROC, change", "Mean Pixel AUROC, change"]
    assert [row[0] for row in rows[1:]] == [f"focal_gamma={gamma}" for gamma in range(21)]
    assert rows[9] == ["focal_gamma=8", "1", "0.7400", "0.9000", "+5.7%", "0.0%"]
    assert not any("of each class" in table.title for table in report.tables)
    assert "- With so many variants, the values of single classes are in report.csv.\n" in report.markdown()
    assert "grid" in {row["class"] for row in csv.DictReader(io.StringIO(report.csv()))}


def test_columns_stand_in_natural_order_and_are_named_by_what_varies(stored, add):
    for version in ("v4.1", "v10", "v4", "v2"):
        add({"version": version, "lora.rank": 32, GAMMA: 2.0}, version=version)
    assert values(build_report(stored(), Recipe("t")))["Metric"] == ["v2", "v4", "v4.1", "v10"]


@pytest.mark.parametrize(("factors", "label"), [({GAMMA: 0.0, "lora.rank": 4}, "rank=4, focal_gamma=0"), ({}, "v7")])
def test_a_single_column_is_named_by_its_factors_and_by_its_version_only_without_any(stored, add, factors, label):
    add(factors)
    assert values(build_report(stored(), Recipe("t")))["Metric"] == [label]


def test_the_baseline_stands_first_and_the_others_in_natural_order(stored, add):
    for gamma in (10.0, 0.0, 9.0, 2.0):
        add({GAMMA: gamma}, image=(0.9, 0.5 + gamma / 100))
    report = build_report(stored(), Recipe("t", baseline={GAMMA: 9.0}))
    assert values(report)["Metric"] == [f"focal_gamma={gamma}" for gamma in (9, 0, 2, 10)]
    changes = values(report, "Change against focal_gamma=9")
    assert changes["Metric"] == [f"focal_gamma={gamma}" for gamma in (0, 2, 10)]
    assert changes["grid Image AUROC"] == ["-15.3%", "-11.9%", "+1.7%"]


def test_short_names_that_are_ambiguous_stay_whole(stored, add):
    add({"loss.log_det": "per_patch", "scoring.log_det": "per_patch"})
    add({"loss.log_det": "image_mean", "scoring.log_det": "image_mean"})
    label = "loss.log_det=image_mean, scoring.log_det=image_mean"
    report = build_report(stored(), Recipe("t"))
    assert label in {row["variant"] for row in csv.DictReader(io.StringIO(report.csv()))}
    assert values(report)["Metric"] == ["variant 1", "variant 2"]
    assert f"**Names:** `variant 1` is {label}; `variant 2` is " in report.markdown().replace("\\", "")


def test_long_names_give_what_differs_from_the_baseline(stored, add):
    whole = {"mixer.kernel": 3, "loss.tail_weight": 0.7, "lora.enabled": True, "flow.scale_context": 5}
    without_much = dict.fromkeys(whole, None) | {"adapter.enabled": False}
    for factors in (whole, whole | {"mixer.kernel": None}, whole | {"loss.tail_weight": 0.0}, without_much):
        add({"adapter.enabled": True} | factors)
    report = build_report(stored(), Recipe("t", baseline={"adapter.enabled": True} | whole))
    assert sorted(values(report)["Metric"]) == ["base", "kernel=null", "tail_weight=0", "variant 1"]
    text = report.markdown().replace("\\", "")
    assert "**Names:** `base` is adapter.enabled=true, scale_context=5, " in text
    assert "Other names say what differs from `base`." in text
    assert "`kernel=null` is" not in text


def test_an_axis_added_later_at_its_old_value_does_not_split_a_column(stored, add):
    add({GAMMA: 2.0}, seed=0)
    add({GAMMA: 2, "loss.center_weight": 0.0}, seed=1)
    add({GAMMA: 2, "loss.center_weight": 0.1}, seed=0)
    report = build_report(stored(), Recipe("t"))
    assert values(report)["Metric"] == ["center_weight=0 (n=2)", "center_weight=0.1 (n=1) †"]


def test_the_second_table_holds_the_other_means_and_the_cost(stored, add):
    for gamma in (0.0, 2.0):
        for seed in (0, 1):
            add({GAMMA: gamma}, seed, image=(0.9, 0.8), drop=gamma / 20, lora_scaling=1 / (32 + gamma))
    table = values(build_report(stored(), Recipe("t")), "Means over the classes after the final task, and cost")
    assert table["FM (Image AUROC)"] == ["0.0000 ± 0.0000", "0.1000 ± 0.0000"]
    assert table["BWT (Image AUROC)"] == ["0.0000 ± 0.0000", "-0.1000 ± 0.0000"]
    assert "ACC (Image AUROC)" not in table  # With one class a task it repeats the first table.
    assert table["AUPRO"] == ["0.5000 ± 0.0000"] * 2
    assert table["LoRA scaling"] == ["0.03125", "0.0294118"]
    assert table["Parameters"] == ["1,234,567"] * 2
    assert table["Parameters per task"] == ["1,000,000 / 234,567"] * 2
    assert table["Compute time spent"] == ["1 min 12 s"] * 2
    assert table["Compute time reused"] == ["36 s"] * 2


MEANS = "Means over the classes after the final task, and cost"


@pytest.mark.parametrize("pixel", [(0.9, None), (None, 0.9)])
def test_undefined_metrics_are_dashes_and_their_mean_names_the_classes_that_it_is_over(stored, add, pixel):
    for gamma in (0.0, 2.0):
        add({GAMMA: gamma}, pixel=pixel)
    report = build_report(stored(), Recipe("t", baseline={GAMMA: 0.0}))
    table = values(report)
    known, lacks = ("leather", "grid") if pixel[0] else ("grid", "leather")
    assert table[f"{known} Pixel AUROC"] == table["Mean Pixel AUROC ‡"] == ["0.9000", "0.9000", "0.0%"]
    assert table[f"{lacks} Pixel AUROC"] == ["\u2013"] * 3
    assert f"‡ Undefined (null) for `{lacks}`: Pixel AUROC. The mean is over `{known}`." in report.markdown()
    means = values(report, MEANS)
    assert {name for name in means if name.endswith("‡")} == set()  # the generated AP, F1 and AUPRO have no gaps
    assert not any("(Pixel AUROC)" in name for name in means)  # Undefined in every variant.
    assert "FM (Image AUROC)" not in means  # 0 everywhere: one note in place of the rows
    assert "- 0 for every seed of every variant: FM (Image AUROC), BWT (Image AUROC).\n" in report.markdown()
    assert "ACC: mean over the tasks" in report.markdown()
    rows = csv.DictReader(io.StringIO(report.csv()))
    marked = {(row["class"], row["metric"]) for row in rows if "‡" in row["marks"]}
    assert marked == {("Mean", "pixel_auroc")}
    assert "nan" not in report.markdown().lower() + report.csv().lower() + report.latex().lower()


def test_a_class_that_has_the_metric_in_one_column_only_leaves_the_mean_undefined(stored, add):
    add({GAMMA: 0.0}, pixel=(0.9, None))
    add({GAMMA: 2.0}, pixel=(0.9, 0.8))
    report = build_report(stored(), Recipe("t"))
    table = values(report)
    assert table["grid Pixel AUROC"] == ["\u2013", "0.8000"]
    assert table["Mean Pixel AUROC"] == ["\u2013"] * 2
    assert "Undefined (null) for `grid`: Pixel AUROC. The mean is undefined too." in report.markdown()


def test_bold_has_a_legend_where_there_is_any(stored, add):
    add({GAMMA: 0.0}, image=(0.9, 0.5))
    assert "Bold:" not in build_report(stored(), Recipe("t")).markdown()
    add({GAMMA: 2.0}, image=(0.9, 0.6))
    legend = "- Bold: the best mean in its row; no difference is tested.\n"
    assert legend in build_report(stored(), Recipe("t")).markdown()


def test_bold_follows_the_verdict_where_there_is_a_baseline(stored, add):
    baseline = Recipe("t", baseline={GAMMA: 0.0})
    add({GAMMA: 0.0}, image=(0.9, 0.5))
    add({GAMMA: 2.0}, image=(0.9, 0.6))
    assert "Bold:" not in build_report(stored(), baseline).markdown()  # One seed decides nothing.
    for seed in (1, 2, 3):
        add({GAMMA: 0.0}, seed, image=(0.9, 0.5 + seed / 1000))
        add({GAMMA: 2.0}, seed, image=(0.9, 0.6 + seed / 500))
    report = build_report(stored(), baseline)
    assert values(report)["Mean Image AUROC"] == ["0.7007 ± 0.0006", "**0.7515 ± 0.0013**", "+7.2%"]
    assert values(report)["grid Image AUROC"][:2] == ["0.5015 ± 0.0013", "0.6030 ± 0.0026"]
    assert "- Bold: better than the baseline by its verdict (see `Against focal_gamma=0`)" in report.markdown()


def test_csv_is_long_and_names_the_data_set(stored, add):
    for seed in (0, 1):
        add({GAMMA: 0.0}, seed, image=(0.9, 0.5))
        add({GAMMA: 2.0}, seed, image=(0.9, 0.6))
    records = list(csv.DictReader(io.StringIO(build_report(stored(), Recipe("t", baseline={GAMMA: 0.0})).csv())))
    assert list(records[0]) == ["dataset", "variant", "class", "metric", "mean", "sd", "n", "change", "marks", "text"]
    found = {(r["variant"], r["class"], r["metric"]): r for r in records}
    assert len(found) == len(records)
    one = found["focal_gamma=2", "grid", "image_auroc"]
    assert (float(one["mean"]), float(one["sd"]), one["n"]) == (0.6, 0.0, "2")
    assert float(one["change"]) == pytest.approx(0.2)
    assert {r["dataset"] for r in records} == {"embedded"}


def test_latex_is_booktabs_with_everything_escaped(stored, add):
    for gamma in (0.0, 2.0):
        add({GAMMA: gamma}, classes=("metal_nut", "a & b"), image=(0.9, 0.5 + gamma / 10))
    latex = build_report(stored(), Recipe("50% {x}", baseline={GAMMA: 0.0})).latex()
    for word in (
        "\\toprule",
        "\\midrule",
        "\\bottomrule",
        "metal\\_nut Image AUROC",
        "a \\& b",
        "+40.0\\%",
        "focal\\_gamma=2",
    ):
        assert word in latex
    assert "\\caption{Per class, after the final task, on embedded (generated images).}" in latex
    assert latex.startswith("% 50% {x}\n")
    assert latex.count("\\begin{table}") == latex.count("\\end{table}") == 4
    body = "\n".join(line for line in latex.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\)[_#%]", body)
    for tabular in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", latex, flags=re.S):
        lines = [line for line in tabular[1].splitlines() if line.endswith("\\\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(tabular[0])}


def test_markdown_survives_odd_names(stored, add):
    add({"backbone.weights": "a|b*c"}, classes=("x|y", "_z_"))
    add({"backbone.weights": "<d>"}, classes=("x|y", "_z_"))
    table = values(build_report(stored(), Recipe("t")))
    assert table["Metric"] == ["weights=\\<d\\>", "weights=a\\|b\\*c"]
    assert {"x\\|y Image AUROC", "\\_z\\_ Image AUROC"} < set(table)


def test_equal_results_make_equal_bytes(stored, add, tmp_path, make_trial):
    from orchestrator.results.store import ResultStore
    from orchestrator.results.writer import PartWriter

    trials = [({GAMMA: gamma}, seed) for gamma in (0.0, 2.0) for seed in (0, 1)]
    for factors, seed in trials:
        add(factors, seed)
    other = ResultStore(tmp_path / "other")
    writer = PartWriter(other)
    for factors, seed in reversed(trials):
        writer.add(make_trial(factors, seed))
    writer.flush()
    here, there = (build_report(store, Recipe("t", baseline={GAMMA: 0.0})) for store in (stored(), other))
    assert (here.markdown(), here.csv(), here.latex()) == (there.markdown(), there.csv(), there.latex())

    written = write_report(here, tmp_path / "out" / "report")
    assert {kind: path.read_text(encoding="utf-8") for kind, path in written.items()} == {
        "md": here.markdown(),
        "csv": here.csv(),
        "tex": here.latex(),
    }
    assert sorted(p.name for p in (tmp_path / "out" / "report").iterdir()) == ["report.csv", "report.md", "report.tex"]


def test_five_variants_stand_side_by_side(stored, add):
    for gamma in range(5):
        add({GAMMA: float(gamma)}, image=(0.9, 0.5 + gamma / 100))
    report = build_report(stored(), Recipe("t", baseline={GAMMA: 0.0}))
    assert values(report)["Metric"] == [f"focal_gamma={gamma}" for gamma in range(5)]
    assert values(report, "Change against focal_gamma=0")["Metric"][-1] == "focal_gamma=4"


def test_columns_that_do_not_fit_become_rows_and_each_metric_has_its_classes(stored, add):
    for gamma in range(6):
        add({GAMMA: float(gamma)}, image=(0.9, 0.5 + gamma / 100))
    report = build_report(stored(), Recipe("t", baseline={GAMMA: 0.0}))
    rows = rows_of(report.markdown(), "Image AUROC of each class")
    assert rows[0] == ["Variant", "leather", "grid"]
    assert rows[6] == ["focal_gamma=5", "0.9000", "0.5500"]
    titles = [table.title for table in report.tables]
    assert titles[:3] == ["After the final task", "Image AUROC of each class", "Pixel AUROC of each class"]
    assert {"Further image metrics", "Further pixel metrics", "Cost"} < set(titles)


def test_many_classes_are_tables_that_fit_one_after_the_other(stored, add):
    classes = tuple(f"class{k}" for k in range(7))
    for gamma in range(6):
        add({GAMMA: float(gamma)}, classes=classes, **{of: (0.5,) * 7 for of in ("image", "pixel", "routing")})
    report = build_report(stored(), Recipe("t", baseline={GAMMA: 0.0}))
    parts = [table for table in report.tables if table.title.startswith("Image AUROC of each class")]
    assert [table.title for table in parts] == [f"Image AUROC of each class ({n} of 2)" for n in (1, 2)]
    assert [table.header[1:] for table in parts] == [classes[:5], classes[5:]]
    assert {name for name, _ in parts[1].rows} == {f"focal_gamma={gamma}" for gamma in range(6)}


def test_values_that_repeat_the_first_table_are_a_note(stored, add):
    for gamma in (0.0, 2.0):
        add({GAMMA: gamma}, image=(0.9, 0.5 + gamma / 10))
    report = build_report(stored(), Recipe("t"))
    assert "- As Mean Image AUROC in every variant: " in report.markdown()
    assert "ACC (Image AUROC)" not in values(report, MEANS)


def test_the_csv_holds_the_comparison_with_the_baseline(stored, add):
    for seed in range(3):
        add({GAMMA: 0.0}, seed, pixel=(0.80, 0.80))
        add({GAMMA: 2.0}, seed, pixel=(0.81 + seed / 100,) * 2)
        add({GAMMA: 3.0}, seed, pixel=(0.91 + seed / 50,) * 2)
    records = csv.DictReader(io.StringIO(build_report(stored(), Recipe("t", baseline={GAMMA: 0.0})).csv()))
    found = {r["metric"]: (r["mean"], r["n"]) for r in records if r["variant"].endswith("2") and r["class"] == "Mean"}
    # Differences 0.01, 0.02, 0.03: standard deviation 0.01, half-width 4.302653 * 0.01 / sqrt(3).
    expected = {
        "difference": 0.02,
        "difference_low": -0.0048414,
        "difference_high": 0.0448414,
        "difference_t_low": -0.0048414,
        "difference_t_high": 0.0448414,
        "p_wilcoxon": 0.25,
        "p_holm": 0.5,  # Two tests.
        "d_z": 2.0,
        "seed_noise": 0.0141421,  # 2 sqrt((0 + 0.01^2) / 2)
    }
    for name, value in expected.items():
        mean, n = found[f"pixel_auroc_{name}"]
        assert float(mean) == pytest.approx(value, abs=1e-7), name
        assert n == "3"
