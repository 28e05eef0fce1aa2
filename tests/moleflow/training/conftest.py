"""Whole sequences on small drawn images, in this process or in others.

Run as a program, this file is another worker: see `in_another_process`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.overrides import TorchFunctionMode

from moleflow.cache.stage_state import Epoch
from moleflow.cache.stages import CHECKPOINT_EVERY_S, StageStore
from moleflow.data.scan import scan
from moleflow.environment import open_environment
from moleflow.features.feature_cache import FeatureCache
from moleflow.settings.config import TrialConfig
from moleflow.settings.knobs import Layer, resolve, version_layer
from moleflow.training.sequence import Doing, SequenceContext, SequenceResult, TaskReport, run_sequence

# bolt and nut have masks, one of nut's too small to survive; seal has none; rivet looks like bolt.
CLASSES = {"bolt": (180, 60, 40), "nut": (40, 150, 60), "seal": (50, 70, 190), "rivet": (180, 60, 40)}
SMALL: dict[str, Any] = {
    "data": {"tasks": ["bolt", "nut", "seal"], "image_size": 64, "mask_size": 32},
    "features": {"standardise": "per_task"},
    "flow.blocks": 2,
    "lora.rank": 2,
    "training": {"epochs": 2, "batch_size": 4, "optimizer": "adamw", "learning_rate": 1e-3},
}


def draw_classes(root: Path) -> None:
    """12 + 4 normal and 4 defective images of 32 to 48 pixels a class."""
    random = np.random.default_rng(0)
    for position, (name, colour) in enumerate(CLASSES.items()):
        size = 48 if name == "nut" else 32 + 4 * position
        for part, kind, count in (("train", "good", 12), ("test", "good", 4), ("test", "dent", 4)):
            (root / name / part / kind).mkdir(parents=True)
            for n in range(count):
                pixels = random.normal(colour, 25, (size, size, 3))
                mask = np.zeros((size, size), dtype=np.uint8)
                if kind == "dent":
                    top, left = random.integers(2, size - 12, 2)
                    if name == "nut" and n == 0:
                        mask[1, 1] = 255  # Between the pixels that resizing 48 to 32 keeps.
                    else:
                        mask[top : top + 9, left : left + 9] = 255
                    pixels[mask > 0] += 50
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name / part / kind / f"{n}.png")
                if kind == "dent" and name != "seal":
                    (root / name / "ground_truth" / "dent").mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask).save(root / name / "ground_truth" / "dent" / f"{n}_mask.png")


@dataclass
class Run:
    """An observer that records a sequence's events and its result."""

    stop_after: int | None = None
    epochs: list[tuple[int, int]] = field(default_factory=list)
    reports: list[TaskReport] = field(default_factory=list)
    steps: Counter[Doing] = field(default_factory=Counter)
    outcome: SequenceResult = field(init=False)

    def on_features(self, done: int, total: int) -> None:
        assert 0 <= done <= total

    def on_epoch(self, task: int, epoch: Epoch) -> None:
        self.epochs.append((task, epoch.epoch))

    def on_step(self, doing: Doing) -> None:
        self.steps[doing] += 1

    def on_task(self, report: TaskReport) -> bool:
        self.reports.append(report)
        return report.task != self.stop_after

    @property
    def reused(self) -> list[bool]:
        return [all(curve["reused"] for curve in report.curves) for report in self.reports]

    def rows(self, split: str = "test") -> list[dict[str, Any]]:
        """Return all rows R[i, j] of a split, without their seconds."""
        rows = [row for report in self.reports for row in report.metrics if row["split"] == split]
        return [{name: value for name, value in row.items() if not name.startswith("seconds")} for row in rows]

    def r(self, metric: str, split: str = "test") -> list[list[Any]]:
        """Return the lower triangle R[i][j] of a metric."""
        rows = self.rows(split)
        return [[row[metric] for row in rows if row["after_task"] == i] for i in range(len(self.reports))]

    def digits(self) -> object:
        """Return everything that is equal to the last bit between two runs of one trial."""
        return self.rows(), self.rows("validation"), self.outcome, self.epoch_figures()

    def epoch_figures(self) -> list[dict[str, Any]]:
        dropped = {"seconds", "reused"}
        return [
            {k: v for k, v in curve.items() if k not in dropped} for report in self.reports for curve in report.curves
        ]


def run_trial(
    settings: TrialConfig,
    root: Path,
    features: Path,
    stages: Path,
    observer: Run | None = None,
    every: float = CHECKPOINT_EVERY_S,
) -> Run:
    """Run one trial on the images under `root`."""
    context = SequenceContext(
        classes=scan(root, settings.data.classes),
        features=FeatureCache(features),
        stages=StageStore(stages, every),
        environment=open_environment("cpu"),
        synthetic=features.parent / "synthetic",
    )
    observer = observer or Run()
    observer.outcome = run_sequence(settings, context, observer)
    return observer


@pytest.fixture(scope="session")
def config(small_backbone: dict[str, Any]) -> Callable[..., TrialConfig]:
    """The function that makes a small configuration from a version and knobs."""
    small = Layer("small", SMALL | {"backbone": small_backbone})
    return lambda version="v3", **knobs: resolve([version_layer(version, "test"), small, Layer("test", knobs)])


@pytest.fixture(scope="session")
def run() -> Callable[..., Run]:
    """The function that runs a trial on given images, features and stages."""
    return run_trial


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the images, and with the features of all runs."""
    folder = tmp_path_factory.mktemp("ground")
    draw_classes(folder / "images")
    return folder


@pytest.fixture(scope="session")
def start(ground: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """The function that runs a trial, in a stage store of its own unless one is given."""

    def begin(settings: TrialConfig, stages: Path | None = None, observer: Run | None = None, **more: Any) -> Run:
        stages = stages or tmp_path_factory.mktemp("stages")
        return run_trial(settings, ground / "images", ground / "features", stages, observer, **more)

    return begin


@pytest.fixture(scope="session")
def whole(start: Callable[..., Run], config: Callable[..., TrialConfig]) -> Run:
    """An uninterrupted run of v3."""
    return start(config())


@pytest.fixture(scope="session")
def recorder() -> type[Run]:
    """The class of observers, to make one or to derive from."""
    return Run


@pytest.fixture(scope="session")
def leftovers() -> Callable[[Path], set[str]]:
    """The function that names a store's files other than whole stages and their patch scores."""

    def names(stages: Path) -> set[str]:
        files = {path for path in stages.rglob("*") if path.is_file()}
        folders = {path.parent for path in files if path.name == "stage.json"}
        whole = {folder / name for folder in folders for name in ("stage.json", "state.safetensors")}
        maps = {path.with_suffix(suffix) for path in files if path.parent in folders for suffix in (".npy", ".json")}
        return {path.name for path in files - whole - maps}

    return names


class Interruption(TorchFunctionMode):
    """Raises `Interrupted` at call number `at` of a torch function, as a signal's handler may."""

    class Interrupted(BaseException):
        """The exception of the handler."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__()
        self.calls, self.at = 0, at

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        if self.calls == self.at:
            raise self.Interrupted
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="session")
def interruption() -> type[Interruption]:
    """The class of contexts that interrupt torch at a given call."""
    return Interruption


@dataclass
class Victim(Run):
    """Kills its process at a task boundary or at the end of an epoch."""

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
    """Run the sequences of `order` in turn, each with its own store; the last start together."""
    outcomes = []
    for number, stages in enumerate(order["stages"]):
        if number and number + 1 == len(order["stages"]):
            Path(order["ready"]).touch()
            while not Path(order["other"]).exists():
                time.sleep(0.001)
        settings = TrialConfig.model_validate_json(order["config"])
        victim = Victim(where=order["die"])
        done = run_trial(settings, Path(order["images"]), Path(order["features"]), Path(stages), victim, order["every"])
        outcomes.append({"digits": repr(done.digits()), "epochs": len(done.epochs), "reused": done.reused})
    Path(order["out"]).write_text(json.dumps(outcomes))


@pytest.fixture(scope="session")
def begin() -> Callable[..., subprocess.Popen[bytes]]:
    """The function that starts `in_another_process` in a folder of its own."""
    return _begin


def _begin(folder: Path, ground: Path, hash_seed: str, **order: Any) -> subprocess.Popen[bytes]:
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


if __name__ == "__main__":
    in_another_process(json.loads(sys.argv[1]))
