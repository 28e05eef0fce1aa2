"""Memory and GPUs that the workers on this machine use: what /proc and nvidia-smi tell, and nothing where they tell nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

EVERY_S = 5.0
_WORKER = re.compile(r"^(inline|local|ray)-(\d+)")
_QUERY = "--query-gpu=index,utilization.gpu,memory.used,memory.total"


class ResourceMonitor:
    """What is in use, looked up at most every `EVERY_S`; never waits for nvidia-smi: its answer is taken at a later look."""

    def __init__(self) -> None:
        self._due = -float("inf")
        self._said: tuple[str, ...] = ()
        self._asked: subprocess.Popen[str] | None = None
        self._gpus: tuple[str, ...] = ()
        self._program = shutil.which("nvidia-smi")

    def look(self, workers: Iterable[str], now: float) -> tuple[str, ...]:
        """In words, what the workers of these names use, and each GPU; workers of other machines are not known of here."""
        if now >= self._due:
            self._due = now + EVERY_S
            memory = resident_bytes(workers)
            self._ask_gpus()
            self._said = (*([f"memory {memory / 1e9:.1f} GB"] if memory else []), *self._gpus)
        return self._said

    def close(self) -> None:
        """End a question that is still open."""
        if self._asked is not None:
            self._asked.kill()  # Nothing happens to one that has ended.
            self._asked.communicate()
        self._asked = None

    def _ask_gpus(self) -> None:
        if self._program is None:
            return
        if self._asked is not None:
            if self._asked.poll() is None:
                return
            self._gpus = gpu_words(self._asked.communicate()[0])
        try:
            self._asked = subprocess.Popen(
                [self._program, _QUERY, "--format=csv,noheader,nounits"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError:
            self._program = None


def gpu_words(answer: str) -> tuple[str, ...]:
    """nvidia-smi's lines (index, %, MiB used, MiB there) in words; what a card does not tell is left out."""
    said = []
    for line in answer.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4:
            busy = [f"{fields[1]}%"] if fields[1].isdigit() else []
            held = [f"{int(fields[2]) / 1024:.1f} of {int(fields[3]) / 1024:.0f} GiB"] if _numbers(fields[2:]) else []
            said.append(" ".join([f"GPU {fields[0]}", *busy, *held]))
    return tuple(said)


def resident_bytes(workers: Iterable[str], proc: Path = Path("/proc")) -> int:
    """Resident memory of the processes behind workers' names, bytes: of the driver itself where it works alone, else of all below it.

    Pages that several processes share count for each.
    """
    named = [match for match in map(_WORKER.match, workers) if match]
    if not named:
        return 0
    parents, pages = _processes(proc)
    alone = {int(match[2]) for match in named if match[1] == "inline"}
    drivers = {int(match[2]) for match in named} - alone
    below: dict[int, bool] = {}

    def belongs(pid: int) -> bool:
        if pid not in below:
            parent = parents.get(pid, 0)
            below[pid] = False  # A loop of parents, which a table read while it changes could show, ends here.
            below[pid] = parent in drivers or (parent > 1 and belongs(parent))
        return below[pid]

    held = sum(count for pid, count in pages.items() if pid in alone or belongs(pid))
    return held * os.sysconf("SC_PAGE_SIZE")


def _processes(proc: Path) -> tuple[dict[int, int], dict[int, int]]:
    """The parent and the resident pages of each process."""
    parents, pages = {}, {}
    for stat in proc.glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
            parents[int(stat.parent.name)], pages[int(stat.parent.name)] = int(fields[1]), int(fields[21])
        except (OSError, ValueError, IndexError):
            continue  # It ended meanwhile.
    return parents, pages


def _numbers(words: Iterable[str]) -> bool:
    return all(word.isdigit() for word in words)
