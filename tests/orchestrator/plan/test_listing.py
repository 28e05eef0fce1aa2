"""What a plan says in lines, through the command line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.plan import listing
from orchestrator.plan.cost_estimate import MoreEpochs, WorkEstimate
from orchestrator.results.store import ResultStore

SHARING = ("stages:", "forwards:", "expected:", "epochs:")


def said(out: str) -> list[str]:
    """The lines about sharing."""
    return [line for line in out.splitlines() if line.startswith(SHARING)]


def test_lines_name_what_would_be_without_sharing_only_where_that_is_more() -> None:
    assert listing.work_lines(WorkEstimate((12, 5), (4_000, 1_000), (3.0, 1.5))) == [
        "stages:   5 to train at most, 12 without sharing",
        "forwards: 1,000 images at most, 4,000 without sharing",
        "expected: 1.5 compute-hours of training by the steps measured so far, 3 without sharing",
    ]
    assert listing.work_lines(WorkEstimate((5, 5), (100, 100), None)) == [
        "stages:   5 to train at most",
        "forwards: 100 images at most",
        "expected: not known before a first trial has trained",
    ]
    assert listing.work_lines(None) == listing.work_lines(WorkEstimate((0, 0), (0, 0), None)) == []


def test_classes_without_some_metrics_are_named_before_anything_runs(place, draw, edit, command) -> None:
    root = place / "mine"
    for n, name in enumerate(("bolt", "cloth", "nut", "tile")):
        draw(root / name, 32, n)
    shutil.rmtree(root / "bolt/test/hole")
    shutil.rmtree(root / "cloth/ground_truth")
    shutil.rmtree(root / "nut/test/good")
    edit(base={"extends": "base.yaml", "tasks": ["bolt", "cloth", "nut", "tile"]}, data="mine")
    notes = [
        "bolt: all its test images are good: neither image nor pixel metrics are defined",
        "cloth: it has no masks: no pixel metric is defined",
        "nut: all its test images are defective: no image metric is defined",
    ]
    ended = command("plan", "sweep.yaml")
    assert ended.code == 0, ended.err
    assert [line[10:] for line in ended.out.splitlines() if line.startswith("note:")] == notes
    assert json.loads(command("plan", "sweep.yaml", "--json").out)["undefined"] == notes
    assert command("sweep.yaml", "--backend", "inline", "--quiet", "--set", "epochs=1").code == 0
    rows = ResultStore(place / "results/small").read("metrics").to_pylist()
    known = {row["task_name"]: (row["image_auroc"] is not None, row["pixel_auroc"] is not None) for row in rows}
    assert known == {"bolt": (False, False), "cloth": (True, False), "nut": (False, True), "tile": (True, True)}


def test_lines_say_what_becomes_of_more_epochs() -> None:
    more = (MoreEpochs(40, 20, False, 1), MoreEpochs(40, 20, True, 2), MoreEpochs(80, 40, True, 2))
    assert listing.work_lines(WorkEstimate((5, 5), (100, 100), None, more))[3:] == [
        "epochs:   task 0 goes on from 20 epochs to 40, from 40 epochs to 80 (4 trials), as the learning rate is constant",
        "epochs:   task 0 of 40 epochs beside 20 trains anew (1 trial): the schedule (cosine to the last epoch) does not allow "
        "it to go on",
    ]


def test_a_plan_says_what_its_trials_share_and_a_run_says_it_first(place: Path, edit: Any, command: Any) -> None:
    edit(version="v3", grid={"image_score": ["max", "top_k"], "smoothing": [0.0, 2.0]}, report=None, seeds=1)
    first = [
        "stages:   2 to train at most, 8 without sharing",
        "forwards: 40 images at most, 160 without sharing",
        "expected: not known before a first trial has trained",
    ]
    assert said(command("plan", "sweep.yaml").out) == first
    ran = command("sweep.yaml", "--backend", "inline")
    assert (ran.code, said(ran.out)) == (0, first)
    assert said(command("plan", "sweep.yaml").out) == []
    # What the trials that are done have trained is there for the new ones: one seed more trains, one score more does not.
    edit(version="v3", grid={"image_score": ["max", "top_k", "quantile"], "smoothing": [0.0]}, report=None, seeds=2)
    stages, forwards, expected = said(command("plan", "sweep.yaml").out)
    assert stages == "stages:   2 to train at most, 8 without sharing"
    assert forwards.startswith("forwards: 40 images at most")
    assert "compute-hours of training by the steps measured so far" in expected
    to_do = json.loads(command("plan", "sweep.yaml", "--json").out)["to_do"]
    assert (to_do["stages"], to_do["more_epochs"]) == ([8, 2], [])
    assert to_do["hours"][0] == pytest.approx(4 * to_do["hours"][1])


def test_a_run_says_last_what_sharing_saved_in_the_words_of_its_report(place: Path, edit: Any, command: Any) -> None:
    edit(version="v3", grid={"image_score": ["max", "top_k", "quantile"]}, report=None, seeds=1)
    for _ in range(2):  # Made now, and found made already.
        ran = command("sweep.yaml", "--backend", "inline", "--quiet")
        report = (place / "results/small/report.md").read_text()
        (words,) = [line.removeprefix("- cost: ") for line in report.splitlines() if line.startswith("- cost: ")]
        assert ran.out.splitlines()[-3] == f"cost:    {words}"
        assert re.fullmatch(r"\S+ compute-hours spent; \S+ without sharing, so \S+ \(\d+%\) saved", words)
    rows = ResultStore(place / "results/small").read("attempts", ["seconds_spent", "seconds_reused"]).to_pylist()
    spent, reused = (sum(row[name] for row in rows) / 3600 for name in ("seconds_spent", "seconds_reused"))
    assert words.startswith(f"{spent:.3g} compute-hours spent; {spent + reused:.3g} without sharing, so {reused:.3g} (")


def test_the_plan_of_a_search_says_what_it_draws_from_and_what_is_tested(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(
        "name: s\nversion: v3\nbase: demo\nseeds: 1\n"
        "search: {trials: 1200, space: {lr: {loguniform: [1.0e-4, 1]}, epochs: {choice: [1, 2]}}, final_seeds: 3}\n"
    )
    ended = command("plan", "s.yaml")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert (
        "search:   1,200 configurations by tpe, each with 1 seed, on validation images; tested then: the best and the base with 3 seeds"
        in lines
    )
    assert "results:  results/s" in lines
    assert lines[-3:] == ["the space:", "  lr      0.0001 to 1 (loguniform)", "  epochs  1 | 2"]
