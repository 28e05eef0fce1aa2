"""CPU cores, memory and GPUs that this process may use."""

from __future__ import annotations

import math
import os

import psutil
import pynvml

from orchestrator.host import cgroups


def memory_gb() -> float:
    """The memory that this process may use, GB: a container or job may have less than its host."""
    return _within(psutil.virtual_memory().total, cgroups.memory_limit()) / 1e9


def free_memory_gb() -> float:
    """The part of that memory that is free, GB."""
    return _within(psutil.virtual_memory().available, cgroups.free_memory()) / 1e9


def _within(host: int, limit: int | None) -> int:
    return host if limit is None else min(host, limit)


def available_cores() -> int:
    """The number of cores that this process may use: its affinity, or less under a CPU quota.

    A fraction of a core counts as one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroups.cpu_limit()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    The list is empty without NVIDIA's driver. NVML answers without CUDA, so no GPU memory is taken.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [gpu for gpu in given.split(",") if gpu.strip() not in ("", "-1")]
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [str(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()
