from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_info

from moleflow.environment import Environment, device_facts, open_environment
from moleflow.errors import InvalidInput


@pytest.fixture(autouse=True)
def _settings_put_back() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def test_opening_sets_this_process_up_and_says_so() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    environment = open_environment("cpu", threads=2)
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cudnn.benchmark
    blas = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    assert blas and all(pool["num_threads"] == 2 for pool in blas)
    instructions = torch.backends.cpu.get_cpu_capability()
    assert environment == Environment("cpu", torch.__version__, "float32", 2, instructions)
    assert environment.device == torch.device("cpu")


def test_one_thread_is_the_default() -> None:
    assert open_environment("cpu").threads == 1
    assert torch.get_num_threads() == 1


def test_every_field_is_part_of_the_key() -> None:
    one = open_environment("cpu")
    others = [
        replace(one, device_kind="cuda"),
        replace(one, torch_version="0"),
        replace(one, dtype="float64"),
        replace(one, threads=2),
        replace(one, processor="another"),
    ]
    assert one.key() == open_environment("cpu").key()
    assert all(other.key() != one.key() for other in others)
    assert len(others) == len(one.key())


@pytest.mark.process
def test_another_instruction_set_is_another_environment() -> None:
    """Its kernels give other last bits."""
    program = "from moleflow.environment import open_environment; print(open_environment('cpu').key()['processor'])"
    told = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"ATEN_CPU_CAPABILITY": "default"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout.strip() in ("DEFAULT", "NO AVX")


def test_a_gpu_that_is_not_there_is_refused_and_auto_takes_what_is() -> None:
    if torch.cuda.is_available():
        assert open_environment("cuda").device_kind == open_environment("auto").device_kind == "cuda"
    else:
        assert open_environment("auto").device_kind == "cpu"
        with pytest.raises(InvalidInput, match=r"device: given 'cuda'.*allowed: auto \| cpu"):
            open_environment("cuda")


def test_the_device_is_described() -> None:
    facts = device_facts(open_environment("cpu"))
    assert f": {facts['device_model']}\n" in Path("/proc/cpuinfo").read_text()
    assert facts["tf32"] is None
    assert facts["cuda"] == torch.version.cuda


@pytest.mark.parametrize(("asked", "kind"), [("cpu", "cpu"), ("auto", "cuda"), ("cuda", "cuda")])
def test_a_gpu_is_used_unless_the_cpu_is_asked_for(asked: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock: no test machine has a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "H200")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    environment = open_environment(asked)  # type: ignore[arg-type]
    assert environment.device_kind == kind
    assert environment.processor == ("H200" if kind == "cuda" else torch.backends.cpu.get_cpu_capability())
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if kind == "cuda" else None)
