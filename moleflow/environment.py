"""The numeric environment: what has to be equal for two runs to give the same digits, and what is recorded beside it."""

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
    """Where numbers are computed. Equal environments give equal digits; across two, metrics agree to a stated tolerance.

    Attributes:
        processor: the CPU's instruction set as torch names it, or the GPU's model: kernels go by it. "" where it is not known yet.
    """

    device_kind: Literal["cpu", "cuda"]
    torch_version: str
    dtype: str
    threads: int
    processor: str = ""

    def key(self) -> dict[str, str | int]:
        """The environment as it enters cache and stage keys."""
        return asdict(self)

    @property
    def device(self) -> torch.device:
        """The torch device; on a machine with several GPUs CUDA_VISIBLE_DEVICES chooses."""
        return torch.device(self.device_kind)


def open_environment(device: Literal["auto", "cpu", "cuda"] = "auto", threads: int = 1) -> Environment:
    """Set this process up for reproducible numbers and say what it is.

    Side effects: the thread counts of torch and of numpy's linear algebra (the last bits of an inverse depend on both),
    deterministic algorithms on, TF32 off.

    Raises:
        InvalidInput: `cuda` was asked for and is not there.
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
        # Without it cuBLAS may add in another order every time.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return environment_of(kind, threads)


def environment_of(kind: Literal["cpu", "cuda"], threads: int) -> Environment:
    """The environment that a process on this machine is in after `open_environment`; nothing is set up."""
    processor = torch.cuda.get_device_name() if kind == "cuda" else torch.backends.cpu.get_cpu_capability()
    return Environment(kind, torch.__version__, "float32", threads, processor)


def device_facts(environment: Environment) -> dict[str, str | bool | None]:
    """What an attempt records of the device beyond the environment's own fields."""
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
