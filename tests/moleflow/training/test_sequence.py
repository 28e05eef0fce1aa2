"""Whole sequences on small images: rows, resuming, sharing, and the same digits everywhere.

Run as a program, this file is another worker: see `in_another_process`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from torch.overrides import TorchFunctionMode

from moleflow.cache.stage_state import Epoch
from moleflow.cache.stages import CHECKPOINT_EVERY_S, StageStore
from moleflow.data.mvtec import scan
from moleflow.environment import open_environment
from moleflow.errors import Damaged, Diverged
from moleflow.features.feature_cache import FeatureCache
from moleflow.metrics.continual import continual
from moleflow.settings.config import TrialConfig
from moleflow.settings.knobs import Layer, resolve, version_layer
from moleflow.training.evaluation import METRIC_NAMES
from moleflow.training.sequence import SequenceContext, SequenceResult, TaskReport, run_sequence

# bolt and nut have masks, one of nut's too small to survive; seal has none; rivet looks just like bolt.
CLASSES = {"bolt": (180, 60, 40), "nut": (40, 150, 60), "seal": (50, 70, 190), "rivet": (180, 60, 40)}
SMALL: dict[str, Any] = {
    "data": {"tasks": ["bolt", "nut", "seal"], "image_size": 64, "mask_size": 32},
    "backbone": {
        "model": "efficientnet_lite0",
        "weights": "random",
        "layers": [1, 2],
        "aggregate": "concat",
        "grid": 4,
    },
    "features": {"standardise": "per_task"},
    "flow.blocks": 2,
    "lora.rank": 2,
    "training": {"epochs": 2, "batch_size": 4, "optimizer": "adamw", "learning_rate": 1e-3},
}


def config(version: str = "v3", **knobs: Any) -> TrialConfig:
    return resolve([version_layer(version, "test"), Layer("small", SMALL), Layer("test", knobs)])


def draw(root: Path) -> None:
    """12 + 4 normal and 4 defective images of 32 to 48 pixels a class."""
    numbers = np.random.default_rng(0)
    for position, (name, colour) in enumerate(CLASSES.items()):
        size = 48 if name == "nut" else 32 + 4 * position
        for part, kind, count in (("train", "good", 12), ("test", "good", 4), ("test", "dent", 4)):
            (root / name / part / kind).mkdir(parents=True)
            for n in range(count):
                pixels = numbers.normal(colour, 25, (size, size, 3))
                mask = np.zeros((size, size), dtype=np.uint8)
                if kind == "dent":
                    top, left = numbers.integers(2, size - 12, 2)
                    if name == "nut" and n == 0:
                        mask[1, 1] = 255  # between the pixels that resizing 48 to 32 keeps
                    else:
                        mask[top : top + 9, left : left + 9] = 255
                    pixels[mask > 0] += 50
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name / part / kind / f"{n}.png")
                if kind == "dent" and name != "seal":
                    (root / name / "ground_truth" / "dent").mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask).save(root / name / "ground_truth" / "dent" / f"{n}_mask.png")


@dataclass
class Run:
    """An observer that keeps what it is told, and the outcome."""

    stop_after: int | None = None
    epochs: list[tuple[int, int]] = field(default_factory=list)
    reports: list[TaskReport] = field(default_factory=list)
    outcome: SequenceResult = field(init=False)

    def on_features(self, done: int, total: int) -> None:
        assert 0 <= done <= total

    def on_epoch(self, task: int, epoch: Epoch) -> None:
        self.epochs.append((task, epoch.epoch))

    def on_task(self, report: TaskReport) -> bool:
        self.reports.append(report)
        return report.task != self.stop_after

    @property
    def reused(self) -> list[bool]:
        return [all(curve["reused"] for curve in report.curves) for report in self.reports]

    def rows(self, split: str = "test") -> list[dict[str, Any]]:
        """All R[i, j] rows of a split, without what they cost."""
        rows = [row for report in self.reports for row in report.metrics if row["split"] == split]
        return [{name: value for name, value in row.items() if not name.startswith("seconds")} for row in rows]

    def r(self, metric: str, split: str = "test") -> list[list[Any]]:
        """The lower triangle R[i][j] of a metric."""
        rows = self.rows(split)
        return [[row[metric] for row in rows if row["after_task"] == i] for i in range(len(self.reports))]

    def digits(self) -> object:
        """Everything that has to be equal to the last bit between two runs of one trial."""
        return self.rows(), self.rows("validation"), self.outcome, self.epoch_figures()

    def epoch_figures(self) -> list[dict[str, Any]]:
        dropped = {"seconds", "reused"}
        return [
            {k: v for k, v in curve.items() if k not in dropped} for report in self.reports for curve in report.curves
        ]


def run(
    settings: TrialConfig,
    root: Path,
    features: Path,
    stages: Path,
    observer: Run | None = None,
    every: float = CHECKPOINT_EVERY_S,
) -> Run:
    """One trial from the images under `root`."""
    place = SequenceContext(
        tasks=scan(root, settings.data.tasks),
        features=FeatureCache(features),
        stages=StageStore(stages, every),
        environment=open_environment("cpu"),
        synthetic=features.parent / "synthetic",
    )
    told = observer or Run()
    told.outcome = run_sequence(settings, place, told)
    return told


Start = Callable[..., Run]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the images, and with the features of all runs."""
    folder = tmp_path_factory.mktemp("ground")
    draw(folder / "images")
    return folder


@pytest.fixture(scope="module")
def start(ground: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Run a trial, in a store of stages of its own unless one is given."""

    def begin(settings: TrialConfig, stages: Path | None = None, observer: Run | None = None, **more: Any) -> Run:
        stages = stages or tmp_path_factory.mktemp("stages")
        return run(settings, ground / "images", ground / "features", stages, observer, **more)

    return begin


@pytest.fixture(scope="module")
def whole(start: Start) -> Run:
    """An uninterrupted run of v3."""
    return start(config())


def by_task(rows: Sequence[dict[str, Any]], task: int, value: str) -> list[Any]:
    return [row[value] for row in rows if row["task"] == task]


# ---- rows ----------------------------------------------------------------------------------------------------------


def test_after_each_task_there_is_a_row_for_every_task_seen(whole: Run) -> None:
    assert [report.task for report in whole.reports] == [0, 1, 2]
    places = [(row["after_task_name"], row["task_name"]) for row in whole.rows()]
    names = ["bolt", "nut", "seal"]
    assert places == [(names[i], names[j]) for i in range(3) for j in range(i + 1)]
    assert {(row["split"], row["n_images"], row["n_anomalous"]) for row in whole.rows()} == {("test", 8, 4)}
    assert whole.rows("validation") == []
    assert not whole.outcome.stopped
    assert whole.epochs == [(task, epoch) for task in range(3) for epoch in (1, 2)]
    assert [len(report.curves) for report in whole.reports] == [2, 2, 2]


def test_metrics_equal_scikit_learn_on_the_stored_scores(whole: Run) -> None:
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


def test_with_perfect_routing_nothing_is_forgotten(whole: Run) -> None:
    assert {value for row in whole.r("routing_accuracy") for value in row} == {1.0}
    for name in (*METRIC_NAMES, "scores_digest"):
        r = whole.r(name)
        assert [r[2][0], r[1][0], r[2][1]] == [r[0][0], r[0][0], r[1][1]], name
    summary = continual(whole.r("image_auroc"))
    assert summary.fm == summary.bwt == 0.0
    assert all(row[name] == row[f"oracle_{name}"] for row in whole.rows() for name in METRIC_NAMES)


def test_where_images_go_astray_the_oracle_stands_beside(start: Start) -> None:
    found = start(config(tasks=["bolt", "rivet"]))
    assert found.r("routing_accuracy")[0] == [1.0]
    assert 0 < found.r("routing_accuracy")[1][0] < 1
    for row in found.rows()[1:]:
        routes = by_task(found.outcome.scores, row["task"], "routed_task")
        assert row["routing_accuracy"] == np.mean([route == row["task"] for route in routes])
    for entry in found.outcome.scores:
        assert (entry["score"] == entry["oracle_score"]) is (entry["routed_task"] == entry["task"])
    for name in METRIC_NAMES:
        oracle = found.r(f"oracle_{name}")
        assert oracle[1][0] == oracle[0][0] == found.r(name)[0][0]
    assert found.r("scores_digest")[1][0] != found.r("scores_digest")[0][0]


def test_masks_that_vanish_or_are_missing_are_told_and_keep_their_labels(whole: Run) -> None:
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


def test_validation_images_are_held_out_of_training_and_have_rows_of_their_own(
    start: Start, ground: Path, tmp_path: Path
) -> None:
    found = start(config(validation_fraction=0.25), tmp_path)
    rows = found.rows("validation")
    assert [(row["after_task"], row["task"]) for row in rows] == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
    assert {(row["n_images"], row["n_anomalous"], row["n_masks"]) for row in rows} == {(3, 0, 0)}
    assert all(row[name] is None for row in rows for name in METRIC_NAMES)
    held = [row for row in found.outcome.scores if row["split"] == "validation"]
    assert [row["task"] for row in held] == [0] * 3 + [1] * 3 + [2] * 3
    assert all(row["image"].startswith(f"{row['task_name']}/train/good/") and row["label"] == 0 for row in held)
    # What a task learned of its images' mean is the mean of the nine others.
    (bolt,) = scan(ground / "images", ["bolt"])
    others = [sample for sample in bolt.train if sample.name not in {row["image"] for row in held}]
    features = FeatureCache(ground / "features").get(config(), open_environment("cpu"), others)
    assert len(features) == 9
    state = {name: tensor for path in tmp_path.rglob("state.safetensors") for name, tensor in load_file(path).items()}
    torch.testing.assert_close(state["statistics.0.mean"], features.mean(dim=(0, 1, 2)))


def test_test_images_do_not_reach_training(whole: Run, ground: Path, tmp_path: Path) -> None:
    images = Path(shutil.copytree(ground / "images", tmp_path / "images"))
    for path in images.glob("*/test/*/*.png"):
        with Image.open(path) as image:
            image.rotate(180).save(path)
    found = run(config(), images, ground / "features", tmp_path / "stages")
    assert found.outcome.state_digest == whole.outcome.state_digest
    assert found.outcome.scores_digest != whole.outcome.scores_digest


HELD: dict[str, Any] = {"validation_fraction": 0.25, "validation_anomalies": "synthetic"}
REAL = HELD | {"validation_anomalies": "real", "validation_real_share": 0.5}
PIXEL = [name for name in METRIC_NAMES if not name.startswith("image")]


def test_generated_anomalies_give_validation_metrics_with_masks_and_are_told(start: Start) -> None:
    found = start(config(**HELD))
    rows = found.rows("validation")
    assert {(row["n_images"], row["n_anomalous"], row["n_masks"]) for row in rows} == {(6, 3, 3)}
    assert {
        row["task_name"] for row in rows if row["pixel_auroc"] is None
    } == set()  # seal, too, whose test has no masks
    for row in rows[-3:]:
        held = [entry for entry in found.outcome.scores if entry["split"] == "validation"]
        labels, scores = (by_task(held, row["task"], value) for value in ("label", "score"))
        assert row["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
        kinds = sorted(kind for kind in by_task(held, row["task"], "defect") if kind != "good")
        assert kinds == ["blend", "cut-paste", "cut-paste"]
    assert (
        "validation anomalies are synthetic: defects generated on held-out normal images, none is real"
        in found.outcome.flags
    )
    plain = start(config(validation_fraction=0.25))
    assert found.rows() == plain.rows()
    assert found.outcome.scores_digest == plain.outcome.scores_digest
    assert not any("synthetic" in flag for flag in plain.outcome.flags)


def test_real_anomalies_are_missing_from_the_test_and_that_is_told(start: Start) -> None:
    found = start(config(**REAL))
    assert {(row["n_images"], row["n_anomalous"]) for row in found.rows()} == {(6, 2)}
    assert {(row["n_images"], row["n_anomalous"]) for row in found.rows("validation")} == {(5, 2)}
    digests = {
        split: {entry["image_digest"] for entry in found.outcome.scores if entry["split"] == split}
        for split in ("test", "validation")
    }
    assert digests["test"].isdisjoint(digests["validation"])
    for name in ("bolt", "nut", "seal"):
        assert (
            f"{name}: 2 of 4 defective test images serve validation and are excluded from the test"
            in found.outcome.flags
        )
    for row in found.rows("validation"):
        assert all((row[name] is None) == (row["task_name"] == "seal") for name in PIXEL)
    finalist = start(config(**REAL, evaluate="test"))
    assert finalist.rows() == found.rows()
    assert any("excluded from the test" in flag for flag in finalist.outcome.flags)


def spoil_tests(images: Path) -> None:
    """Make every test image and mask unreadable."""
    for part in ("test", "ground_truth"):
        for path in images.glob(f"*/{part}/*/*.png"):
            path.write_bytes(b"garbage")


def test_a_search_trial_opens_no_test_image_and_a_finalist_trains_nothing(ground: Path, tmp_path: Path) -> None:
    images = Path(shutil.copytree(ground / "images", tmp_path / "images"))
    search, finalist = (config(**HELD, evaluate=which) for which in ("validation", "all"))
    place = SequenceContext(
        tasks=scan(images, search.data.tasks),
        features=FeatureCache(tmp_path / "features"),
        stages=StageStore(tmp_path / "stages"),
        environment=open_environment("cpu"),
        synthetic=tmp_path / "synthetic",
    )
    spoil_tests(images)
    searched = Run()
    searched.outcome = run_sequence(search, place, searched)
    assert place.features.forwards == 3 * (9 + 3 + 3)
    assert searched.rows() == []
    assert {entry["split"] for entry in searched.outcome.scores} == {"validation"}
    assert all(row["image_auroc"] is not None for row in searched.rows("validation"))
    assert not any("vanish" in flag or "masks" in flag for flag in searched.outcome.flags)
    with pytest.raises(Damaged):  # The spoiling counts: this one does look at them.
        run_sequence(finalist, place, Run())

    shutil.rmtree(images)
    shutil.copytree(ground / "images", images)
    found = Run()
    found.outcome = run_sequence(finalist, place, found)
    assert found.epochs == []
    assert found.reused == [True, True, True]
    assert found.outcome.state_digest == searched.outcome.state_digest
    assert found.rows("validation") == searched.rows("validation")
    assert len(found.rows()) == len(searched.rows("validation")) == 6
    assert found.outcome.scores_digest != searched.outcome.scores_digest
    once = Run()
    once.outcome = run_sequence(config(**HELD, evaluate="test"), place, once)
    assert (once.rows(), once.rows("validation"), once.epochs) == (found.rows(), [], [])
    assert once.outcome.scores_digest == found.outcome.scores_digest


def test_the_three_knobs_reach_no_stage_and_no_feature(start: Start, tmp_path: Path) -> None:
    first = start(config(**HELD, evaluate="validation"), tmp_path)
    for knobs in (
        {"validation_anomalies": "none"},
        {"validation_anomalies": "real", "validation_real_share": 0.5, "evaluate": "validation"},
    ):
        other = start(config(**HELD | knobs), tmp_path)
        assert other.reused == [True, True, True]
        assert other.outcome.state_digest == first.outcome.state_digest


def test_parameters_are_counted_by_task_and_the_scaling_is_the_effective_one(whole: Run) -> None:
    base, *later = whole.outcome.parameters_per_task
    assert base > later[0] == later[1] > 0
    assert whole.outcome.lora_scaling == 0.5
    assert all(
        curve["task_name"] == name
        for report, name in zip(whole.reports, CLASSES, strict=False)
        for curve in report.curves
    )


# ---- resuming ------------------------------------------------------------------------------------------------------


def test_a_stopped_sequence_resumes_to_the_digits_of_an_uninterrupted_one(
    start: Start, whole: Run, tmp_path: Path
) -> None:
    stopped = start(config(), tmp_path, Run(stop_after=0))
    assert stopped.outcome.stopped
    assert {row["task"] for row in stopped.outcome.scores} == {0}
    assert stopped.rows() == whole.rows()[:1]
    resumed = start(config(), tmp_path)
    assert resumed.reused == [True, False, False]
    assert resumed.epochs == [(task, epoch) for task in (1, 2) for epoch in (1, 2)]
    assert resumed.digits() == whole.digits()
    again = start(config(), tmp_path)
    assert again.reused == [True, True, True]
    assert again.epochs == []
    assert again.digits() == whole.digits()
    cost = [report.seconds_reused for report in again.reports]
    assert all(seconds > 0 for seconds in cost)
    assert [row["seconds_reused"] for report in again.reports for row in report.metrics] == [
        cost[0],
        *[cost[1]] * 2,
        *[cost[2]] * 3,
    ]
    assert [report.seconds_reused for report in whole.reports] == [0.0, 0.0, 0.0]


def test_earlier_stages_are_bit_identical_after_later_tasks(start: Start, tmp_path: Path) -> None:
    @dataclass
    class Watcher(Run):
        after: list[dict[str, bytes]] = field(default_factory=list)

        def on_task(self, report: TaskReport) -> bool:
            files = [path for path in tmp_path.rglob("*") if path.is_file()]
            self.after.append({str(path): path.read_bytes() for path in files})
            return Run.on_task(self, report)

    watcher = Watcher()
    start(config(), tmp_path, watcher)
    assert [len(files) for files in watcher.after] == [5, 10, 15]  # a stage of three files and a pack of maps of two
    for earlier, later in ((0, 1), (1, 2), (0, 2)):
        assert watcher.after[earlier].items() <= watcher.after[later].items()
    names = [set(load_file(path)) for path in tmp_path.rglob("state.safetensors")]
    assert sum(map(len, names)) == len(set.union(*names))  # no parameter belongs to two tasks


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[:-100],
    "flipped": lambda content: content[:-5] + bytes([content[-5] ^ 4]) + content[-4:],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_stage_is_trained_again_to_the_same_digits(
    start: Start, whole: Run, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    start(config(), tmp_path)
    (path,) = [
        path.parent / "state.safetensors"
        for path in tmp_path.rglob("stage.json")
        if '"task": "nut"' in path.read_text()
    ]
    sound = path.read_bytes()
    path.write_bytes(damage(sound))
    again = start(config(), tmp_path)
    assert again.reused == [True, False, True]
    assert again.digits() == whole.digits()
    assert path.read_bytes() == sound


class Stopped(BaseException):
    """What a signal's handler raises."""


class Signal(TorchFunctionMode):
    """Raises `Stopped` at call number `at` of a torch function, as a signal may come between any two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.at = 0, -1

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        if self.calls == self.at:
            raise Stopped
        return func(*args, **(kwargs or {}))


@dataclass
class Stopping(Run):
    """Asks for `signal` in the middle of the third epoch of `task`."""

    signal: Signal = field(default_factory=Signal)
    task: int = 0
    before: int = 0

    def on_epoch(self, task: int, epoch: Epoch) -> None:
        if (task, epoch.epoch) == (self.task, 2):
            self.signal.at = self.signal.calls + (self.signal.calls - self.before) // 2
        self.before = self.signal.calls
        Run.on_epoch(self, task, epoch)


def left_of(stages: Path) -> set[str]:
    """The names of everything in a store but its whole stages and the packs of maps beside them."""
    files = {path for path in stages.rglob("*") if path.is_file()}
    places = {path.parent for path in files if path.name == "stage.json"}
    whole = {place / name for place in places for name in STAGE}
    maps = {path.with_suffix(suffix) for path in files if path.parent in places for suffix in (".npy", ".json")}
    return {path.name for path in files - whole - maps}


STAGE = ("stage.json", "state.safetensors", "optimizer.safetensors")
CUT_OFF = [
    ("v3", "adamp", 0),
    ("v3", "adamw", 2),
    ("v4", "adamp", 1),
    ("v4", "adamw", 0),
    ("v6", "adamp", 0),
    ("v6", "adamw", 1),
]


@pytest.mark.parametrize(("version", "optimizer", "task"), CUT_OFF)
def test_a_sequence_stopped_in_the_middle_of_an_epoch_goes_on_there_to_the_same_digits(
    start: Start, tmp_path: Path, version: str, optimizer: str, task: int
) -> None:
    settings = config(version, epochs=4, optimizer=optimizer)
    undisturbed = start(settings)
    stopped = Stopping(task=task)
    with torch.enable_grad(), pytest.raises(Stopped), stopped.signal:  # It may come while a `no_grad` ends.
        start(settings, tmp_path / "sound", stopped)
    assert stopped.epochs[-1] == (task, 2)
    (path,) = (tmp_path / "sound").rglob("*.checkpoint.safetensors")
    assert left_of(tmp_path / "sound") == {path.name}
    later = [(number, epoch) for number in range(task + 1, 3) for epoch in (1, 2, 3, 4)]
    for name, damage in DAMAGE.items():
        copy = Path(shutil.copytree(tmp_path / "sound", tmp_path / name))
        (copy / path.relative_to(tmp_path / "sound")).write_bytes(damage(path.read_bytes()))
        anew = start(settings, copy)
        assert anew.epochs == [(task, epoch) for epoch in (1, 2, 3, 4)] + later
        assert anew.digits() == undisturbed.digits()
        assert left_of(copy) == set()
    resumed = start(settings, tmp_path / "sound")
    assert resumed.epochs == [(task, 3), (task, 4), *later]
    assert resumed.reused == [True] * task + [False] * (3 - task)
    assert resumed.digits() == undisturbed.digits()
    assert left_of(tmp_path / "sound") == set()
    # What the first attempt had spent on the first two epochs is not forgotten.
    seconds = [curve["seconds"] for curve in resumed.reports[task].curves]
    assert resumed.reports[task].seconds_reused == sum(seconds[:2])
    again = start(settings, tmp_path / "sound")
    assert again.reports[task].seconds_reused >= sum(seconds)


def test_a_sequence_that_diverges_leaves_no_checkpoint(start: Start, tmp_path: Path) -> None:
    with pytest.raises(Diverged):
        start(config(learning_rate=1e30, gradient_clip=None, epochs=3), tmp_path, every=0.0)
    assert left_of(tmp_path) == set()


# ---- more epochs ---------------------------------------------------------------------------------------------------


def epochs_of(tasks: Sequence[int], first: int = 1, last: int = 4) -> list[tuple[int, int]]:
    return [(task, epoch) for task in tasks for epoch in range(first, last + 1)]


@pytest.mark.parametrize(("version", "optimizer"), [("v3", "adamp"), ("v4", "adamw"), ("v6", "adamp")])
def test_more_epochs_go_on_from_a_stored_first_task_of_fewer_to_the_same_digits(
    start: Start, tmp_path: Path, version: str, optimizer: str
) -> None:
    two, four = (config(version, epochs=epochs, optimizer=optimizer, schedule="constant") for epochs in (2, 4))
    anew = start(four, tmp_path / "anew")
    assert anew.epochs == epochs_of([0, 1, 2])
    short = start(two, tmp_path / "longer")
    extended = start(four, tmp_path / "longer")
    assert extended.epochs == epochs_of([0], first=3) + epochs_of([1, 2])
    assert extended.reused == [False, False, False]
    assert extended.digits() == anew.digits()
    for name in ("state", "optimizer"):
        stored = {path.relative_to(tmp_path / "anew") for path in (tmp_path / "anew").rglob(f"{name}.safetensors")}
        assert len(stored) == 3
        for path in stored:
            assert (tmp_path / "longer" / path).read_bytes() == (tmp_path / "anew" / path).read_bytes()
    # What the first two epochs had cost is told as reused, there and in what was stored.
    seconds = [curve["seconds"] for curve in extended.reports[0].curves]
    assert seconds[:2] == [curve["seconds"] for curve in short.reports[0].curves]
    assert [report.seconds_reused for report in extended.reports] == [sum(seconds[:2]), 0.0, 0.0]
    assert start(four, tmp_path / "longer").reports[0].seconds_reused >= sum(seconds)
    # The shorter trial is as it was.
    again = start(two, tmp_path / "longer")
    assert again.epochs == []
    assert again.digits() == short.digits()


def test_more_epochs_wait_for_the_worker_that_trains_fewer(start: Start, tmp_path: Path) -> None:
    two, four = (config(tasks=["bolt"], epochs=epochs, schedule="constant") for epochs in (2, 4))
    begun, told = threading.Event(), Run()

    class Slow(Run):
        def on_epoch(self, task: int, epoch: Epoch) -> None:
            Run.on_epoch(self, task, epoch)
            begun.set()
            time.sleep(0.3)

    other = threading.Thread(target=start, args=(two, tmp_path, Slow()))
    other.start()
    assert begun.wait(60)
    start(four, tmp_path, told)
    other.join()
    assert told.epochs == [(0, 3), (0, 4)]
    # Waiting is no compute.
    assert told.reports[0].seconds_reused > 0
    assert told.digits() == start(four).digits()


def test_under_a_cosine_more_epochs_train_anew(start: Start, tmp_path: Path) -> None:
    two, four = (config(tasks=["bolt"], epochs=epochs, schedule="cosine") for epochs in (2, 4))
    start(two, tmp_path)
    start(config(tasks=["bolt"], epochs=2, schedule="constant"), tmp_path)
    anew = start(four, tmp_path)
    assert anew.epochs == epochs_of([0])
    assert anew.reports[0].seconds_reused == 0.0


@pytest.mark.parametrize("name", ["state", "optimizer"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_more_epochs_never_go_on_from_a_damaged_stage(
    start: Start, tmp_path: Path, damage: Callable[[bytes], bytes], name: str
) -> None:
    one, three, four = (config(tasks=["bolt"], epochs=epochs, schedule="constant") for epochs in (1, 3, 4))
    undisturbed = start(four)
    start(three, tmp_path)
    (path,) = tmp_path.rglob(f"{name}.safetensors")
    start(one, tmp_path)
    copy = Path(shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name} sound")))
    assert start(four, copy).epochs == [(0, 4)]
    path.write_bytes(damage(path.read_bytes()))
    found = start(four, tmp_path)
    assert found.epochs == epochs_of([0], first=2)
    assert found.digits() == undisturbed.digits()


def test_more_epochs_that_are_cut_off_go_on_where_they_were(start: Start, tmp_path: Path) -> None:
    two, five = (config(tasks=["bolt"], epochs=epochs, schedule="constant") for epochs in (2, 5))
    undisturbed = start(five)
    start(two, tmp_path)

    class Impatient(Run):
        def on_epoch(self, task: int, epoch: Epoch) -> None:
            Run.on_epoch(self, task, epoch)
            if epoch.epoch == 4:
                raise Stopped

    impatient = Impatient()
    with pytest.raises(Stopped):
        start(five, tmp_path, impatient)
    assert impatient.epochs == [(0, 3), (0, 4)]
    resumed = start(five, tmp_path)
    assert resumed.epochs == [(0, 5)]
    assert resumed.digits() == undisturbed.digits()
    assert left_of(tmp_path) == set()


# ---- sharing, and settings without effect --------------------------------------------------------------------------


def test_trials_share_the_stages_that_their_difference_does_not_reach(start: Start, tmp_path: Path) -> None:
    half, double = config("v1"), config("v1", **{"lora.scaling": "alpha/rank"})
    first = start(half, tmp_path)
    shared, alone = start(double, tmp_path), start(double)
    assert shared.reused == [True, False, False]
    assert [report.seconds_reused > 0 for report in shared.reports] == [True, False, False]
    assert shared.digits() == alone.digits()
    assert shared.outcome.state_digest != first.outcome.state_digest

    scored = config("v1", image_score="max", smoothing=0.0, shrinkage="none")
    rescored = start(scored, tmp_path)
    assert rescored.reused == [True, True, True]
    assert rescored.outcome.state_digest == first.outcome.state_digest
    assert rescored.outcome.scores_digest != first.outcome.scores_digest
    assert rescored.digits() == start(scored).digits()


def test_gamma_0_and_centre_weight_0_are_v3_to_the_last_bit(start: Start, whole: Run) -> None:
    forms = ("joint", "per_dim", "relative")
    same = [config("v7", focal_gamma=0.0, focal_form=form, focal_detach=form == "relative") for form in forms]
    for settings in [*same, config("v5", center_weight=0.0)]:
        found = start(settings)
        assert found.reused == [False, False, False]
        assert found.rows() == whole.rows()
        assert found.outcome == replace(whole.outcome, flags=found.outcome.flags)
    for settings in (config("v7", focal_form="relative"), config("v5")):
        assert start(settings).outcome.state_digest != whole.outcome.state_digest


def test_a_setting_that_changes_no_number_gives_the_same_digits_on_every_task(start: Start) -> None:
    """So that a knob without effect can be told by its digests: it is trained anew, from the same draws."""
    limitless, never_reached = (start(config(gradient_clip=limit)) for limit in (None, 1e9))
    assert never_reached.reused == [False, False, False]
    assert never_reached.digits() == limitless.digits()
    assert start(config(gradient_clip=0.1)).outcome.state_digest != limitless.outcome.state_digest


def test_another_seed_is_another_training_from_task_0_on(start: Start, whole: Run) -> None:
    other = start(config(seed=1))
    assert all(a["state_digest"] != b["state_digest"] for a, b in zip(other.rows(), whole.rows(), strict=True))


# ---- other processes -----------------------------------------------------------------------------------------------


@dataclass
class Victim(Run):
    """Dies at once, without a word, at a task boundary or in the midst of a task."""

    where: str = ""

    def on_task(self, report: TaskReport) -> bool:
        if self.where == f"task {report.task}":
            os.kill(os.getpid(), signal.SIGKILL)
        return Run.on_task(self, report)

    def on_epoch(self, task: int, epoch: Epoch) -> None:
        if self.where == f"epoch {epoch.epoch} of task {task}":
            os.kill(os.getpid(), signal.SIGKILL)
        Run.on_epoch(self, task, epoch)


def in_another_process(order: dict[str, Any]) -> None:
    """Run what `order` says: sequences one after another, each with a store of its own; a meeting is waited for before the last."""
    found = []
    for number, stages in enumerate(order["stages"]):
        if number and number + 1 == len(order["stages"]):
            Path(order["ready"]).touch()
            while not Path(order["other"]).exists():
                time.sleep(0.001)
        settings = TrialConfig.model_validate_json(order["config"])
        victim = Victim(where=order["die"])
        done = run(settings, Path(order["images"]), Path(order["features"]), Path(stages), victim, order["every"])
        found.append({"digits": repr(done.digits()), "epochs": len(done.epochs), "reused": done.reused})
    Path(order["out"]).write_text(json.dumps(found))


def begin(folder: Path, ground: Path, hash_seed: str, **order: Any) -> subprocess.Popen[bytes]:
    """Start this file as a program in a working directory of its own."""
    folder.mkdir()
    asked = {
        "images": str(ground / "images"),
        "features": str(ground / "features"),
        "die": "",
        "every": CHECKPOINT_EVERY_S,
        "out": str(folder / "out.json"),
    } | order
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    return subprocess.Popen([sys.executable, __file__, json.dumps(asked)], cwd=folder, env=environment)


@pytest.mark.parametrize("where", ["task 0", "epoch 1 of task 1"])
def test_a_killed_sequence_resumes_to_the_digits_of_an_uninterrupted_one(
    start: Start, whole: Run, ground: Path, tmp_path: Path, where: str
) -> None:
    stages = tmp_path / "stages"
    killed = begin(tmp_path / "there", ground, "5", config=config().model_dump_json(), stages=[str(stages)], die=where)
    assert killed.wait() == -signal.SIGKILL
    claims = list((stages / "claims").iterdir())
    assert len(claims) == (1 if where.startswith("epoch") else 0)  # of a dead process: taken over
    resumed = start(config(), stages)
    assert resumed.reused == [True, False, False]
    assert resumed.digits() == whole.digits()


@pytest.mark.parametrize(
    ("where", "missing"),
    [("epoch 1 of task 1", [(1, 2), (2, 1), (2, 2)]), ("epoch 2 of task 0", [(1, 1), (1, 2), (2, 1), (2, 2)])],
)
def test_a_killed_sequence_that_had_written_a_checkpoint_trains_only_the_missing_epochs(
    start: Start, whole: Run, ground: Path, tmp_path: Path, where: str, missing: list[tuple[int, int]]
) -> None:
    stages, asked = tmp_path / "stages", config().model_dump_json()
    killed = begin(tmp_path / "there", ground, "5", config=asked, stages=[str(stages)], die=where, every=0.0)
    assert killed.wait() == -signal.SIGKILL
    (path,) = stages.rglob("*.checkpoint.safetensors")
    path.with_name(f".{path.name}.half").write_bytes(path.read_bytes()[:1000])  # as if it had died in the next writing
    resumed = start(config(), stages)
    assert resumed.epochs == missing
    assert resumed.digits() == whole.digits()
    assert left_of(stages) == set()


def test_two_processes_find_the_same_digits_and_train_a_shared_stage_once(
    start: Start, ground: Path, tmp_path: Path
) -> None:
    """Other hash seeds, other working directories; first each on its own, then at the same time on one store."""
    settings = config(epochs=8)
    expected = start(settings)
    meeting = [str(tmp_path / name) for name in ("first is ready", "second is ready")]
    processes = [
        begin(
            tmp_path / name,
            ground,
            hash_seed,
            config=settings.model_dump_json(),
            stages=[str(tmp_path / f"stages of {name}"), str(tmp_path / "stages of both")],
            ready=ready,
            other=other,
        )
        for name, hash_seed, ready, other in (("a", "1", *meeting), ("b", "2", *meeting[::-1]))
    ]
    assert [process.wait() for process in processes] == [0, 0]
    (alone_a, shared_a), (alone_b, shared_b) = [
        json.loads((tmp_path / name / "out.json").read_text()) for name in ("a", "b")
    ]
    assert alone_a["digits"] == alone_b["digits"] == shared_a["digits"] == shared_b["digits"] == repr(expected.digits())
    assert alone_a["epochs"] == alone_b["epochs"] == 3 * 8
    assert shared_a["epochs"] + shared_b["epochs"] == 3 * 8
    assert all(a != b for a, b in zip(shared_a["reused"], shared_b["reused"], strict=True))


if __name__ == "__main__":
    in_another_process(json.loads(sys.argv[1]))
