"""Results from Python are those of the folder: its tables, and the comparison of its report."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import polars
import pytest

from moleflow.errors import InvalidInput
from orchestrator.api import SweepResults, load_results
from orchestrator.records.sweep_folder import read_sweep_folder, write_sweep_folder
from orchestrator.reports.export import rows_to_export
from orchestrator.reports.make import stored_report
from orchestrator.results.store import ResultStore

FOLDER = "results/small"
TABLES = ("metrics", "scores", "curves", "attempts")


@pytest.fixture(scope="module")
def results(kept_run: Path) -> SweepResults:
    return load_results(kept_run / FOLDER)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_holds_the_rows_that_count(name, results):
    stored = ResultStore(results.folder).read(name)
    assert results.table(name).equals(stored)
    assert results.table(name).num_rows > 0


def test_tables_are_data_frames(results):
    frame = results.pandas("scores")
    assert frame.columns.tolist() == results.table("scores").column_names
    assert isinstance(results.polars("scores"), polars.DataFrame)
    assert results.polars("scores")["score"].to_list() == frame["score"].tolist()


def test_the_trials_are_those_that_are_exported(results):
    frame = results.pandas("trials")
    assert frame["trial_id"].tolist() == [*results.sweep.trial_ids]
    assert frame["loss.focal_gamma"].tolist() == [0.0, 0.0, 2.0, 2.0]
    assert results.table("trials").equals(rows_to_export(results.folder, "trials"))


def test_a_comparison_is_a_data_frame_too(results):
    comparison = results.comparison()
    frame = comparison.pandas().set_index(["variant", "metric"])
    for variant in comparison.variants:
        for metric, mean in variant.mean.items():
            row = frame.loc[variant.label, metric]
            assert row["seeds"] == 2
            assert row["mean"] == mean or (mean is None and np.isnan(row["mean"]))
    difference = comparison.difference("focal_gamma=2")
    row = frame.loc["focal_gamma=2", "image_auroc"]
    assert (row["difference"], row["verdict"], row["n"]) == (difference.difference, difference.verdict, 2)
    assert frame.loc["focal_gamma=0", "image_auroc"][["baseline", "difference", "verdict"]].isna().all()
    trials = results.pandas("trials").set_index("trial_id")
    for gamma in (0, 2):
        ids = frame.loc[f"focal_gamma={gamma}", "image_auroc"]["trial_ids"]
        assert set(trials.loc[list(ids), "loss.focal_gamma"]) == {gamma}


def test_trials_of_an_earlier_plan_are_left_out(kept):
    folder = kept / FOLDER
    sweep = read_sweep_folder(folder)
    fewer = type(sweep)(sweep.name, sweep.title, sweep.baseline, sweep.trial_ids[:1], sweep.dataset)
    write_sweep_folder(folder, fewer, {})
    assert set(load_results(folder).pandas("metrics")["trial_id"]) == {sweep.trial_ids[0]}


@pytest.mark.parametrize("split", ["test", "validation"])
def test_the_comparison_is_that_of_the_report(split, results):
    comparison = results.comparison(split)
    report = stored_report(results.folder, results.sweep, split=split)
    rows = {(row["variant"], row["class"], row["metric"]): row for row in csv.DictReader(io.StringIO(report.csv()))}
    assert [one.label for one in comparison.variants] == ["focal_gamma=0", "focal_gamma=2"]
    for variant in comparison.variants:
        for metric in ("image_auroc", "pixel_auroc", "routing_accuracy"):
            row = rows[variant.label, "Mean", metric]
            assert (variant.mean[metric], variant.sd[metric]) == (float(row["mean"]), float(row["sd"]))
        assert variant.seeds == (0, 1)
        assert len(set(variant.trial_ids)) == 2
    assert {one.metric for one in comparison.differences} == {"image_auroc", "pixel_auroc"}
    for one in comparison.differences:
        assert (one.variant, one.baseline, one.n) == ("focal_gamma=2", "focal_gamma=0", 2)
        assert one.difference == float(rows[one.variant, "Mean", f"{one.metric}_difference"]["mean"])
        assert one.text == rows[one.variant, "Mean", f"{one.metric}_verdict"]["text"]
        assert one.text.startswith(one.verdict)
        assert one.by_seed.keys() == {0, 1}


def test_one_difference_is_found_by_its_variant(results):
    comparison = results.comparison()
    assert comparison.difference("focal_gamma=2") in comparison.differences
    assert comparison.difference("focal_gamma=2", "pixel_auroc").metric == "pixel_auroc"
    with pytest.raises(InvalidInput, match=r"given 'focal_gamma=0' in image_auroc, allowed: focal_gamma=2"):
        comparison.difference("focal_gamma=0")


def test_unfinished_trials_are_told(kept, edit):
    folder = kept / FOLDER
    assert load_results(folder).unfinished == ()
    sweep = read_sweep_folder(folder)
    more = type(sweep)(sweep.name, sweep.title, sweep.baseline, (*sweep.trial_ids, "f" * 12), sweep.dataset)
    write_sweep_folder(folder, more, {})
    assert "1 of 5" in load_results(folder).unfinished[0]


def test_the_report_is_the_stored_one(results):
    assert (results.folder / "report.md").read_text().startswith(results.report())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda of: of.table("score"),
            r"table: given 'score', allowed: trials \| metrics \| scores \| curves \| attempts\. Did",
        ),
        (lambda of: of.comparison("train"), r"split: given 'train', allowed: test \| validation"),
        (lambda of: load_results(of.folder / "gone"), "gone: no such folder"),
        (lambda of: load_results(of.folder.parent), "holds no sweep"),
    ],
)
def test_mistakes_are_one_line(call, message, results):
    with pytest.raises(InvalidInput, match=message) as error:
        call(results)
    assert "\n" not in str(error.value)
