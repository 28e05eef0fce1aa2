"""Image metrics by defect, from the stored scores to the report and the page."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from orchestrator.reports.defects import KINDS, defect_summary, read_defect_metrics
from orchestrator.results.store import ResultStore

ONE: dict[str, Any] = {"version": "v7", "grid": None, "report": None, "seeds": 2}


def expected(scores: pl.DataFrame, trial: str, name: str, defect: str) -> tuple[float, float]:
    """AUROC and AP by scikit-learn, from the stored rows."""
    own = scores.filter(
        (pl.col("trial_id") == trial) & (pl.col("task_name") == name) & pl.col("defect").is_in(["good", defect])
    )
    return roc_auc_score(own["label"], own["score"]), average_precision_score(own["label"], own["score"])


@pytest.fixture
def loco(place: Path, images: Path) -> Path:
    """Two classes whose defects are the kinds of MVTec LOCO AD; one lacks a kind."""
    mine = shutil.copytree(images, place / "mine")
    for part in ("test", "ground_truth"):
        for name, kinds in (("bolt", KINDS), ("cloth", KINDS[:1])):
            files = sorted((mine / name / part / "hole").iterdir())
            for number, file in enumerate(files):
                to = mine / name / part / kinds[number % len(kinds)] / file.name
                to.parent.mkdir(exist_ok=True)
                file.rename(to)
            (mine / name / part / "hole").rmdir()
    return mine


def test_two_kinds_of_anomaly_are_reported_apart(loco: Path, place: Path, edit: Any, command: Any) -> None:
    edit(data="mine", **ONE)
    assert command("sweep.yaml", "--backend", "inline", "--quiet").code == 0
    assert command("report", "results/small", "--html").code == 0
    folder = place / "results/small"
    scores = pl.concat([pl.read_parquet(part) for part in (folder / "parts/scores").rglob("*.parquet")])
    trials = sorted(scores["trial_id"].unique())
    found = read_defect_metrics(ResultStore(folder), trials, "test")
    assert set(found[trials[0]]) == {("bolt", KINDS[0]), ("bolt", KINDS[1]), ("cloth", KINDS[0])}
    for trial in trials:
        for (name, defect), of in found[trial].items():
            assert (of.auroc, of.ap) == pytest.approx(expected(scores, trial, name, defect))
    report = (folder / "report.md").read_text().replace("\\_", "_")
    assert "## By kind of anomaly" in report
    logical = [sum(found[t][name, KINDS[0]].auroc for name in ("bolt", "cloth")) / 2 for t in trials]
    (row,) = [line for line in report.splitlines() if line.startswith("| Mean logical_anomalies Image AUROC")]
    assert row.split("|")[2].split()[0] == f"{sum(logical) / 2:.4f}"
    with (folder / "report.csv").open() as file:
        records = {(one["class"], one["metric"]): one for one in csv.DictReader(file)}
    assert float(records["Mean", "image_auroc_logical_anomalies"]["mean"]) == pytest.approx(sum(logical) / 2)
    assert ("cloth", "image_ap_structural_anomalies") not in records
    assert command("verify", "results/small/report.md").code == 0
    page = (folder / "report.html").read_text()
    assert '"title":"By defect","head":["Class","Defect",' in page


def test_defects_of_other_names_are_no_kinds(place: Path, edit: Any, command: Any) -> None:
    edit(data="images", **ONE | {"seeds": 1})
    assert command("sweep.yaml", "--backend", "inline", "--quiet").code == 0
    assert command("report", "results/small", "--html").code == 0
    folder = place / "results/small"
    assert "By kind" not in (folder / "report.md").read_text()
    assert "By defect" not in (folder / "report.html").read_text()  # Each class has one defect.
    trial = json.loads(command("plan", "sweep.yaml", "--json").out)["trials"][0]["trial_id"]
    assert read_defect_metrics(ResultStore(folder), [trial], "test", KINDS) == {}
    assert set(read_defect_metrics(ResultStore(folder), [trial], "test")[trial]) == {
        ("bolt", "hole"),
        ("cloth", "hole"),
    }


def test_a_trial_that_lacks_a_class_has_no_mean() -> None:
    assert defect_summary([{}], ["bolt"], "hole", "auroc").n == 0
