"""Backbones are checked before a trial starts, and each is built once."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from torch._inductor import config as inductor

from moleflow.errors import WeightsUnavailable
from moleflow.features import backbone
from moleflow.settings.config import TrialConfig
from orchestrator.driver import preflight
from orchestrator.driver.prepare import Options

LIGHT = """
import sys
from orchestrator import cli
try:
    cli.main()
except SystemExit as left:
    assert left.code == 0, left.code
assert not {"torch", "timm"} & sys.modules.keys()
"""


@pytest.fixture
def built(monkeypatch):
    """(model, weights, image size) of the backbones that were built, in order."""
    found, build = [], backbone._build

    def noted(config, image_size):
        found.append((config.model, config.weights, image_size))
        return build(config, image_size)

    monkeypatch.setattr(backbone, "_build", noted)
    return found


def test_each_backbone_is_built_once_and_remembered(place, edit, command, built):
    edit(grid={"focal_gamma": [0, 2], "data.image_size": [32, 48]}, report=None)
    assert command("plan", "sweep.yaml").code == 0
    assert built == [("efficientnet_lite0", "random", 32), ("efficientnet_lite0", "random", 48)]
    assert command("plan", "sweep.yaml").code == 0
    assert command("plan", "sweep.yaml", "--set", "backbone.projection_seed=3").code == 0
    assert len(built) == 2
    assert command("plan", "sweep.yaml", "--set", "grid=2").code == 0
    assert len(built) == 4
    assert len(list((place / "cache/backbones").iterdir())) == 4


def test_a_plan_fetches_no_weights(command, built):
    words = ("--set", "weights=pretrained", "--set", "model=resnet18", "--set", "layers=[1]")
    assert command("plan", "sweep.yaml", *words).code == 0
    assert built == [("resnet18", "random", 32)]


def test_a_plan_of_a_known_backbone_loads_no_torch(finished, edit):
    edit(seeds=3)
    shutil.rmtree(finished / "results")
    words = ["plan", "sweep.yaml", "--cache", "cache"]
    done = subprocess.run([sys.executable, "-c", LIGHT, *words], cwd=finished, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "6 to run" in done.stdout


@pytest.fixture
def unreachable(finished, monkeypatch):
    """A folder with the features of the small sweep, without a way to get its weights."""
    shutil.rmtree(finished / "results")
    shutil.rmtree(finished / "cache/backbones")

    def refuse(config, image_size):
        raise WeightsUnavailable("backbone.weights: they cannot be had")

    monkeypatch.setattr(backbone, "_build", refuse)
    return finished


def test_features_that_are_stored_need_no_weights(unreachable, command):
    assert command("sweep.yaml", "--backend", "inline").code == 0


def test_a_dry_run_computes_them_anew(unreachable, command):
    ended = command("sweep.yaml", "--dry-run")
    assert (ended.code, ended.err) == (2, "error: backbone.weights: they cannot be had\n")


def test_features_that_are_missing_need_weights(unreachable, command):
    shutil.rmtree(unreachable / "cache/features")
    ended = command("sweep.yaml", "--backend", "inline")
    assert (ended.code, ended.out) == (2, "")
    assert not (unreachable / "results").exists()


@pytest.mark.parametrize(
    ("options", "fresh", "refused"),
    [
        (Options(), False, True),
        (Options(backend="slurm"), False, False),
        (Options(backend="ray", address="auto"), False, False),
        (Options(backend="ray"), False, True),
        (Options(backend="slurm"), True, True),
    ],
)
def test_weights_may_be_missing_here_if_trials_run_on_a_cluster(monkeypatch, options, fresh, refused):
    """A login node may lack the weights that compute nodes have; a dry run always runs here."""

    def unavailable(*_):
        raise WeightsUnavailable("backbone.weights: not available")

    knobs = SimpleNamespace(backbone=SimpleNamespace(weights="pretrained"))
    monkeypatch.setattr(preflight, "_distinct", lambda prepared: [knobs])
    monkeypatch.setattr(preflight, "_build_once", unavailable)
    monkeypatch.setattr(preflight, "_features_are_stored", lambda *_: False)
    prepared = SimpleNamespace(cache=None)
    with pytest.raises(WeightsUnavailable) if refused else contextlib.nullcontext():
        preflight.check_backbones(prepared, options, fresh=fresh)


def test_a_backbone_is_known_again_by_what_decides_if_it_can_be_built(tmp_path):
    """Seeds and the stored number format are left out; layers, image size and weights count."""
    knobs = {"model": "efficientnet_lite0", "weights": "random", "layers": [1, 2]}

    def marker(size=32, **changes):
        config = TrialConfig.model_validate({"backbone": {**knobs, **changes}, "data": {"image_size": size}})
        return preflight._marker(config, tmp_path)

    assert marker() == marker(weights_seed=5) == marker(projection_seed=5) == marker(storage="float16")
    assert (
        len({marker(), marker(size=64), marker(layers=[1]), marker(model="resnet18"), marker(weights="pretrained")})
        == 5
    )


def test_a_machine_without_a_compiler_refuses_compiled_training_before_it_starts(place, command):
    """On a cluster, other machines train."""
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}):
        refused = command("run", "sweep.yaml", "--device", "cpu", "--set", "training.compile=true")
    assert refused.code == 2
    assert "no C++ compiler is found; apt-get install g++, or set training.compile to false" in refused.err
    assert not (place / "results").exists()
