"""Validation images: held out, generated or taken from the test, and never trained on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from moleflow.cache.stages import StageStore
from moleflow.data.scan import scan
from moleflow.environment import open_environment
from moleflow.errors import Damaged
from moleflow.features.feature_cache import FeatureCache
from moleflow.settings.config import TrialConfig
from moleflow.training.evaluation import METRIC_NAMES
from moleflow.training.sequence import SequenceContext, run_sequence

Config = Callable[..., TrialConfig]
Start = Callable[..., Any]


HELD: dict[str, Any] = {"validation_fraction": 0.25, "validation_anomalies": "synthetic"}
REAL = HELD | {"validation_anomalies": "real", "validation_real_share": 0.5}
PIXEL = [name for name in METRIC_NAMES if not name.startswith("image")]


def by_task(rows: Sequence[dict[str, Any]], task: int, value: str) -> list[Any]:
    return [row[value] for row in rows if row["task"] == task]


def test_validation_images_are_held_out_of_training_and_have_rows_of_their_own(
    start: Start, ground: Path, tmp_path: Path, config: Config
) -> None:
    trial = start(config(validation_fraction=0.25), tmp_path)
    rows = trial.rows("validation")
    assert [(row["after_task"], row["task"]) for row in rows] == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
    assert {(row["n_images"], row["n_anomalous"], row["n_masks"]) for row in rows} == {(3, 0, 0)}
    assert all(row[name] is None for row in rows for name in METRIC_NAMES)
    held = [row for row in trial.outcome.scores if row["split"] == "validation"]
    assert [row["task"] for row in held] == [0] * 3 + [1] * 3 + [2] * 3
    assert all(row["image"].startswith(f"{row['task_name']}/train/good/") and row["label"] == 0 for row in held)
    # The statistics of a task are those of the nine other images.
    (bolt,) = scan(ground / "images", ["bolt"])
    others = [sample for sample in bolt.train if sample.name not in {row["image"] for row in held}]
    features = FeatureCache(ground / "features").get(config(), open_environment("cpu"), others)
    assert len(features) == 9
    state = {name: tensor for path in tmp_path.rglob("state.safetensors") for name, tensor in load_file(path).items()}
    torch.testing.assert_close(state["statistics.0.mean"], features.mean(dim=(0, 1, 2)))


def test_generated_anomalies_give_validation_metrics_with_masks_and_are_flagged(start: Start, config: Config) -> None:
    trial = start(config(**HELD))
    rows = trial.rows("validation")
    assert {(row["n_images"], row["n_anomalous"], row["n_masks"]) for row in rows} == {(6, 3, 3)}
    assert {
        row["task_name"] for row in rows if row["pixel_auroc"] is None
    } == set()  # Also for seal, whose test has no masks.
    for row in rows[-3:]:
        held = [entry for entry in trial.outcome.scores if entry["split"] == "validation"]
        labels, scores = (by_task(held, row["task"], value) for value in ("label", "score"))
        assert row["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
        kinds = sorted(kind for kind in by_task(held, row["task"], "defect") if kind != "good")
        assert kinds == ["blend", "cut-paste", "cut-paste"]
    assert (
        "validation anomalies are synthetic: defects generated on held-out normal images, none is real"
        in trial.outcome.flags
    )
    plain = start(config(validation_fraction=0.25))
    assert trial.rows() == plain.rows()
    assert trial.outcome.scores_digest == plain.outcome.scores_digest
    assert not any("synthetic" in flag for flag in plain.outcome.flags)


def test_real_anomalies_are_missing_from_the_test_and_that_is_flagged(start: Start, config: Config) -> None:
    trial = start(config(**REAL))
    assert {(row["n_images"], row["n_anomalous"]) for row in trial.rows()} == {(6, 2)}
    assert {(row["n_images"], row["n_anomalous"]) for row in trial.rows("validation")} == {(5, 2)}
    digests = {
        split: {entry["image_digest"] for entry in trial.outcome.scores if entry["split"] == split}
        for split in ("test", "validation")
    }
    assert digests["test"].isdisjoint(digests["validation"])
    for name in ("bolt", "nut", "seal"):
        assert (
            f"{name}: 2 of 4 defective test images serve validation and are excluded from the test"
            in trial.outcome.flags
        )
    for row in trial.rows("validation"):
        assert all((row[name] is None) == (row["task_name"] == "seal") for name in PIXEL)
    finalist = start(config(**REAL, evaluate="test"))
    assert finalist.rows() == trial.rows()
    assert any("excluded from the test" in flag for flag in finalist.outcome.flags)


def spoil_tests(images: Path) -> None:
    """Make every test image and mask unreadable."""
    for part in ("test", "ground_truth"):
        for path in images.glob(f"*/{part}/*/*.png"):
            path.write_bytes(b"garbage")


def test_a_search_trial_opens_no_test_image_and_a_finalist_trains_nothing(
    ground: Path, tmp_path: Path, config: Config, recorder: Any
) -> None:
    images = Path(shutil.copytree(ground / "images", tmp_path / "images"))
    search, finalist = (config(**HELD, evaluate=which) for which in ("validation", "all"))
    context = SequenceContext(
        classes=scan(images, search.data.classes),
        features=FeatureCache(tmp_path / "features"),
        stages=StageStore(tmp_path / "stages"),
        environment=open_environment("cpu"),
        synthetic=tmp_path / "synthetic",
    )
    spoil_tests(images)
    searched = recorder()
    searched.outcome = run_sequence(search, context, searched)
    assert context.features.forwards == 3 * (9 + 3 + 3)
    assert searched.rows() == []
    assert {entry["split"] for entry in searched.outcome.scores} == {"validation"}
    assert all(row["image_auroc"] is not None for row in searched.rows("validation"))
    assert not any("vanish" in flag or "masks" in flag for flag in searched.outcome.flags)
    with pytest.raises(Damaged):  # A finalist does open them.
        run_sequence(finalist, context, recorder())

    shutil.rmtree(images)
    shutil.copytree(ground / "images", images)
    trial = recorder()
    trial.outcome = run_sequence(finalist, context, trial)
    assert trial.epochs == []
    assert trial.reused == [True, True, True]
    assert trial.outcome.state_digest == searched.outcome.state_digest
    assert trial.rows("validation") == searched.rows("validation")
    assert len(trial.rows()) == len(searched.rows("validation")) == 6
    assert trial.outcome.scores_digest != searched.outcome.scores_digest
    once = recorder()
    once.outcome = run_sequence(config(**HELD, evaluate="test"), context, once)
    assert (once.rows(), once.rows("validation"), once.epochs) == (trial.rows(), [], [])
    assert once.outcome.scores_digest == trial.outcome.scores_digest


def test_the_validation_knobs_reach_no_stage_and_no_feature(start: Start, tmp_path: Path, config: Config) -> None:
    first = start(config(**HELD, evaluate="validation"), tmp_path)
    for knobs in (
        {"validation_anomalies": "none"},
        {"validation_anomalies": "real", "validation_real_share": 0.5, "evaluate": "validation"},
    ):
        other = start(config(**HELD | knobs), tmp_path)
        assert other.reused == [True, True, True]
        assert other.outcome.state_digest == first.outcome.state_digest
