"""The lines and the JSON of a plan, through the command line."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moleflow.data.findings import ClassFindings
from orchestrator.host.durations import duration_text
from orchestrator.plan import listing
from orchestrator.plan.cost_estimate import WorkEstimate
from orchestrator.results.store import ResultStore

SHARING = ("stages:", "forwards:", "expected:")


def sharing_lines(out: str) -> list[str]:
    """The lines of an output about sharing."""
    return [line for line in out.splitlines() if line.startswith(SHARING)]


def test_lines_show_the_work_without_sharing_only_if_it_is_more() -> None:
    assert listing.work_lines(WorkEstimate((12, 5), (4_000, 1_000), (3.0, 1.5))) == [
        "stages:   5 to train at most, 12 without sharing",
        "forwards: 1,000 images at most, 4,000 without sharing",
        "expected: 1 h 30 min of training by the steps measured so far, 3 h without sharing",
    ]
    assert listing.work_lines(WorkEstimate((5, 5), (100, 100), None)) == [
        "stages:   5 to train at most",
        "forwards: 100 images at most",
        "expected: not known before a first trial has trained; --dry-run times a step",
    ]
    assert listing.work_lines(WorkEstimate((5, 5), (100, 100), None, 251.0))[-1] == (
        "expected: about 4 min of training and features with 1 worker on this machine, by a step timed here"
    )
    assert listing.work_lines(None) == listing.work_lines(WorkEstimate((0, 0), (0, 0), None)) == []


def test_classes_on_which_some_metrics_are_undefined_are_named_first(place, draw, edit, command) -> None:
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
        "nut: all its test images are defective (hole; data.normal_names says which are normal): "
        "no image metric is defined",
    ]
    ended = command("plan", "sweep.yaml")
    assert ended.code == 0, ended.err
    passed_over = "bolt: 4 files passed over: 4 masks without a defective image (ground_truth/hole/)"
    assert [line[10:] for line in ended.out.splitlines() if line.startswith("note:")] == [
        notes[0],
        passed_over,
        *notes[1:],
    ]
    plan = json.loads(command("plan", "sweep.yaml", "--json").out)
    assert (plan["undefined"], plan["wide_masks"]) == (notes, [])
    reason = {"count": 4, "reason": "masks without a defective image", "where": ["ground_truth/hole/"]}
    assert plan["passed_over"] == {"bolt": [reason], "cloth": [], "nut": [], "tile": []}


def test_a_note_that_classes_share_is_one_line() -> None:
    without = ClassFindings("tile", 9, {"good": 2, "cut": 2}, 0, (), (), (), {"pixel": "it has no masks"})
    other = replace(without, name="brush", split="no test folder")
    assert listing.class_notes([without, other]) == [
        "each of tile, brush: it has no masks: no pixel metric is defined",
        "brush: no test folder",
    ]


def test_a_plan_and_a_run_begin_with_the_work_that_trials_share(place: Path, edit: Any, command: Any) -> None:
    edit(version="v3", grid={"image_score": ["max", "top_k"], "smoothing": [0.0, 2.0]}, report=None, seeds=1)
    first = [
        "stages:   2 to train at most, 8 without sharing",
        "forwards: 40 images at most, 160 without sharing",
        "expected: not known before a first trial has trained; --dry-run times a step",
    ]
    assert sharing_lines(command("plan", "sweep.yaml").out) == first
    ran = command("sweep.yaml", "--backend", "inline")
    assert (ran.code, sharing_lines(ran.out)) == (0, first)
    assert sharing_lines(command("plan", "sweep.yaml").out) == []
    # New trials reuse the stages of finished ones: a new seed trains, a new score does not.
    edit(version="v3", grid={"image_score": ["max", "top_k", "quantile"], "smoothing": [0.0]}, report=None, seeds=2)
    stages, forwards, expected = sharing_lines(command("plan", "sweep.yaml").out)
    assert stages == "stages:   2 to train at most, 8 without sharing"
    assert forwards.startswith("forwards: 40 images at most")
    assert "of training by the steps measured so far" in expected
    to_do = json.loads(command("plan", "sweep.yaml", "--json").out)["to_do"]
    assert to_do["stages"] == [8, 2]
    assert to_do["hours"][0] == pytest.approx(4 * to_do["hours"][1])


@pytest.mark.process
def test_a_run_ends_with_the_cost_line_of_its_report(place: Path, edit: Any, command: Any) -> None:
    edit(version="v3", grid={"image_score": ["max", "top_k", "quantile"]}, report=None, seeds=1)
    for _ in range(2):  # Made now, and found made already.
        ran = command("sweep.yaml", "--backend", "inline", "--quiet")
        report = (place / "results/small/report.md").read_text()
        (words,) = [line.removeprefix("- cost: ") for line in report.splitlines() if line.startswith("- cost: ")]
        assert ran.out.splitlines()[-3] == f"cost:    {words}"
    rows = ResultStore(place / "results/small").read("attempts", ["seconds_spent", "seconds_reused"]).to_pylist()
    spent, reused = (sum(row[name] for row in rows) for name in ("seconds_spent", "seconds_reused"))
    whole, saved = duration_text(spent + reused), duration_text(reused)
    text = f"{duration_text(spent)} of compute time spent; {whole} without sharing, so {saved} ("
    assert re.fullmatch(rf"{re.escape(text)}\d+%\) saved", words)


def test_the_plan_of_a_search_shows_its_space_and_its_final_test(edit: Any, command: Any) -> None:
    space = {"lr": {"loguniform": [1e-4, 1]}, "epochs": {"choice": [1, 2]}}
    edit(grid=None, report=None, seeds=1, search={"trials": 1200, "space": space, "final_seeds": 3})
    ended = command("plan", "sweep.yaml")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    search = "1,200 configurations by tpe, each with 1 seed, on validation images"
    assert f"search:   {search}; tested then: the best and the base with 3 seeds" in lines
    assert "results:  results/small" in lines
    assert lines[-3:] == ["the space:", "  epochs  1 | 2", "  lr      0.0001 to 1 (loguniform)"]


def test_an_edit_that_leaves_finished_trials_out_says_so(finished: Path, edit: Any, command: Any) -> None:
    assert "no longer" not in command("plan", "sweep.yaml").out
    edit(grid={"focal_gamma": [0]}, seeds=1, report=None)
    shown = command("plan", "sweep.yaml").out
    assert (
        "left:     3 stored trials are no longer in this sweep and in none of its tables; to see them: "
        "moleflow-sweep report results/small --all\n" in shown
    )
    assert len(json.loads(command("plan", "sweep.yaml", "--json").out)["no_longer"]) == 3
    ended = command("sweep.yaml", "--backend", "inline")
    assert "3 stored trials are no longer in this sweep" in ended.out + ended.err
