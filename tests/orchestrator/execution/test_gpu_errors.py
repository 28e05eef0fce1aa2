"""GPU errors, by torch's own exception types: this machine needs no GPU to raise them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import orchestrator.execution.worker
from moleflow.errors import MoleflowError
from moleflow.settings.config import TrialConfig
from orchestrator.backends.inline import InlineBackend
from orchestrator.driver.prepare import Options, prepare, worker_config
from orchestrator.execution.gpu_errors import GpuBroken, breaks_gpu, explain_full_gpu, fills_gpu
from orchestrator.execution.planned_trials import PlannedTrials
from orchestrator.execution.trial_source import TrialSource
from orchestrator.execution.worker import Worker
from orchestrator.records.attempts import FAILED, AttemptFolder
from orchestrator.results.store import ResultStore
from orchestrator.sweep.file_schema import Resources
from orchestrator.sweep.sweep import load_sweep

ASSERT = torch.AcceleratorError("CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA")
FULL = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.80 GiB of which 1.10 GiB is free."
)


def wrapped(error):
    try:
        raise MoleflowError("the step failed") from error
    except MoleflowError as outer:
        return outer


@pytest.mark.parametrize(
    "error",
    [
        ASSERT,
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        wrapped(ASSERT),
    ],
)
def test_errors_after_which_the_process_cannot_use_its_gpu(error):
    assert breaks_gpu(error)
    assert not fills_gpu(error)


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        wrapped(FULL),
    ],
)
def test_full_memory_leaves_the_process_usable(error):
    assert fills_gpu(error)
    assert not breaks_gpu(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch"), MoleflowError("CUDA error"), OSError("out of memory")]
)
def test_other_errors_say_nothing_of_a_gpu(error):
    assert not breaks_gpu(error)
    assert not fills_gpu(error)


def test_full_memory_names_what_to_lower():
    config = TrialConfig.model_validate({"training": {"batch_size": 24}, "data": {"image_size": 448}})
    line = explain_full_gpu(FULL, config)
    assert "Tried to allocate 2.00 GiB" in line
    assert "training.batch_size (24)" in line
    assert "data.image_size (448)" in line
    assert "resources.trials_per_gpu" in line


@pytest.fixture
def prepared(place, features, edit):
    sweep = load_sweep(edit(grid=None, seeds=2, report=None))
    return prepare(sweep, Options(out=place / "results/small", cache=place / "cache"))


@pytest.fixture
def setup(prepared):
    return replace(worker_config(prepared, Options()), backend="inline", worker="w")


def raises(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(orchestrator.execution.worker, "run_sequence", fail)


def test_the_attempt_is_stored_before_the_worker_ends(prepared, setup, monkeypatch):
    told = []
    worker = Worker(setup, told.append)
    raises(monkeypatch, ASSERT)
    with pytest.raises(GpuBroken, match="device-side assert"):
        worker.run(prepared.trials[0])
    assert told[-1].kind == "failed"
    (record,) = AttemptFolder(prepared.folder / "attempts").all()
    assert (record.state, record.content["error_kind"]) == (FAILED, "AcceleratorError")
    assert ResultStore(prepared.folder).read("attempts").column("error_kind").to_pylist() == ["AcceleratorError"]


def test_after_full_memory_the_worker_goes_on(prepared, setup, monkeypatch):
    told = []
    worker = Worker(setup, told.append)
    raises(monkeypatch, FULL)
    worker.run(prepared.trials[0])
    worker.flush()
    assert (told[-1].kind, told[-1].facts["error_kind"]) == ("failed", "GpuOutOfMemory")
    assert told[-1].facts["error"].startswith("the GPU's memory is full")
    monkeypatch.undo()
    worker.run(prepared.trials[1])
    worker.flush()
    assert told[-1].kind == "finished"


def test_in_the_drivers_process_the_run_ends_and_says_how_to_go_on(prepared, setup, monkeypatch):
    raises(monkeypatch, ASSERT)
    source = TrialSource(PlannedTrials(prepared.trials), Resources(), retries=1)
    InlineBackend(setup).run(source, source.events)
    assert "run the same command again" in source.tally.stopped_by
    assert "--backend local" in source.tally.stopped_by
    assert len(source.tally.failed) == 1


def test_in_a_job_the_process_ends(prepared, setup, monkeypatch):
    raises(monkeypatch, ASSERT)
    source = TrialSource(PlannedTrials(prepared.trials), Resources(), retries=1)
    with pytest.raises(GpuBroken):
        InlineBackend(replace(setup, job="7_0")).run(source, source.events)
