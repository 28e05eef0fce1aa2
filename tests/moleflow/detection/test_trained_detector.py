"""A loaded detector scores as the evaluation of its sequence, to the bit, and one image alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from moleflow.detection.trained_detector import TrainedDetector, open_detector
from moleflow.environment import open_environment
from moleflow.errors import InvalidInput
from moleflow.features.timm_import import import_timm

VERSIONS = ("v1", "v2", "v3", "v4", "v4.1", "v5", "v6", "v7", "decoflow")
OTHERS: dict[str, dict[str, Any]] = {
    "a task of two classes": {"tasks": [["bolt", "cloth"]]},
    "a memory bank": {"bank.enabled": True, "bank.patches": 40},
    "features of 16 bits": {"backbone.storage": "float16"},
    "the mean of the largest": {"image_score": "top_k", "top_k": 5},
    "a quantile": {"image_score": "quantile", "quantile": 0.9},
    "one log-determinant an image": {"scoring.log_det": "image_mean"},
    "no shrinkage in the router": {"router.shrinkage": "none"},
}


def found(detector: TrainedDetector, paths: list[Path]) -> dict[Path, tuple[float, int]]:
    return {one.path: (one.score, one.task) for one in detector.score(paths)}


@pytest.mark.parametrize("version", VERSIONS)
def test_scores_of_every_version_are_those_of_its_sequence(version, train, settings):
    one = train(settings(version))
    own = one.scores()
    assert len(own) == 16
    assert found(open_detector(one.file, "cpu"), [*own]) == own


@pytest.mark.parametrize("knobs", OTHERS.values(), ids=OTHERS)
def test_scores_are_those_of_the_sequence_with(knobs, train, settings):
    one = train(settings("v3", **knobs))
    detector = open_detector(one.file, "cpu")
    assert found(detector, [*one.scores()]) == one.scores()
    assert found(detector, [*one.scores("validation")]) == one.scores("validation")


def test_one_image_scores_as_among_many(trained):
    detector, own = open_detector(trained.file, "cpu"), trained.scores()
    together = {one.path: one for one in detector.score([*own])}
    for path in own:
        (alone,) = detector.score([path])
        assert alone.score == own[path][0]
        assert np.array_equal(alone.patch_scores, together[path].patch_scores)
        assert np.array_equal(alone.anomaly_map, together[path].anomaly_map)
    reverse = found(detector, [*reversed(own)])
    assert reverse == own


def test_more_images_than_pass_at_once_keep_their_order(trained):
    own = trained.scores()
    paths = [*own] * 5
    scored = list(open_detector(trained.file, "cpu").score(paths))
    assert [one.path for one in scored] == paths
    assert [one.score for one in scored] == [own[path][0] for path in paths]


def test_the_anomaly_map_is_large_where_the_defect_is(trained):
    detector = open_detector(trained.file, "cpu")
    (one,) = detector.score([trained.root / "bolt/test/hole/000.png"])
    assert one.anomaly_map.shape == (32, 32)
    assert one.anomaly_map.dtype == np.float32
    assert (one.task_name, one.size) == ("bolt", (32, 32))


def test_the_digest_of_the_states_is_that_of_the_results(trained):
    assert trained.detector.header.state_digest == trained.result.state_digest


def test_held_out_normals_have_the_scores_of_the_validation(trained):
    normal = [row for row in trained.result.scores if row["split"] == "validation" and row["label"] == 0]
    held = trained.detector.header.held_out
    assert [(one.image, one.score, one.routed_task) for one in held] == [
        (row["image"], row["score"], row["routed_task"]) for row in normal
    ]
    assert len(held) == 6


def test_a_sequence_that_holds_nothing_out_has_no_such_scores(train, settings):
    assert train(settings("v3", validation_fraction=0.0)).detector.header.held_out == ()


def test_neither_cache_nor_training_images_are_needed(train, settings, images, tmp_path):
    shutil.copytree(images, tmp_path / "images")
    one = train(settings("v3", seed=5), tmp_path / "images")
    own = one.scores()
    shutil.rmtree(one.context.stages.folder)
    for path in (tmp_path / "images").glob("*/train"):
        shutil.rmtree(path)
    assert found(open_detector(one.file, "cpu"), [*own]) == own


def test_a_file_that_cannot_be_scored_does_not_stop_the_others(trained, tmp_path):
    own = trained.scores()
    good = [*own][:3]
    broken = tmp_path / "broken.png"
    broken.write_bytes(good[0].read_bytes()[:100])
    told = []
    paths = [good[0], broken, good[1], tmp_path / "none.png", good[2]]
    detector = open_detector(trained.file, "cpu")
    scored = list(detector.score(paths, on_failure=lambda path, why: told.append((path, why))))
    assert [(one.path, one.score) for one in scored] == [(path, own[path][0]) for path in good]
    assert [path for path, _ in told] == [broken, tmp_path / "none.png"]
    assert "broken image" in told[0][1]
    assert "No such file" in told[1][1]
    with pytest.raises(InvalidInput, match="broken image"):
        list(detector.score(paths))


def test_a_file_that_vanishes_between_check_and_reading_does_not_stop_the_others(trained, tmp_path, monkeypatch):
    own = trained.scores()
    first, gone = next(iter(own)), tmp_path / "gone.png"
    shutil.copy(first, gone)
    detector = open_detector(trained.file, "cpu")
    sample = detector._checked

    def then_remove(path, class_name):
        checked = sample(path, class_name)
        gone.unlink(missing_ok=True)
        return checked

    monkeypatch.setattr(detector, "_checked", then_remove)
    told = []
    scored = list(detector.score([gone, first], on_failure=lambda path, why: told.append(why)))
    assert [one.score for one in scored] == [own[first][0]]
    assert "gone.png: cannot be read" in told[0]


def wide(path: Path, largest: int) -> None:
    values = np.random.default_rng(0).integers(0, largest + 1, (32, 32)).astype(np.uint16)
    values[0, 0] = largest
    Image.fromarray(values).save(path)


def test_an_image_of_16_bits_is_read_with_the_range_of_its_class(train, settings, images, tmp_path):
    root = tmp_path / "images"
    shutil.copytree(images, root)
    for n in range(3):
        wide(root / f"bolt/train/good/wide{n}.png", 4000 + n)
        wide(root / f"bolt/test/good/wide{n}.png", 4000 + n)
    one = train(settings("v3", value_range="content"), root)
    detector, path = open_detector(one.file, "cpu"), root / "bolt/test/good/wide1.png"
    assert one.detector.header.value_ranges == {"bolt": (0, 4095), "cloth": None}
    (scored,) = detector.score([path], class_name="bolt")
    assert (scored.score, scored.task) == one.scores()[path]
    with pytest.raises(InvalidInput, match=r"different ranges \(bolt \[0, 4095\], cloth full\); name its class"):
        list(detector.score([path]))
    with pytest.raises(InvalidInput, match="class: given 'nut', allowed: bolt, cloth"):
        list(detector.score([path], class_name="nut"))


@pytest.fixture
def weighted(train, settings, small_backbone, tmp_path):
    """A detector on weights in a file of its own, and that file."""
    state = import_timm().create_model("efficientnet_lite0", num_classes=0).state_dict()
    draws = torch.Generator().manual_seed(1)
    state["conv_stem.weight"] = torch.randn(state["conv_stem.weight"].shape, generator=draws)
    weights = tmp_path / "weights.safetensors"
    save_file(state, weights)
    return train(settings("v3", **{"backbone.weights": str(weights)})), weights


def test_weights_may_lie_elsewhere_but_must_be_the_same(weighted, tmp_path):
    one, weights = weighted
    own = one.scores()
    assert found(open_detector(one.file, "cpu"), [*own]) == own
    moved = weights.rename(tmp_path / "moved.safetensors")
    with pytest.raises(InvalidInput, match=r"no such file.*this detector needs the weights sha256:\w+ of .*--weights"):
        open_detector(one.file, "cpu")
    assert found(open_detector(one.file, "cpu", weights=moved), [*own]) == own
    moved.write_bytes(moved.read_bytes() + b" ")
    with pytest.raises(InvalidInput, match=r"' is sha256:\w+, but this detector needs the weights sha256:\w+") as error:
        open_detector(one.file, "cpu", weights=moved)
    assert "\n" not in str(error.value)


def test_another_environment_or_code_is_named(trained):
    stored = trained.detector
    assert TrainedDetector(stored, open_environment("cpu")).notes == ()
    header = stored.header
    environment = header.environment | {"torch_version": "1.0"}
    changed = header.model_copy(update={"environment": environment, "code": header.code | {"scoring": "other"}})
    notes = TrainedDetector(type(stored)(changed, stored.states, stored.gaussians), open_environment("cpu")).notes
    assert notes[0].startswith("torch version: trained with 1.0, here ")
    assert notes[1] == "code: trained with other code of scoring"


def test_a_state_that_does_not_fit_is_one_line(trained):
    stored = trained.detector
    states = tuple(dict(list(state.items())[1:]) for state in stored.states)
    with pytest.raises(InvalidInput, match="stored by other code than this program has") as error:
        TrainedDetector(type(stored)(stored.header, states, stored.gaussians), open_environment("cpu"))
    assert "\n" not in str(error.value)
