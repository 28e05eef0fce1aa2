"""What SLURM says of jobs: one question for all of them."""

from __future__ import annotations

import getpass
import re
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from orchestrator.backends.slurm.submissions import Element

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol")
"""What has to be there to submit jobs and to follow them."""
ASK_SECONDS = 60.0
NAMELESS = "allocation"  # What accounting calls a short job whose name it has not got.
_RUNNING = frozenset({"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING", "SUSPENDED", "STOPPED"})
_QUEUED = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
)
INTERRUPTING = frozenset({"TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "REVOKED"})
OUT_OF_MEMORY, CANCELLED, UNHEARD = "OUT_OF_MEMORY", "CANCELLED", "UNHEARD"


class SlurmUnavailable(Exception):
    """SLURM gives no answer; nothing is known of any job."""


@dataclass(frozen=True)
class QueueState:
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

    def states(self, elements: Collection[Element]) -> Mapping[str, QueueState]:
        """The state of each element, by its id.

        The controller is asked once for all. Accounting is asked once for those that it has forgotten, as it does some minutes after
        their end, and for those that failed: only their steps tell that the memory was not enough. A job of the same number that
        bears another name is none of ours.

        Raises:
            Unreachable: SLURM is not there or does not answer.

        """
        if not elements:
            return {}
        found = _own(elements, _squeue())
        open_ones = [e for e in elements if e.id not in found or found[e.id].word == "FAILED"]
        if open_ones and self.accounting is not False:
            try:
                accounted = _own(open_ones, _sacct({element.submission.job_id or "" for element in open_ones}))
                # It is seconds behind: what it says of a job that the controller knows to have failed may be that it waits.
                found |= {i: s for i, s in accounted.items() if i not in found or s.word == OUT_OF_MEMORY}
            except SlurmUnavailable as error:
                if self.accounting or not any(word in str(error) for word in ("disabled", "not installed")):
                    raise
                self.accounting = False
        return found | {element.id: QueueState(UNHEARD) for element in elements if element.id not in found}

    def cancel(self, elements: Collection[Element], waiting_only: bool = False) -> None:
        """Withdraw elements, running ones too unless `waiting_only`.

        Raises:
            Unreachable: SLURM does not answer.

        """
        by_array: dict[str, list[str]] = {}
        for element in elements:
            by_array.setdefault(element.submission.name, []).append(element.id)
        for name, ids in by_array.items():
            for start in range(0, len(ids), 500):
                only = ["--state=PENDING"] * waiting_only
                _ask(["scancel", "--quiet", f"--name={name}", *only, *sorted(ids)[start : start + 500]])


def _own(elements: Collection[Element], told: Mapping[str, tuple[str, QueueState]]) -> dict[str, QueueState]:
    found = {}
    for element in elements:
        if element.id in told and told[element.id][0] in (element.submission.name, NAMELESS):
            found[element.id] = told[element.id][1]
    return found


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


def _squeue() -> dict[str, tuple[str, QueueState]]:
    form = "--format=%F|%K|%T|%j|%r"
    lines = _ask(["squeue", "--user", getpass.getuser(), "--noheader", "--array", "--states=all", form]).splitlines()
    found = {}
    for line in lines:
        job, index, word, name, reason = line.split("|", 4)
        state = QueueState(word, "" if reason == "None" else reason)
        found[f"{job}_{index}" if index.isdigit() else job] = (name, state)
    return found


def _sacct(jobs: Collection[str]) -> dict[str, tuple[str, QueueState]]:
    form = "--format=JobID,State,JobName"
    answer = _ask(["sacct", "--noheader", "--parsable2", form, f"--jobs={','.join(sorted(jobs))}"])
    found: dict[str, tuple[str, QueueState]] = {}
    for line in answer.splitlines():
        number, words, name = line.split("|", 2)
        job, _, step = number.partition(".")
        state = QueueState(words.split()[0].rstrip("+"), words)  # "CANCELLED by 0"
        for element_id in _spread(job):
            if not step:  # A job comes before its steps.
                found[element_id] = (name, state)
            elif state.word == OUT_OF_MEMORY and element_id in found:
                found[element_id] = (found[element_id][0], state)
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
        raise SlurmUnavailable(f"{command[0]} is not installed here: this is no SLURM login node") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmUnavailable(f"{command[0]}: {error}") from None
    if done.returncode:
        raise SlurmUnavailable(f"{command[0]}: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout
