"""Cached patch scores: the flow computes each once, and reuse changes no digit."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

import moleflow.cache.patch_scores
from moleflow.cache.entries import stage_entries
from moleflow.cache.patch_scores import PatchScores, Terms
from moleflow.cache.stage_state import Epoch
from moleflow.cache.stages import StageStore
from moleflow.code_digest import code_digest
from moleflow.data.scan import scan
from moleflow.environment import Environment
from moleflow.features.feature_cache import FeatureCache
from moleflow.models.detector import Detector
from moleflow.settings.knobs import Layer, resolve, version_layer
from moleflow.training.sequence import Doing, SequenceContext, SequenceResult, TaskReport, run_sequence


def rows(*images: str) -> dict[str, Terms]:
    """Random rows (2, 3, 2) of images."""
    numbers = np.random.default_rng(0)
    return {image: numbers.normal(size=(2, 3, 2)).astype(np.float32) for image in images}


def assert_equal(found: dict[str, Terms], expected: dict[str, Terms]) -> None:
    assert found.keys() == expected.keys()
    assert all(np.array_equal(row, expected[image]) for image, row in found.items())


def test_what_is_written_is_read_and_nothing_else(tmp_path: Path) -> None:
    maps, written = PatchScores(tmp_path, "states"), rows("a", "b", "c")
    assert maps.read(["a"]) == {}
    maps.write({"a": written["a"], "b": written["b"]})
    maps.write({"c": written["c"]})
    assert_equal(PatchScores(tmp_path, "states").read(["c", "d", "a"]), {"a": written["a"], "c": written["c"]})
    assert PatchScores(tmp_path, "other states").read(["a", "b", "c"]) == {}
    assert maps.read([]) == {}


@pytest.mark.parametrize(("phase", "used_again"), [("scoring", False), ("training", True), ("features", True)])
def test_rows_of_other_scoring_code_are_not_read(
    phase: str, used_again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage's key, in whose folder the rows are, stands for the other phases."""
    PatchScores(tmp_path, "states").write(rows("a"))
    of_phase = {name: code_digest(name) for name in ("features", "training", "scoring")} | {phase: "edited"}
    monkeypatch.setattr(moleflow.cache.patch_scores, "code_digest", of_phase.__getitem__)
    assert (PatchScores(tmp_path, "states").read(["a"]) != {}) is used_again


def test_what_a_writer_left_that_died_is_removed_by_the_next_one(tmp_path: Path) -> None:
    left = tmp_path / ".3-0123.npy.0123.tmp"
    left.write_bytes(b"half")
    maps = PatchScores(tmp_path, "states")
    maps.write(rows("a"))
    assert not left.exists()
    assert_equal(maps.read(["a"]), rows("a"))


def test_no_flipped_byte_and_no_truncation_is_ever_read_as_a_row(tmp_path: Path) -> None:
    written = rows("a", "b")
    (tmp_path / "whole").mkdir()
    PatchScores(tmp_path / "whole", "s").write(written)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert {Path(name).suffix for name in whole} == {".npy", ".json"}
    place = tmp_path / "damaged"
    place.mkdir()
    lost = 0
    for name, content in whole.items():
        flipped = [content[:n] + bytes([content[n] ^ 1]) + content[n + 1 :] for n in range(len(content))]
        for n, damaged in enumerate([*flipped, content[:-1], content[: len(content) // 2], b""]):
            for other, good in whole.items():
                (place / other).write_bytes(damaged if other == name else good)
            found = PatchScores(place, "s").read(["a", "b"])
            assert_equal(found, {image: written[image] for image in found})
            lost += len(found) < 2
            if n % 16 == 0:  # Writing goes through to the disk and takes its time.
                PatchScores(place, "s").write(written)
                assert_equal(PatchScores(place, "s").read(["a", "b"]), written)
    assert lost > 100


def test_damage_to_one_pack_leaves_the_others(tmp_path: Path) -> None:
    written = rows("a", "b")
    maps = PatchScores(tmp_path, "s")
    maps.write({"a": written["a"]})
    first = next(tmp_path.glob("*.npy"))
    maps.write({"b": written["b"]})
    first.write_bytes(first.read_bytes()[:-1] + b"?")
    assert_equal(maps.read(["a", "b"]), {"b": written["b"]})
    assert not first.exists()


def test_a_stage_that_is_gone_takes_no_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    maps = PatchScores(tmp_path / "gone", "s")
    maps.write(rows("a"))
    assert maps.read(["a"]) == {}
    assert list(tmp_path.iterdir()) == []
    assert caplog.records == []


def test_a_full_disk_costs_the_rows_alone(
    tmp_path: Path,
    no_file_larger_than: Callable[[int], AbstractContextManager[None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    maps = PatchScores(tmp_path, "s")
    with caplog.at_level(logging.WARNING), no_file_larger_than(100):
        maps.write(rows("a"))
    assert "computed again" in caplog.text
    assert maps.read(["a"]) == {}
    assert list(tmp_path.iterdir()) == []


# ---- whole sequences -----------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "data": {"tasks": ["bolt", "nut"], "image_size": 64, "mask_size": 32},
    "flow.blocks": 2,
    "lora.rank": 2,
    "training": {"epochs": 1, "batch_size": 4, "optimizer": "adamw", "learning_rate": 1e-3},
}


@dataclass
class Told:
    """The report of a sequence, without its cost."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    outcome: SequenceResult = field(init=False)
    passes: int = 0

    def on_features(self, done: int, total: int) -> None:
        assert 0 <= done <= total

    def on_epoch(self, task: int, epoch: Epoch) -> None:
        assert epoch.seconds >= 0

    def on_step(self, doing: Doing) -> None:
        assert doing in ("training", "scoring")

    def on_task(self, report: TaskReport) -> bool:
        self.rows += [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in report.metrics]
        return True

    def digits(self) -> object:
        return self.rows, self.outcome


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes that look alike: some are routed to the other class's expert."""
    folder = tmp_path_factory.mktemp("ground")
    numbers = np.random.default_rng(0)
    for name in ("bolt", "nut"):
        for part, kind, count in (("train", "good", 8), ("test", "good", 4), ("test", "dent", 3)):
            place = folder / "images" / name / part / kind
            place.mkdir(parents=True)
            truth = folder / "images" / name / "ground_truth" / "dent"
            truth.mkdir(parents=True, exist_ok=True)
            for n in range(count):
                pixels, mask = numbers.normal(120, 30, (48, 48, 3)), np.zeros((48, 48), dtype=np.uint8)
                if kind == "dent":
                    mask[8:20, 8 + n : 20 + n] = 255
                    pixels[mask > 0] += 60
                    Image.fromarray(mask).save(truth / f"{n}_mask.png")
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{n}.png")
    return folder


@contextmanager
def counted(told: Told) -> Iterator[None]:
    """Count the images that pass through the detector meanwhile."""

    def count(module: nn.Module, _: object) -> None:
        told.passes += isinstance(module, Detector)

    handle = register_module_forward_pre_hook(count)
    try:
        yield
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def run(ground: Path, environment: Environment, small_backbone: dict[str, Any]) -> Callable[..., Told]:
    """The function that runs a small sequence of v3 on a store of stages, with given knobs."""
    small = Layer("small", SMALL | {"backbone": small_backbone})
    features, synthetic = FeatureCache(ground / "features"), ground.parent / "synthetic"

    def run(stages: Path, **knobs: Any) -> Told:
        settings = resolve([version_layer("v3", "test"), small, Layer("test", knobs)])
        tasks = scan(ground / "images", settings.data.tasks)
        told = Told()
        with counted(told):
            context = SequenceContext(tasks, features, StageStore(stages), environment, synthetic)
            told.outcome = run_sequence(settings, context, told)
        return told

    return run


@pytest.fixture(scope="module")
def trained(ground: Path, run: Callable[..., Told]) -> Path:
    """A store of stages, with rows beside them."""
    run(ground / "stages")
    return ground / "stages"


def packs(stages: Path) -> list[Path]:
    return sorted(path for stage in stages.glob("??/*/stage.json") for path in stage.parent.glob("*.npy"))


SCORING: list[dict[str, Any]] = [
    {"image_score": "max", "smoothing": 0.0},
    {"image_score": "quantile", "quantile": 0.9},
    {"scoring.log_det": "image_mean"},
    {"router.shrinkage": 0.9},
]


@pytest.mark.parametrize("knobs", SCORING, ids=str)
def test_trials_that_differ_in_scoring_alone_pass_nothing_and_agree_to_the_bit(
    knobs: dict[str, Any], run: Callable[..., Told], trained: Path, tmp_path: Path
) -> None:
    shared, alone = (Path(shutil.copytree(trained, tmp_path / name)) for name in ("shared", "alone"))
    for path in packs(alone):
        path.unlink()
    with_rows, without = (run(stages, **knobs) for stages in (shared, alone))
    assert with_rows.digits() == without.digits()
    # Each image by its own expert, and once more where it is routed to the other.
    assert without.passes >= 14
    if "router.shrinkage" not in knobs:
        assert with_rows.passes == 0
    else:
        assert with_rows.passes < without.passes
    again = run(shared, **knobs)
    assert again.passes == 0
    assert again.digits() == without.digits()


def test_rows_lie_beside_their_stage(trained: Path) -> None:
    assert {path.parent for path in packs(trained)} == {path.parent for path in trained.glob("??/*/stage.json")}
    whole = sum(entry.bytes for entry in stage_entries(trained))
    assert whole > sum(path.stat().st_size for path in packs(trained)) > 0


def test_damaged_rows_are_made_anew(run: Callable[..., Told], trained: Path, tmp_path: Path) -> None:
    stages = Path(shutil.copytree(trained, tmp_path / "stages"))
    known = run(stages)
    assert known.passes == 0
    for path in packs(stages):
        path.write_bytes(path.read_bytes()[:-4] + b"\x00\x00\xc0\x7f")  # NaN
    anew = run(stages)
    assert anew.passes > 0
    assert anew.digits() == known.digits()
    assert run(stages).passes == 0


def test_other_training_takes_no_rows(run: Callable[..., Told], trained: Path, tmp_path: Path) -> None:
    stages = Path(shutil.copytree(trained, tmp_path / "stages"))
    assert run(stages, learning_rate=2e-3).passes >= 14
