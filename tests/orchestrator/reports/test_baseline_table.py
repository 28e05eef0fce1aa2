"""The tables of paired comparisons for image and pixel AUROC, and their notes."""

from __future__ import annotations

import csv
import io

import pytest

from orchestrator.reports.lock import Recipe
from orchestrator.reports.statistics import effect_size, t_interval
from orchestrator.reports.tables import build_report

GAMMA = "loss.focal_gamma"


def statistics_table(report, metric="Image"):
    """The cells of the two tables of a metric, {variant: {column: cell}}, and their Markdown."""
    section = report.markdown().split("## Against ")[1 if metric == "Image" else 2]
    cells = {}
    for table in section.split("\n## Intervals and tests against "):
        lines = [line for line in table.splitlines() if line.startswith("|")]
        header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
        for name, *row in rows:
            cells.setdefault(name, {}).update(zip(header[1:], row, strict=True))
    return cells, section


def test_the_report_holds_the_comparisons_and_says_what_was_resampled(stored, add, make_images):
    for seed in range(5):
        for gamma, strength in ((0.0, 0.5), (1.0, 0.6), (2.0, 3.0)):
            add({GAMMA: gamma}, seed, images=make_images((strength, 1.0), seed + int(10 * gamma)))
    report = build_report(stored(), Recipe("t", baseline={GAMMA: 0.0}))
    table, section = statistics_table(report)
    assert section.startswith("focal_gamma=0: Mean Image AUROC\n")
    assert list(table) == ["focal_gamma=1", "focal_gamma=2"]
    row = table["focal_gamma=2"]
    assert row["n"] == "5"
    assert row["p (Wilcoxon)"] == "0.0625 (floor 0.0625)"
    assert float(row["p (Holm)"]) in (0.0625, 0.125)
    low, high = map(float, row["Plain 95 % interval"].split(" to "))
    assert low < float(row["Difference"]) < high
    assert float(row["Plain 95 % t"].split(" to ")[0]) < float(row["Difference"])
    for words in (
        "Good and defective images of each class are drawn apart, with replacement",
        "resamples of the test images and of the seeds in common",
        "5 seeds 0.0625",
        "at level 1 - 0.05/m for the m = 2 comparisons of this table (Bonferroni)",
        "Monte Carlo standard error of the lower and the upper bound of the bootstrap: `focal_gamma=1` 0.0",
        "corrected for the 2 tests of this table. It cannot fall below 0.1250",
        "an interval over so few drawn seeds covers less than 95 %: 85% with 5 seeds.",
    ):
        assert words in section
    records = {
        (r["variant"], r["metric"]): r for r in csv.DictReader(io.StringIO(report.csv())) if r["class"] == "Mean"
    }
    assert float(records["focal_gamma=2", "image_auroc_difference"]["mean"]) == pytest.approx(
        float(row["Difference"]), abs=1e-4
    )
    assert records["focal_gamma=2", "image_auroc_p_wilcoxon"]["n"] == "5"
    assert ("focal_gamma=0", "image_auroc_difference") not in records


def test_pixel_auroc_has_a_table_of_its_own_over_the_seeds_alone(stored, add, make_images):
    for seed in range(3):
        images = make_images((1.0, 0.5), seed)
        add({GAMMA: 0.0}, seed, images=images, pixel=(0.90, 0.80 + seed / 1000))
        add({GAMMA: 1.0}, seed, images=images, pixel=(0.90, 0.80 + (seed + 1) % 3 / 1000))
        add({GAMMA: 2.0}, seed, images=images, pixel=(0.95, 0.80 + seed / 500))
    report = build_report(stored(), Recipe("t", baseline={GAMMA: 0.0}))
    table, section = statistics_table(report, "Pixel")
    assert section.startswith("focal_gamma=0: Mean Pixel AUROC\n")
    assert list(table["focal_gamma=2"]) == [
        "Verdict",
        "n",
        "Difference",
        "Simultaneous 95 % t",
        "Seed noise",
        "Plain 95 % interval",
        "p (Wilcoxon)",
        "p (Holm)",
        "d_z",
    ]
    differences = [0.025 + seed / 2000 for seed in range(3)]
    low, high = t_interval(differences)
    row = table["focal_gamma=2"]
    assert (row["Difference"], row["Plain 95 % interval"]) == ("+0.0255", f"{low:+.4f} to {high:+.4f}")
    low, high = t_interval(differences, family=2)
    assert row["Simultaneous 95 % t"] == f"{low:+.4f} to {high:+.4f}"
    assert (row["p (Wilcoxon)"], row["p (Holm)"]) == ("0.2500 (floor 0.2500)", "0.5000")
    assert row["d_z"] == f"{effect_size(differences):+.2f}"
    assert row["Verdict"] == "better"
    assert table["focal_gamma=1"]["Verdict"].startswith("undecided: ")
    for words in (
        "t interval of the paired differences",
        "nothing of other test images",
        "Scores of single pixels are not stored",
    ):
        assert words in section
    records = {(r["variant"], r["metric"]): r for r in csv.DictReader(io.StringIO(report.csv()))}
    assert float(records["focal_gamma=2", "pixel_auroc_difference_joint_low"]["mean"]) == pytest.approx(low)
    assert records["focal_gamma=2", "pixel_auroc_verdict"]["text"] == "better"
    assert records["focal_gamma=2", "pixel_auroc_verdict"]["mean"] == ""
    assert ("focal_gamma=2", "pixel_auroc_difference_low_error") not in records
    assert ("focal_gamma=2", "image_auroc_difference_low_error") in records
    assert float(records["focal_gamma=2", "pixel_auroc_p_wilcoxon"]["mean"]) == 0.25


def test_without_pixel_metrics_there_is_no_such_table(stored, add, make_images):
    for gamma in (0.0, 2.0):
        add({GAMMA: gamma}, images=make_images((1.0, 0.5)), pixel=(None, None))
    assert build_report(stored(), Recipe("t", baseline={GAMMA: 0.0})).markdown().count("## Against") == 1


def test_the_notes_name_a_p_from_drawn_sign_patterns(stored, add):
    for seed in range(14):
        add({GAMMA: 0.0}, seed, image=(0.9, 0.8), pixel=(0.9, 0.8))
        add({GAMMA: 2.0}, seed, image=(0.9, 0.8 + 0.02 * (1 + seed)), pixel=(0.9, 0.82))
    report = build_report(stored(), Recipe("t", baseline={GAMMA: 0.0}))
    words = "p of `focal_gamma=2` is not exact: differences tie in size, so 9,999 random sign patterns stand for all."
    assert words in statistics_table(report, "Pixel")[1]
    assert words not in statistics_table(report)[1]  # no two differences tie there


def test_the_notes_name_few_and_different_seeds(stored, add, make_images):
    for seed in (0, 1, 2):
        add({GAMMA: 0.0}, seed, images=make_images((1.0, 0.5), seed))
    for seed in (1, 2, 5):
        add({GAMMA: 2.0}, seed, images=make_images((1.0, 0.5), seed + 10))
    for seed in (1, 2):
        add({GAMMA: 3.0}, seed, images=make_images((1.0, 0.5), seed + 20))
    _, section = statistics_table(build_report(stored(), Recipe("t", baseline={GAMMA: 0.0})))
    assert (
        "Only the seeds that a variant shares with its baseline count: `focal_gamma=2` on seeds 1, 2; `focal_gamma=3` on"
        in section
    )
    assert "Seeds are not drawn (fewer than 5 in common)" in section


def test_without_a_baseline_or_a_second_column_there_is_no_such_table(stored, add, make_images):
    add({GAMMA: 0.0}, images=make_images((1.0, 0.5)))
    assert "## Against" not in build_report(stored(), Recipe("t", baseline={GAMMA: 0.0})).markdown()
    add({GAMMA: 2.0}, images=make_images((1.0, 0.5)))
    assert "## Against" not in build_report(stored(), Recipe("t")).markdown()
    assert "## Against" in build_report(stored(), Recipe("t", baseline={GAMMA: 0.0})).markdown()


def test_equal_scores_make_equal_bytes_whatever_the_order_of_writing(stored, add, make_trial, make_images, tmp_path):
    from orchestrator.results.store import ResultStore
    from orchestrator.results.writer import PartWriter

    trials = [({GAMMA: gamma}, seed, make_images((gamma, 1.0), seed)) for gamma in (0.0, 2.0) for seed in (0, 1)]
    for factors, seed, images in trials:
        add(factors, seed, images=images)
    other = ResultStore(tmp_path / "other")
    writer = PartWriter(other)
    for factors, seed, images in reversed(trials):
        rows = make_trial(factors, seed, images=images)
        writer.add(type(rows)(rows.attempt, rows.metrics, list(reversed(rows.scores))))
        writer.flush()
    here, there = (build_report(store, Recipe("t", baseline={GAMMA: 0.0})) for store in (stored(), other))
    assert (here.markdown(), here.csv(), here.latex()) == (there.markdown(), there.csv(), there.latex())
    assert "\u2013" not in statistics_table(here)[0]["focal_gamma=2"]["Plain 95 % interval"]


def test_pixels_are_compared_over_the_classes_that_have_masks(stored, add):
    for seed in range(3):
        add({GAMMA: 0.0}, seed, pixel=(0.80 + seed / 1000, None))
        add({GAMMA: 2.0}, seed, pixel=(0.90 + seed / 900, None))
    report = build_report(stored(), Recipe("t", baseline={GAMMA: 0.0}))
    table, section = statistics_table(report, "Pixel")
    row = table["focal_gamma=2"]
    assert (row["n"], row["Difference"], row["Verdict"]) == ("3", "+0.1001", "better")
    assert "- ‡ Over the classes that have the metric: `leather`." in section


def test_variants_without_masks_in_different_classes_are_not_compared_in_pixels(stored, add):
    for seed in range(3):
        add({GAMMA: 0.0}, seed, pixel=(0.80, None))
        add({GAMMA: 2.0}, seed, pixel=(None, 0.90))
    report = build_report(stored(), Recipe("t", baseline={GAMMA: 0.0}))
    assert not any("Mean Pixel AUROC" in of.title for of in report.tables) or (
        statistics_table(report, "Pixel")[0]["focal_gamma=2"]["Verdict"] == "\u2013"
    )
