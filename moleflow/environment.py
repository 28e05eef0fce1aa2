"""The numeric environment: what must be equal for equal digits, and what is recorded with it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from threadpoolctl import threadpool_limits

from moleflow.errors import InvalidInput


@dataclass(frozen=True)
class Environment:
    """The conditions of a computation.

    Equal environments give equal digits. Across two, metrics agree to a stated tolerance.

    Attributes:
        device_kind: cpu or cuda.
        torch_version: the version of torch.
        dtype: the type of numbers in which models compute.
        threads: CPU threads a process.
        processor: the CPU's instruction set as torch names it, or the GPU's model, since kernels
            are chosen by it; "" if it is not known yet.
    """

    device_kind: Literal["cpu", "cuda"]
    torch_version: str
    dtype: str
    threads: int
    processor: str = ""

    def key(self) -> dict[str, str | int]:
        """The environment as it enters feature and stage keys."""
        return asdict(self)

    @property
    def device(self) -> torch.device:
        """The torch device; of several GPUs CUDA_VISIBLE_DEVICES selects one."""
        return torch.device(self.device_kind)


def open_environment(device: Literal["auto", "cpu", "cuda"] = "auto", threads: int = 1) -> Environment:
    """Set this process up for reproducible numbers, and return its environment.

    Sets the thread counts of torch and of numpy's linear algebra (the last bits of an inverse
    depend on both), turns deterministic algorithms on and TF32 off.

    Args:
        device: the kind of device; auto = a GPU if there is one.
        threads: CPU threads of this process.

    Raises:
        InvalidInput: `cuda` is given, but torch finds no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidInput(
            "device: given 'cuda', but torch finds no GPU here; allowed: auto | cpu, or install a CUDA build of torch"
        )
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    kind: Literal["cpu", "cuda"] = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    if kind == "cuda":
        # Without it cuBLAS may sum in another order every time.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return environment_of(kind, threads)


def environment_of(kind: Literal["cpu", "cuda"], threads: int) -> Environment:
    """The environment of a process on this machine after `open_environment`; sets nothing."""
    processor = torch.cuda.get_device_name() if kind == "cuda" else torch.backends.cpu.get_cpu_capability()
    return Environment(kind, torch.__version__, "float32", threads, processor)


def device_facts(environment: Environment) -> dict[str, str | bool | None]:
    """Facts of the device that an attempt records in addition to the environment."""
    cuda = environment.device_kind == "cuda"
    return {
        "device_model": torch.cuda.get_device_name() if cuda else _cpu_model(),
        "cuda": torch.version.cuda,
        "tf32": torch.backends.cuda.matmul.allow_tf32 if cuda else None,
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return torch.backends.cpu.get_cpu_capability()
