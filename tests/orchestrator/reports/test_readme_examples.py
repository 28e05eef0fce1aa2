"""The queries of results/README.md give the numbers of the report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from orchestrator.records.sweep_folder import read_sweep_folder
from orchestrator.reports.make import stored_report
from orchestrator.results.store import ResultStore

README = Path(__file__).parents[3] / "results/README.md"
EXAMPLES = [
    example
    for example in re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    if "trials.parquet" not in example  # See test_trials_table.py.
]


@pytest.fixture
def edited(kept, monkeypatch):
    """A sweep with validation rows, under the name of the examples, that has lost a variant."""
    (kept / "results/small").rename(kept / "results/v7_gamma")
    folder = kept / "results/v7_gamma"
    content = json.loads((folder / "sweep.json").read_text())
    planned = [trial for trial in content["trials"] if content["labels"][trial].startswith("focal_gamma=2")]
    (folder / "sweep.json").write_text(json.dumps(content | {"trials": planned, "baseline": {}}))
    stored = ResultStore(folder).read("metrics", ["trial_id", "split"]).to_pylist()
    assert {row["split"] for row in stored} == {"test", "validation"}
    assert {row["trial_id"] for row in stored} > set(planned)
    monkeypatch.chdir(kept)
    return folder


def names_after(example):
    """Run an example and return what it has named."""
    names = {}
    exec(compile(example, str(README), "exec"), names)
    return names


def rows_of(table):
    """Return the rows of a relation of duckdb, a data frame or an Arrow table as dicts."""
    if hasattr(table, "fetchall"):
        return [dict(zip(table.columns, row, strict=True)) for row in table.fetchall()]
    if hasattr(table, "to_pylist"):
        return table.to_pylist()
    return table.to_dicts() if hasattr(table, "to_dicts") else table.to_dict("records")


def test_each_final_result_is_that_of_the_report(edited):
    report = stored_report(edited, read_sweep_folder(edited))
    (mean,) = [row[4] for row in report.records if row[2:4] == ("Mean", "image_auroc")]
    tried = []
    for example in EXAMPLES:
        if "by_defect" in example:
            continue
        rows = rows_of(names_after(example)["final"])
        assert len(rows) == 2 * 2, "two seeds and two classes"
        assert sum(row["image_auroc"] for row in rows) / len(rows) == pytest.approx(mean, abs=1e-12)
        tried.append(next(word for word in ("duckdb", "polars", "pyarrow", "load_results") if word in example))
    assert tried == ["duckdb", "polars", "pyarrow", "load_results"]


def test_each_defect_is_that_of_the_stored_scores(edited):
    (example,) = [example for example in EXAMPLES if "by_defect" in example]
    rows = rows_of(names_after(example)["by_defect"])
    planned = read_sweep_folder(edited).trial_ids
    stored = [row for row in ResultStore(edited).read("scores").to_pylist() if row["trial_id"] in planned]
    stored = [row for row in stored if row["split"] == "test"]
    assert {(row["seed"], row["task_name"], row["defect"]) for row in rows} == {
        (row["seed"], row["task_name"], row["defect"]) for row in stored if row["label"] == 1
    }
    for row in rows:
        of_class = [one for one in stored if (one["seed"], one["task_name"]) == (row["seed"], row["task_name"])]
        good = [one["score"] for one in of_class if one["label"] == 0]
        bad = [one["score"] for one in of_class if one["defect"] == row["defect"]]
        higher = sum((b > g) + (b == g) / 2 for b in bad for g in good)
        assert row["image_auroc"] == pytest.approx(higher / len(good) / len(bad), abs=1e-12)
