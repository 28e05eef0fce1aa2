"""Folders as people have them, through the command line: refusals, notes and undefined metrics."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from moleflow.errors import InvalidInput
from moleflow.settings.knobs import Layer, resolve
from orchestrator.plan.inputs import scan_inputs

RUN = ("sweep.yaml", "--backend", "inline", "--quiet")
ONE: dict[str, Any] = {"version": "v7", "grid": None, "report": None, "seeds": 1}


@pytest.fixture
def mine(place: Path, images: Path) -> Path:
    """A copy of the images in which a test may write."""
    return shutil.copytree(images, place / "mine")


def metrics(place: Path, folder: str = "results/small") -> pl.DataFrame:
    """The stored metrics of a run."""
    return pl.concat([pl.read_parquet(part) for part in (place / folder / "parts/metrics").rglob("*.parquet")])


@pytest.mark.parametrize("beside", [True, False])
def test_normal_images_under_another_name_stop_a_plan_until_a_line_answers(
    mine: Path, edit: Any, command: Any, beside: bool
) -> None:
    test = mine / "bolt/test"
    if beside:
        shutil.copytree(test / "good", test / "ok")
    else:
        (test / "good").rename(test / "ok")
    edit(data="mine", **ONE)
    for words in (("plan", "sweep.yaml"), RUN):
        ended = command(*words)
        assert ended.code == 2
        assert "mine/bolt/test/ok: the folder 'ok' could hold normal images under another name" in ended.err
        assert "under base in the sweep file: `normal_names: [good, ok]` counts its images as normal" in ended.err
    assert command("plan", "sweep.yaml", "--set", "normal_names=[good, ok]").code == 0
    edit(data="mine", **ONE | {"base": {"extends": "base.yaml", "normal_names": ["good", "ok"]}})
    answered = json.loads(command("plan", "sweep.yaml", "--json").out)
    assert (answered["undefined"], answered["counts"]["to run"]) == ([], 1)


def test_a_renamed_folder_and_the_line_that_names_it_make_one_trial(mine: Path, edit: Any, command: Any) -> None:
    edit(data="mine", **ONE)
    before = json.loads(command("plan", "sweep.yaml", "--json").out)["trials"][0]["trial_id"]
    for part in ("train", "test"):
        (mine / "bolt" / part / "good").rename(mine / "bolt" / part / "normal")
    plan = command("plan", "sweep.yaml", "--json", "--set", "normal_names=[good, normal]", "--set", "layout=mvtec_ad")
    assert plan.code == 0, plan.err
    assert json.loads(plan.out)["trials"][0]["trial_id"] == before


def test_a_class_of_one_kind_has_no_image_metric(mine: Path, place: Path, edit: Any, command: Any) -> None:
    """AP and F1-max would be 1 for any scores."""
    shutil.rmtree(mine / "bolt/test/good")
    edit(data="mine", **ONE)
    assert command(*RUN).code == 0
    rows = metrics(place).filter(pl.col("task_name") == "bolt")
    assert rows.height == 2
    for name in ("image_auroc", "image_ap", "image_f1_max"):
        assert rows[name].null_count() == 2, name
    assert rows["pixel_auroc"].null_count() == 0
    report = (place / "results/small/report.md").read_text()
    assert "bolt: no normal test images, so no image metrics" in report
    assert "1.0000" not in next(line for line in report.splitlines() if line.startswith("| bolt"))


def test_inverted_masks_are_noted_by_the_plan_and_flagged_in_the_report(
    mine: Path, place: Path, edit: Any, command: Any
) -> None:
    for path in (mine / "bolt/ground_truth").rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    edit(data="mine", **ONE)
    said = "bolt: 4 of 4 masks mark more than half of the image as defective, such as bolt/ground_truth/hole/"
    plan = command("plan", "sweep.yaml")
    assert [line for line in plan.out.splitlines() if line.startswith(f"note:     {said}")], plan.out
    found = json.loads(command("plan", "sweep.yaml", "--json").out)["wide_masks"]
    assert {mask["name"] for mask in found} == {f"bolt/ground_truth/hole/{n:03}_mask.png" for n in range(4)}
    assert {mask["share"] for mask in found} == {1 - 12 * 12 / 32**2}
    assert command(*RUN).code == 0
    assert f"flag: {said}" in (place / "results/small/report.md").read_text().replace("\\_", "_")


def test_files_passed_over_are_told_alike_by_plan_and_doctor(mine: Path, edit: Any, command: Any) -> None:
    shutil.copytree(mine / "bolt/train/good", mine / "bolt/train/good/monday")
    shutil.copy(mine / "bolt/test/good/000.png", mine / "bolt/test/stray.png")
    (mine / "bolt/test/hole/000.gif").write_bytes(b"GIF89a")
    edit(data="mine", **ONE)
    said = (
        "bolt: 14 files passed over: 1 .gif, 1 outside the folders of images (test/), "
        "12 in nested folders (train/good/monday/)"
    )
    assert f"note:     {said}\n" in command("plan", "sweep.yaml").out
    doctor = command("doctor", "--data", "mine", "--base", "base.yaml").out
    assert f"2 classes (bolt, cloth), 24 training and 16 test images, 8 masks; {said}" in doctor


def test_trials_of_a_sweep_read_a_folder_in_one_way(images: Path, tmp_path: Path) -> None:
    given = [{"layout": "mvtec_ad"}, {"layout": "auto"}]
    configs = [resolve([Layer("test", {"tasks": ["bolt"], "weights": "random"} | one)]) for one in given]
    with pytest.raises(InvalidInput, match="given several values, but all trials of a sweep"):
        scan_inputs(images, tmp_path, configs)


def test_files_outside_all_classes_are_told_by_plan_doctor_and_data(mine: Path, edit: Any, command: Any) -> None:
    shutil.copytree(mine / "bolt/train/good", mine / "old shots")
    shutil.copy(mine / "bolt/test/good/000.png", mine / "stray.png")
    edit(data="mine", **ONE)
    said = "13 files passed over: 13 outside the classes (old shots/)"
    plan = command("plan", "sweep.yaml").out
    assert sum(line.endswith(f"/mine: {said}") or line.endswith(f" mine: {said}") for line in plan.splitlines()) == 1
    told = json.loads(command("plan", "sweep.yaml", "--json").out)
    outside = [{"count": 13, "reason": "outside the classes", "where": ["old shots/"]}]
    assert (told["passed_over"], told["passed_over_outside"]) == ({"bolt": [], "cloth": []}, outside)
    assert f"mine: {said}" in command("doctor", "--data", "mine", "--base", "base.yaml").out
    look = json.loads(command("data", "mine", "--no-near", "--json").out)
    assert (look["passed_over_outside"], look["findings"]) == (outside, [f"mine: {said}"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("layout=visa", "data.layout: given visa, but no folder of images: trials would learn the embedded images"),
        ("layout=mvtec_ad", "data.layout: given mvtec_ad, but no folder of images"),
        ("normal_names=[good, ok]", "data.normal_names: given [good, ok], but no folder of images"),
    ],
)
def test_settings_of_a_folder_without_a_folder(edit: Any, command: Any, given: str, said: str) -> None:
    """The embedded images would take the place of those that the line is about."""
    edit(data=None, **ONE)
    ended = command("plan", "sweep.yaml", "--set", given)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: {said}")
    assert ended.err.endswith("; give the folder with --data or MOLEFLOW_DATA, or leave the setting out\n")
