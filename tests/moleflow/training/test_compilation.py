"""Training with compiled kernels: its digits, and machines without a compiler."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._inductor import config as inductor

from moleflow.cache.stage_state import Checkpoint, state_digest
from moleflow.errors import InvalidInput
from moleflow.models.detector import Detector
from moleflow.settings.knobs import Layer, resolve, version_layer
from moleflow.training.compilation import compiled, require_compiler
from moleflow.training.train_task import Randomness, train_task

SHAPE = (2, 2, 6)
FEATURES = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of compiled kernels, empty at first."""
    folder = tmp_path_factory.mktemp("kernels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
        yield folder


def trained(
    compile: bool, resume_from: Checkpoint | None = None, version: str = "v1", **knobs: object
) -> tuple[Detector, list[Checkpoint]]:
    """A detector with an expert after three epochs of task 0, and its checkpoints."""
    small = {"flow.blocks": 1, "lora.rank": 2, "lora.task0": True, "epochs": 3, "batch_size": 4, "learning_rate": 1e-3}
    config = resolve([version_layer(version, "test"), Layer("test", small | knobs | {"training.compile": compile})])
    randomness = Randomness(0, "", 0)
    detector = Detector(config, SHAPE, randomness)
    detector.add_task(0, randomness)
    kept: list[Checkpoint] = []
    train_task(detector, FEATURES, 0, config, randomness, lambda epoch: None, resume_from, kept.append)
    return detector, kept


def digits(reached: Checkpoint) -> tuple[object, ...]:
    """All that a checkpoint holds, but for seconds."""
    epochs = [replace(epoch, seconds=0.0) for epoch in reached.epochs]
    return epochs, state_digest(reached.state), state_digest(reached.optimizer)


@pytest.mark.parametrize(
    ("version", "knobs"),
    [
        ("v1", {}),
        # Batches of four and of two, and an attention with dropout, which is not compiled.
        pytest.param("v6", {"drop_last": False}, marks=pytest.mark.process),
    ],
)
def test_compiled_training_is_near_repeats_its_digits_and_resumes_to_them(
    version: str, knobs: dict[str, object], kernels: Path
) -> None:
    """One test, since each first compilation takes ten seconds."""
    plain, expected = trained(False, None, version, **knobs)
    before = set(kernels.rglob("*.so"))
    detector, kept = trained(True, None, version, **knobs)
    assert set(kernels.rglob("*.so")) > before
    for ours, theirs in zip(kept, expected, strict=True):
        assert ours.epochs[-1].loss == pytest.approx(theirs.epochs[-1].loss, rel=1e-5)
        assert ours.state.keys() == theirs.state.keys()
    with torch.no_grad():
        for ours_scores, theirs_scores in zip(detector(FEATURES, 0), plain(FEATURES, 0), strict=True):
            torch.testing.assert_close(ours_scores, theirs_scores, rtol=1e-4, atol=1e-5)
    _, again = trained(True, None, version, **knobs)
    assert digits(again[-1]) == digits(kept[-1])
    _, resumed = trained(True, kept[0], version, **knobs)
    assert [digits(one) for one in resumed] == [digits(one) for one in kept[1:]]


def test_a_compiler_that_fails_is_one_line(kernels: Path, tmp_path: Path) -> None:
    broken = tmp_path / "g++"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "g++ 12" && exit\necho "no header" >&2\nexit 1\n')
    broken.chmod(0o755)
    with (
        inductor.patch({"cpp.cxx": (str(broken),)}),
        pytest.raises(InvalidInput, match=r"^training.compile: given true, but torch.compile failed here .*") as raised,
    ):
        trained(compile=True)
    assert re.search("set training.compile to false$", str(raised.value))
    assert "\n" not in str(raised.value)


def test_a_machine_without_a_cpp_compiler_is_told_what_to_install() -> None:
    expected = "no C++ compiler is found; apt-get install g++, or set training.compile to false"
    with (
        inductor.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(InvalidInput, match=re.escape(expected)),
    ):
        trained(compile=True)


def test_a_machine_with_a_gpu_needs_triton_a_c_compiler_and_headers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A stand-in for a machine with a GPU: only programs are looked for."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match="triton is not installed; pip install triton"):
        require_compiler("cuda")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InvalidInput, match="no C compiler is found; apt-get install gcc"):
        require_compiler("cuda")
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(InvalidInput, match=r"header files are missing; apt-get install python3-dev"):
        require_compiler("cuda")


def test_a_detector_runs_uncompiled_after_an_error() -> None:
    detector, _ = trained(compile=False)
    with pytest.raises(KeyboardInterrupt), compiled(detector, on=True):
        raise KeyboardInterrupt
    with torch.no_grad():
        z, _ = detector(FEATURES, 0)
    assert z.shape == FEATURES.shape
