from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moleflow.errors import InvalidInput
from moleflow.features.weights import PACKAGE, planned_weights, weights_file, weights_identity
from moleflow.settings.config import BackboneKnobs


def backbone(weights: str) -> BackboneKnobs:
    """A backbone with these weights."""
    return BackboneKnobs.model_validate({"weights": weights, "model": "efficientnet_lite0"})


def test_a_local_file_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"weights")
    moved = tmp_path / "b.safetensors"
    moved.write_bytes(b"weights")
    assert weights_file(backbone(str(path))) == path
    assert weights_identity(backbone(str(path))) == f"sha256:{hashlib.sha256(b'weights').hexdigest()}"
    assert weights_identity(backbone(str(moved))) == weights_identity(backbone(str(path)))
    moved.write_bytes(b"other weights")
    assert weights_identity(backbone(str(moved))) != weights_identity(backbone(str(path)))


def test_another_file_in_its_place_is_seen_though_size_and_time_are_the_same(tmp_path: Path) -> None:
    path, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    path.write_bytes(b"weights")
    before = weights_identity(backbone(str(path)))
    other.write_bytes(b"WEIGHTS")
    shutil.copystat(path, other)
    other.replace(path)
    assert weights_identity(backbone(str(path))) != before


def test_other_weights_than_planned_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"weights")
    planned = weights_identity(backbone(str(path)))
    assert planned_weights(backbone(str(path)), planned) == planned_weights(backbone(str(path)), None) == planned
    path.write_bytes(b"other weights")
    with pytest.raises(InvalidInput) as refused:
        planned_weights(backbone(str(path)), planned)
    (line,) = str(refused.value).splitlines()
    assert f"now is {weights_identity(backbone(str(path)))}, and was {planned} when the sweep was planned" in line


def test_the_package_carries_a_file() -> None:
    path = weights_file(backbone(PACKAGE))
    assert path is not None
    assert weights_identity(backbone(PACKAGE)) == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_what_has_no_file() -> None:
    assert weights_file(backbone("random")) is None
    assert weights_identity(backbone("random")) == "random"
    assert weights_file(backbone("pretrained")) is None
    assert weights_identity(backbone("pretrained")).startswith("timm:efficientnet_lite0:1.")


def test_a_misspelled_word_is_no_file() -> None:
    with pytest.raises(InvalidInput, match=r"given 'randon', allowed: pretrained .* Did you mean 'random'"):
        weights_identity(backbone("randon"))


def test_no_torch_is_loaded() -> None:
    code = f"""
import sys
from moleflow.settings.config import BackboneKnobs
from moleflow.features.weights import weights_identity
weights_identity(BackboneKnobs.model_validate({{"weights": {PACKAGE!r}}}))
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
