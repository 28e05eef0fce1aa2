"""Cores, memory and GPUs, with CUDA_VISIBLE_DEVICES and without NVIDIA's driver."""

from __future__ import annotations

import os
import sys

import pynvml
import pytest

from orchestrator.host import cgroups
from orchestrator.host.hardware import available_cores, free_memory_gb, memory_gb, visible_gpus


@pytest.fixture
def driver(monkeypatch):
    """NVIDIA's driver with two GPUs; the list of calls that open and close NVML."""
    calls = []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: calls.append("init"))
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: calls.append("shutdown"))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda handle: f"GPU-{handle}")
    return calls


@pytest.fixture
def limit(monkeypatch):
    """Set the limits of this process's control groups; None = no limit."""

    def set_limits(cores=None, memory=None, free=None):
        monkeypatch.setattr(cgroups, "cpu_limit", lambda: cores)
        monkeypatch.setattr(cgroups, "memory_limit", lambda: memory)
        monkeypatch.setattr(cgroups, "free_memory", lambda: free)

    return set_limits


def test_memory_is_that_of_the_kernel_or_of_a_smaller_container(limit):
    limit()
    with open("/proc/meminfo") as file:
        kilobytes = next(int(line.split()[1]) for line in file if line.startswith("MemTotal"))
    assert memory_gb() == pytest.approx(kilobytes * 1024 / 1e9)
    assert 0 < free_memory_gb() < memory_gb()
    limit(memory=9223372036854771712, free=9223372036854771712)  # The "no limit" of v1.
    assert memory_gb() == pytest.approx(kilobytes * 1024 / 1e9)
    assert free_memory_gb() < memory_gb()
    limit(memory=5 * 10**8, free=10**8)
    assert (memory_gb(), free_memory_gb()) == (0.5, 0.1)


def test_cores_are_those_of_the_process(monkeypatch, limit):
    limit()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert available_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert available_cores() == 6


@pytest.mark.parametrize(("quota", "cores"), [(0.5, 1), (1.0, 1), (1.5, 2), (2.0, 2), (64.0, 3)])
def test_a_cpu_quota_limits_the_cores_but_leaves_one(monkeypatch, limit, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    limit(cores=quota)
    assert available_cores() == cores


def test_gpus_are_named_by_the_driver(driver):
    assert visible_gpus() == ["GPU-0", "GPU-1"]
    assert driver == ["init", "shutdown"]


@pytest.mark.parametrize(
    ("value", "gpus"), [("1,0", ["1", "0"]), ("GPU-7", ["GPU-7"]), ("", []), ("-1", []), ("0, ", ["0"])]
)
def test_cuda_visible_devices_decides(driver, monkeypatch, value, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == gpus
    assert driver == []


def test_without_a_driver_there_are_no_gpus(driver, monkeypatch):
    def no_driver():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    assert visible_gpus() == []
    assert driver == []


def test_a_driver_that_fails_has_no_gpus(driver, monkeypatch):
    def fail():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", fail)
    assert visible_gpus() == []
    assert driver == ["init", "shutdown"]


def test_this_machine_is_asked_without_loading_torch():
    assert all(isinstance(gpu, str) for gpu in visible_gpus())
    assert "torch" not in vars(sys.modules["orchestrator.host.hardware"])
