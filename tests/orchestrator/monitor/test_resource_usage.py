"""Memory of the workers' processes, and load of GPUs as NVML reports it."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pynvml
import pytest

from moleflow.owner import owner_code
from orchestrator.monitor.resource_usage import EVERY_S, ResourceMonitor, resident_bytes

GROW = "data = bytearray(60_000_000); print('ready', flush=True); input()"


def test_memory_is_that_of_an_inline_driver_or_of_the_processes_below_it():
    assert resident_bytes([f"inline-{os.getpid()}"]) == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    workers = [f"local-{os.getpid()}-0", f"local-{os.getpid()}-1"]
    before = resident_bytes(workers)
    # The process that grows is a child of a child, as a worker may have some of its own.
    command = ["sh", "-c", '"$0" -c "$1"; true', sys.executable, GROW]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        assert 60e6 < resident_bytes(workers) - before < 120e6
        # As a driver names its workers today.
        assert resident_bytes([f"local-{owner_code()}-0"]) == pytest.approx(resident_bytes(workers), rel=0.05)
        assert resident_bytes([f"ray-{os.getpid()}-a"]) - before > 60e6
        child.communicate("\n")
    assert resident_bytes(workers) < before + 60e6


def test_unknown_and_dead_drivers_use_no_memory():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert resident_bytes([f"inline-{process.pid}", f"local-{process.pid}-0", "slurm-7_0", ""]) == 0


class Nvml:
    """NVML of a machine with two GPUs, of which the second measures nothing."""

    def __init__(self):
        self.calls = []

    def nvmlInit(self):
        self.calls.append("init")

    def nvmlShutdown(self):
        self.calls.append("shutdown")

    def nvmlDeviceGetCount(self):
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetUtilizationRates(self, handle):
        if handle == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        self.calls.append("measure")
        return SimpleNamespace(gpu=34, memory=1)

    def nvmlDeviceGetMemoryInfo(self, handle):
        if handle == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(used=3174 * 2**20, total=80 * 2**30, free=0)


@pytest.fixture
def nvml(monkeypatch):
    fake = Nvml()
    for name in dir(fake):
        if name.startswith("nvml"):
            monkeypatch.setattr(pynvml, name, getattr(fake, name))
    return fake


def test_gpus_show_load_and_memory_as_far_as_they_measure_them(nvml):
    monitor = ResourceMonitor()
    assert monitor.measure([], 0.0) == ("GPU 0 34% 3.1 of 80 GiB", "GPU 1")


def test_a_measurement_is_reused_for_some_seconds_and_nvml_is_opened_once(nvml):
    monitor = ResourceMonitor()
    for now in (0.0, EVERY_S - 0.1, EVERY_S, EVERY_S + 1):
        monitor.measure([], now)
    monitor.close()
    monitor.close()
    assert nvml.calls == ["init", "measure", "measure", "shutdown"]


def test_without_nvidia_s_driver_no_gpu_is_shown(monkeypatch):
    def no_driver():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: pytest.fail("NVML was never opened"))
    monitor = ResourceMonitor()
    # A process of its own: this one may hold a gigabyte after many tests.
    with subprocess.Popen(
        [sys.executable, "-c", GROW], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as one:
        assert one.stdout.readline() == "ready\n"
        # Named as a driver names it.
        (words,) = monitor.measure([f"inline-{owner_code(one.pid)}"], 0.0)
        one.communicate("\n")
    assert words.startswith("memory 0.")
    monitor.close()
