"""What SLURM says of jobs: one question for all of them."""

from __future__ import annotations

import getpass
import re
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

ASK_SECONDS = 60.0
_RUNNING = frozenset({"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING", "SUSPENDED", "STOPPED"})
_QUEUED = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
)
INTERRUPTING = frozenset({"TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "REVOKED"})
OUT_OF_MEMORY, CANCELLED, UNHEARD = "OUT_OF_MEMORY", "CANCELLED", "UNHEARD"


class Unreachable(Exception):
    """SLURM gives no answer; nothing is known of any job."""


@dataclass(frozen=True)
class State:
    """SLURM's word for a job's state, and why where it says so. UNHEARD: SLURM no longer knows the job."""

    word: str
    reason: str = ""

    @property
    def phase(self) -> Literal["queued", "running", "over"]:
        """Whether the job waits, runs or has ended; requeued ones wait again."""
        if self.word in _QUEUED:
            return "queued"
        return "running" if self.word in _RUNNING else "over"


@dataclass
class Queue:
    """The jobs of this user.

    Args:
        accounting: whether sacct knows of jobs that the controller has forgotten; None = find out.

    """

    accounting: bool | None = None

    def states(self, element_ids: Collection[str]) -> Mapping[str, State]:
        """The state of each element.

        The controller is asked once for all. Accounting is asked once for those that it has forgotten, as it does some minutes after
        their end, and for those that failed: only their steps tell that the memory was not enough.

        Raises:
            Unreachable: SLURM is not there or does not answer.

        """
        if not element_ids:
            return {}
        known = _squeue()
        found = {element_id: known[element_id] for element_id in element_ids if element_id in known}
        open_ones = [name for name in element_ids if name not in found or found[name].word == "FAILED"]
        if open_ones and self.accounting is not False:
            try:
                told = _sacct({element_id.partition("_")[0] for element_id in open_ones})
                found |= {element_id: told[element_id] for element_id in open_ones if element_id in told}
            except Unreachable:
                if self.accounting:
                    raise
                self.accounting = False
        return found | {element_id: State(UNHEARD) for element_id in element_ids if element_id not in found}

    def cancel(self, element_ids: Collection[str], waiting_only: bool = False) -> None:
        """Withdraw elements, running ones too unless `waiting_only`.

        Raises:
            Unreachable: SLURM does not answer.

        """
        names = sorted(element_ids)
        for start in range(0, len(names), 500):
            only = ["--state=PENDING"] * waiting_only
            _ask(["scancel", "--quiet", *only, *names[start : start + 500]])


def find_job(name: str) -> str | None:
    """The number of the array that was submitted under `name`; None if SLURM never took it or has forgotten it.

    Raises:
        Unreachable: SLURM does not answer.

    """
    answer = _ask(
        ["squeue", "--user", getpass.getuser(), "--noheader", "--states=all", "--format=%F", f"--name={name}"]
    )
    numbers = answer.split()
    return numbers[0] if numbers else None


def largest_array() -> int:
    """The most elements that this site allows one array.

    Raises:
        Unreachable: SLURM does not answer.

    """
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask(["scontrol", "show", "config"]), re.MULTILINE)
    return max(1, int(found.group(1)) - 1) if found else 1000


def _squeue() -> dict[str, State]:
    form = "--format=%F|%K|%T|%r"
    lines = _ask(["squeue", "--user", getpass.getuser(), "--noheader", "--array", "--states=all", form]).splitlines()
    found = {}
    for line in lines:
        job, index, word, reason = line.split("|", 3)
        found[f"{job}_{index}" if index.isdigit() else job] = State(word, "" if reason == "None" else reason)
    return found


def _sacct(jobs: Collection[str]) -> dict[str, State]:
    answer = _ask(["sacct", "--noheader", "--parsable2", "--format=JobID,State", f"--jobs={','.join(sorted(jobs))}"])
    found: dict[str, State] = {}
    for line in answer.splitlines():
        name, words = line.split("|", 1)
        job, _, step = name.partition(".")
        state = State(words.split()[0].rstrip("+"), words)  # "CANCELLED by 0"
        for element_id in _spread(job):
            if not step or state.word == OUT_OF_MEMORY:  # A job comes before its steps.
                found[element_id] = state
    return found


def _spread(job: str) -> list[str]:
    """`7_[2-4,6%3]` as 7_2, 7_3, 7_4, 7_6."""
    whole = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", job)
    if whole is None:
        return [job]
    found = []
    for part in whole.group(2).split(","):
        first, _, last = part.partition("-")
        found += [f"{whole.group(1)}_{n}" for n in range(int(first), int(last or first) + 1)]
    return found


def _ask(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_SECONDS)
    except FileNotFoundError:
        raise Unreachable(f"{command[0]} is not installed here: this is no SLURM login node") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unreachable(f"{command[0]}: {error}") from None
    if done.returncode:
        raise Unreachable(f"{command[0]}: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout
