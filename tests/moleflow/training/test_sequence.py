"""Rows, scores and flags of whole sequences on small images."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from moleflow.environment import Environment
from moleflow.settings.config import TrialConfig
from moleflow.training.evaluation import METRIC_NAMES
from moleflow.training.products import products_note

Config = Callable[..., TrialConfig]
Start = Callable[..., Any]


def by_task(rows: Sequence[dict[str, Any]], task: int, value: str) -> list[Any]:
    return [row[value] for row in rows if row["task"] == task]


def test_after_each_task_there_is_a_row_for_every_task_seen(whole: Any) -> None:
    assert [report.task for report in whole.reports] == [0, 1, 2]
    places = [(row["after_task_name"], row["task_name"]) for row in whole.rows()]
    names = ["bolt", "nut", "seal"]
    assert places == [(names[i], names[j]) for i in range(3) for j in range(i + 1)]
    assert {(row["split"], row["n_images"], row["n_anomalous"]) for row in whole.rows()} == {("test", 8, 4)}
    assert whole.rows("validation") == []
    assert not whole.outcome.stopped
    assert whole.epochs == [(task, epoch) for task in range(3) for epoch in (1, 2)]
    assert [len(report.curves) for report in whole.reports] == [2, 2, 2]


def test_metrics_equal_scikit_learn_on_the_stored_scores(whole: Any) -> None:
    last = whole.rows()[-3:]
    assert len(whole.outcome.scores) == 24
    for row in last:
        labels = by_task(whole.outcome.scores, row["task"], "label")
        for prefix, kind in (("", "score"), ("oracle_", "oracle_score")):
            scores = by_task(whole.outcome.scores, row["task"], kind)
            precision, recall, _ = precision_recall_curve(labels, scores)
            f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
            assert row[f"{prefix}image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
            assert row[f"{prefix}image_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-9)
            assert row[f"{prefix}image_f1_max"] == pytest.approx(f1.max(), abs=1e-9)
    assert any(0 < row["image_auroc"] < 1 for row in last)


def test_with_perfect_routing_nothing_is_forgotten(whole: Any) -> None:
    assert {value for row in whole.r("routing_accuracy") for value in row} == {1.0}
    for name in (*METRIC_NAMES, "scores_digest"):
        r = whole.r(name)
        assert [r[2][0], r[1][0], r[2][1]] == [r[0][0], r[0][0], r[1][1]], name
    assert all(row[name] == row[f"oracle_{name}"] for row in whole.rows() for name in METRIC_NAMES)


def test_misrouted_images_have_other_scores_than_the_oracles(start: Start, config: Config) -> None:
    trial = start(config(tasks=["bolt", "rivet"]))
    assert trial.r("routing_accuracy")[0] == [1.0]
    assert 0 < trial.r("routing_accuracy")[1][0] < 1
    for row in trial.rows()[1:]:
        routes = by_task(trial.outcome.scores, row["task"], "routed_task")
        assert row["routing_accuracy"] == np.mean([route == row["task"] for route in routes])
    for entry in trial.outcome.scores:
        assert (entry["score"] == entry["oracle_score"]) is (entry["routed_task"] == entry["task"])
    for name in METRIC_NAMES:
        oracle = trial.r(f"oracle_{name}")
        assert oracle[1][0] == oracle[0][0] == trial.r(name)[0][0]
    assert trial.r("scores_digest")[1][0] != trial.r("scores_digest")[0][0]


def test_vanished_and_missing_masks_are_flagged_and_keep_their_labels(whole: Any) -> None:
    masks, labelled = (
        dict(zip(("bolt", "nut", "seal"), whole.r(name)[2], strict=True)) for name in ("n_masks", "n_anomalous")
    )
    assert masks == {"bolt": 4, "nut": 3, "seal": 0}
    assert labelled == {"bolt": 4, "nut": 4, "seal": 4}
    pixel = [name for name in METRIC_NAMES if not name.startswith("image")]
    for row in whole.rows():
        assert all((row[name] is None) == (row["task_name"] == "seal") for name in pixel)
        assert row["image_auroc"] is not None
    assert "nut: 1 mask(s) vanish at 32 px and keep their label: nut/test/dent/0.png" in whole.outcome.flags
    assert "seal: no masks, so no pixel metrics" in whole.outcome.flags
    assert not any(flag.startswith("bolt") for flag in whole.outcome.flags)
    assert any("random" in flag for flag in whole.outcome.flags)


def test_test_images_do_not_reach_training(
    whole: Any, ground: Path, tmp_path: Path, config: Config, run: Start
) -> None:
    images = Path(shutil.copytree(ground / "images", tmp_path / "images"))
    for path in images.glob("*/test/*/*.png"):
        with Image.open(path) as image:
            image.rotate(180).save(path)
    trial = run(config(), images, ground / "features", tmp_path / "stages")
    assert trial.outcome.state_digest == whole.outcome.state_digest
    assert trial.outcome.scores_digest != whole.outcome.scores_digest


def test_parameters_are_counted_by_task_and_the_scaling_is_the_effective_one(whole: Any) -> None:
    base, *later = whole.outcome.parameters_per_task
    assert base > later[0] == later[1] > 0
    assert whole.outcome.lora_scaling == 0.5
    assert all(
        curve["task_name"] == name
        for report, name in zip(whole.reports, ("bolt", "nut", "seal"), strict=True)
        for curve in report.curves
    )


def test_the_gallery_has_maps_of_every_class_seen(whole: Any) -> None:
    assert {(kept.split, kept.task) for kept in whole.outcome.gallery} == {("test", 0), ("test", 1), ("test", 2)}


def test_a_class_without_defects_or_with_few_images_is_flagged(
    ground: Path, tmp_path: Path, config: Config, run: Start
) -> None:
    images = Path(shutil.copytree(ground / "images", tmp_path / "images"))
    shutil.rmtree(images / "bolt" / "test" / "dent")
    shutil.rmtree(images / "bolt" / "ground_truth")
    settings = config(tasks=["bolt"], epochs=1, batch_size=64)
    trial = run(settings, images, ground / "features", tmp_path / "stages")
    assert trial.rows()[0]["image_auroc"] is None
    assert "bolt: no defective test images, so no image metrics" in trial.outcome.flags
    assert "bolt: 12 training images are fewer than batch_size 64: one batch of all" in trial.outcome.flags


def test_products_that_the_device_lacks_are_flagged(ground: Path, tmp_path: Path, config: Config, run: Start) -> None:
    settings = config(tasks=["bolt"], epochs=1, **{"training.products": "tf32"})
    trial = run(settings, ground / "images", ground / "features", tmp_path / "stages")
    lacks = f"no effect on {torch.backends.cpu.get_cpu_capability()}, which computes in float32"
    assert f"training.products tf32: {lacks}" in trial.outcome.flags


@pytest.mark.parametrize(("capability", "lacks"), [((7, 5), True), ((8, 0), False), ((9, 0), False)])
def test_a_gpu_before_ampere_lacks_tf32(capability: Any, lacks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for GPUs: only their compute capability is read."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    note = products_note("tf32", Environment("cuda", "2.0", "float32", 1, "a GPU"))
    assert note == ("training.products tf32: no effect on a GPU, which computes in float32" if lacks else None)


def test_each_batch_and_each_scored_image_is_reported(whole) -> None:
    assert whole.steps["training"] >= len(whole.epochs)
    assert whole.steps["scoring"] >= len(whole.reports)
