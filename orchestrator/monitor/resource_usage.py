"""Memory and GPUs that the workers on this machine use, in words for the live view."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator

import psutil
import pynvml

from moleflow.owner import CODE

EVERY_S = 5.0
_WORKER = re.compile(rf"^(inline|local|ray)-({CODE}|\d+)")


class ResourceMonitor:
    """Memory of the workers and load of each GPU, measured at most every `EVERY_S` seconds.

    NVML stays open from the first measurement to `close`: opening it takes a second on some
    machines.
    """

    def __init__(self) -> None:
        self._due = -float("inf")
        self._words: tuple[str, ...] = ()
        self._nvml: bool | None = None

    def measure(self, workers: Iterable[str], now: float) -> tuple[str, ...]:
        """The memory of these workers and the load of each GPU of this machine, in words.

        Args:
            workers: names of workers on this machine.
            now: seconds on any clock.

        """
        if now >= self._due:
            self._due = now + EVERY_S
            memory = resident_bytes(workers)
            self._words = (*([f"memory {memory / 1e9:.1f} GB"] if memory else []), *self._gpus())
        return self._words

    def close(self) -> None:
        """Close NVML."""
        if self._nvml:
            pynvml.nvmlShutdown()
        self._nvml = None

    def _gpus(self) -> Iterator[str]:
        if self._nvml is None:
            self._nvml = False
            with contextlib.suppress(pynvml.NVMLError):  # A machine without NVIDIA's driver.
                pynvml.nvmlInit()
                self._nvml = True
        if self._nvml:
            with contextlib.suppress(pynvml.NVMLError):
                for index in range(pynvml.nvmlDeviceGetCount()):
                    yield _gpu_words(index)


def _gpu_words(index: int) -> str:
    """Load and memory of a GPU, without figures that it does not measure, as under MIG."""
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    words = [f"GPU {index}"]
    with contextlib.suppress(pynvml.NVMLError):
        words.append(f"{pynvml.nvmlDeviceGetUtilizationRates(handle).gpu}%")
    with contextlib.suppress(pynvml.NVMLError):
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        words.append(f"{memory.used / 2**30:.1f} of {memory.total / 2**30:.0f} GiB")
    return " ".join(words)


def resident_bytes(workers: Iterable[str]) -> int:
    """Resident memory of the workers' processes, bytes; pages that processes share count for each.

    A worker's name holds the owner code of its driver, or its process id alone if earlier code
    named it. An inline worker is that process; other workers are the processes below it.
    """
    processes: dict[int, psutil.Process] = {}
    for kind, code in {match.groups() for match in map(_WORKER.match, workers) if match}:
        with contextlib.suppress(psutil.Error):  # The driver ended.
            driver = psutil.Process(int(code.rpartition("-")[2]))
            for process in [driver] if kind == "inline" else driver.children(recursive=True):
                processes[process.pid] = process
    total = 0
    for process in processes.values():
        with contextlib.suppress(psutil.Error):  # It ended meanwhile.
            total += process.memory_info().rss
    return total
