"""Features computed before the first trial, and copies of them on the disk of a node."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console

from moleflow.features.feature_cache import FeatureCache
from orchestrator.backends.inline import InlineBackend
from orchestrator.driver import prefetch
from orchestrator.driver.prepare import Options, prepare, worker_config
from orchestrator.execution.features import FeatureProgress
from orchestrator.execution.planned_trials import PlannedTrials
from orchestrator.execution.trial_source import TrialSource
from orchestrator.results.store import ResultStore
from orchestrator.sweep.sweep import load_sweep

WITHOUT_BACKBONES = """
import sys
sys.modules["timm"] = None
from orchestrator import cli
cli.main()
"""


@pytest.fixture
def base(place):
    """Change settings of the base."""

    def change(**sections):
        settings = yaml.safe_load((place / "base.yaml").read_text())
        for section, knobs in sections.items():
            settings[section] |= knobs
        (place / "base.yaml").write_text(yaml.safe_dump(settings))

    return change


def stored(place, cache="cache"):
    return FeatureCache(place / cache / "features").count()


@pytest.mark.process
def test_trials_need_no_backbone_after_it(place, edit, base, command, digits) -> None:
    edit(seeds=2)
    base(data={"validation_fraction": 0.25, "train_images": 6, "test_images": 4})
    ended = command("prefetch", "sweep.yaml")
    assert ended.code == 0, ended.err
    count = stored(place)
    assert f"{count} computed now" in ended.out
    words = [sys.executable, "-c", WITHOUT_BACKBONES, "sweep.yaml", "--backend", "inline", "--quiet"]
    here = {"cwd": place, "env": os.environ | {"MOLEFLOW_CACHE": str(place / "cache")}}
    run = subprocess.run(words, **here, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert command("sweep.yaml", "--backend", "inline", "--quiet", "--out", "alone", "--cache", "cache2").code == 0
    assert digits(place / "results/small") == digits(place / "alone")
    assert stored(place) == count == stored(place, "cache2")  # All that they need, and nothing else.


def test_a_second_call_computes_nothing_and_repairs_what_was_damaged(place, edit, command) -> None:
    edit(grid={"layers": [[1], [2]]}, report=None)
    first = command("prefetch", "sweep.yaml").out
    assert "features: setting 2 of 2: 40 of 40 images" in first
    assert "2 feature settings on cpu, 80 images, 80 computed now" in first
    assert "2 feature settings on cpu, 80 images, nothing was computed" in command("prefetch", "sweep.yaml").out
    array = sorted((place / "cache/features").glob("*/*.npy"))[0]
    array.write_bytes(array.read_bytes()[:-1])
    repaired = command("prefetch", "sweep.yaml")
    assert repaired.code == 0
    assert "computed now" in repaired.out
    assert not (place / "results").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "efficientnet_lite9"}, "timm has no model 'efficientnet_lite9'. Did you mean 'efficientnet_lite"),
        ({"layers": [1, 9]}, "given 9, but efficientnet_lite0 has the layers 0 to 4"),
        ({"weights": "pretrained"}, "go online once (moleflow-sweep prefetch FILE), give a downloaded file"),
        ({"weights": "nowhere.pth"}, "there is no such file"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_computed(place, edit, command, monkeypatch, change, said) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    edit(grid=None, report=None, seeds=1, list=[{"focal_gamma": 0}, change])
    ended = command("prefetch", "sweep.yaml")
    assert ended.code == 2
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1
    assert stored(place) == 0


def test_options_that_do_not_go_together(command) -> None:
    assert "--backend slurm" in command("prefetch", "sweep.yaml", "--profile", "x.yaml").err
    assert command("prefetch", "sweep.yaml", "--backend", "inline").code == 2


def test_on_a_machine_without_slurm_no_job_is_left(place, edit, command, monkeypatch) -> None:
    edit(grid=None, report=None, seeds=1)
    monkeypatch.setenv("PATH", str(place))
    ended = command("prefetch", "sweep.yaml", "--backend", "slurm")
    assert ended.code == 2
    assert "--backend: given slurm, but sbatch is not found here" in ended.err
    assert len(ended.err.splitlines()) == 1
    assert list((place / "cache").glob("prefetch/*")) == []


def test_a_sweep_that_asks_for_gpus_is_told_what_it_gets_here(place, edit, command, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    edit(grid=None, report=None, seeds=1, resources={"gpus": 1})
    assert "--backend slurm computes those in a job" in command("prefetch", "sweep.yaml").out


@pytest.mark.parametrize("node_cache", ["$NODE_DISK/features", "$NOT_THERE/features", "$FILE/features"])
def test_the_digits_are_the_same_with_copies_on_the_node(
    place, features, small_run, digits, monkeypatch, caplog, node_cache
) -> None:
    (place / "file").touch()
    monkeypatch.setenv("NODE_DISK", str(place / "node"))
    monkeypatch.setenv("FILE", str(place / "file"))
    monkeypatch.delenv("NOT_THERE", raising=False)
    sweep = load_sweep(place / "sweep.yaml")
    prepared = prepare(sweep, Options(out=place / "results/small", cache=place / "cache"))
    setup = replace(worker_config(prepared, Options()), node_cache=node_cache)
    ResultStore(prepared.folder).create()
    source = TrialSource(PlannedTrials(prepared.trials), sweep.resources, retries=0)
    InlineBackend(setup).run(source, source.events)
    assert digits(prepared.folder) == digits(small_run / "results/small")
    arrays = sorted(path.name for path in (place / "cache/features").glob("*/*.npy"))
    copied = sorted(path.name for path in (place / "node").glob("features/*/*"))
    if node_cache.startswith("$NODE_DISK"):
        assert copied == arrays
        assert caplog.messages == []
    else:
        assert copied == []
        assert len(caplog.messages) == 1


def test_progress_without_a_terminal_is_a_line_every_30_seconds(monkeypatch):
    """The first and the last count are printed, and between them one every 30 seconds."""
    seconds = iter([0.0, 10.0, 29.9, 30.0, 59.0, 60.0, 61.0, 62.0])
    monkeypatch.setattr(prefetch, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    console = Console(file=io.StringIO(), width=200, highlight=False)
    line = prefetch._ProgressLine(console, console.status(""))
    for done in (1, 2, 3, 4, 5, 6, 8, 8):
        line.show(FeatureProgress(setting=0, settings=2, done=done, wanted=8))
    printed = [text.strip() for text in console.file.getvalue().splitlines()]
    assert printed == [f"features: setting 1 of 2: {done} of 8 images" for done in (1, 4, 6, 8)]
