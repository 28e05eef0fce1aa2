"""What happens when the code is edited under a running process, each in a copy of the package."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import moleflow
import moleflow.features.feature_cache
from moleflow.code_digest import version
from moleflow.environment import Environment
from moleflow.features.feature_cache import FeatureCache
from moleflow.settings.config import TrialConfig

CONFIG = TrialConfig.model_validate({"backbone": {"weights": "random"}})
BEGIN = """
from pathlib import Path
import moleflow
from moleflow.settings.config import TrialConfig
from moleflow.environment import open_environment
from moleflow.errors import CodeChanged
from moleflow.features.extract import frozen_backbone
from moleflow.features.feature_cache import FeatureCache
from moleflow.code_digest import code_digest

backbone = {"model": "efficientnet_lite0", "weights": "random", "layers": [1, 2], "aggregate": "concat", "grid": 4}
config = TrialConfig.model_validate({"data": {"image_size": 32}, "backbone": backbone})
environment, cache = open_environment("cpu"), FeatureCache(Path("features"))

def edit(name):
    path = Path(moleflow.__file__).parent / name
    path.write_text(path.read_text() + "EDITED = True\\n")
"""


def run(tmp_path: Path, program: str) -> list[str]:
    """What a program prints that runs on a copy of the package of its own."""
    if not (tmp_path / "moleflow").exists():
        leave = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(moleflow.__file__).parent, tmp_path / "moleflow", ignore=leave)
    command = [sys.executable, "-W", "error", "-c", BEGIN + program]
    return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.splitlines()


def test_digests_are_those_of_the_code_that_runs(tmp_path: Path) -> None:
    """An edit counts for processes that start after it, and not for one that has loaded the code of before."""
    digests = "print(code_digest(), code_digest('losses.py'), cache.key(config, environment))"
    before, after = run(tmp_path, f"{digests}\nfor name in ('features.py', 'losses.py'): edit(name)\n{digests}")
    assert after == before
    (later,) = run(tmp_path, digests)
    assert all(one != other for one, other in zip(before.split(), later.split(), strict=True))


def test_every_file_that_decides_a_features_bits_is_in_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(moleflow.features.feature_cache, "code_digest", lambda *names: asked.extend(names) or "")
    FeatureCache(tmp_path).key(CONFIG, Environment("cpu", "2.0", "float32", 1))
    of_reading = {"data/images.py", "data/mvtec.py"}
    assert of_reading | {"backbone.py", "timm_import.py", "environment.py", "features.py"} == set(asked)


def test_a_backbone_that_was_edited_before_it_was_imported_is_refused(tmp_path: Path) -> None:
    refused = """
edit("backbone.py")
try:
    frozen_backbone(config, environment)
except CodeChanged as error:
    print(error)
"""
    (line,) = run(tmp_path, refused)
    assert line == f"{tmp_path / 'moleflow' / 'backbone.py'}: the code changed while this process ran; start again"


def test_a_backbone_that_is_loaded_goes_on_as_it_is(tmp_path: Path) -> None:
    program = "frozen_backbone(config, environment); edit('backbone.py'); frozen_backbone(config, environment); print('built')"
    assert run(tmp_path, program) == ["built"]


def test_a_version_is_that_of_the_package() -> None:
    assert version("timm").split(".")[0].isdigit()
