"""Errors of a GPU: those after which a process cannot use it any more, and those of full memory.

After a failed assertion on the device, an illegal access or an ECC error, every further call of
CUDA in that process fails (CUDA C++ Programming Guide, error checking). A new process can go on.
Full memory leaves the process as it was.
"""

from __future__ import annotations

from collections.abc import Iterator

from moleflow.settings.config import TrialConfig
from orchestrator.execution.signals import WorkerStopped

GPU_OUT_OF_MEMORY = "GpuOutOfMemory"
GPU_BROKEN_EXIT = 75
"""Exit code of a worker process that ended since it could not use its GPU any more."""

_BROKEN = ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "CUSOLVER_STATUS", "device-side assert")
_FULL = ("out of memory", "ALLOC_FAILED")


class GpuBroken(WorkerStopped):
    """Raised in a worker after the failed attempt is written: its process has to be replaced."""


def breaks_gpu(error: BaseException) -> bool:
    """True if the process cannot use its GPU any more after this error, or one that caused it."""
    import torch  # Not at the top: drivers import this module, and torch takes a second.

    return not fills_gpu(error) and any(
        isinstance(one, torch.AcceleratorError)
        or (isinstance(one, RuntimeError) and any(sign in str(one) for sign in _BROKEN))
        for one in _causes(error)
    )


def fills_gpu(error: BaseException) -> bool:
    """True if the GPU's memory was full."""
    import torch

    return any(
        isinstance(one, torch.OutOfMemoryError)
        or (isinstance(one, RuntimeError) and "CU" in str(one) and any(sign in str(one) for sign in _FULL))
        for one in _causes(error)
    )


def explain_full_gpu(error: BaseException, config: TrialConfig) -> str:
    """One line for an attempt that found the GPU's memory full: what can be lowered."""
    said = ". ".join(str(error).split(". ")[:2]).rstrip(".")
    lanes = f"training.lanes ({config.training.lanes}), " if config.training.lanes > 1 else ""
    return (
        f"the GPU's memory is full ({said}); lower {lanes}training.batch_size ({config.training.batch_size}), "
        f"data.image_size ({config.data.image_size}) or resources.trials_per_gpu, or use a GPU with more memory"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
