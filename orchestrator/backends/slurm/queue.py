"""The states of jobs according to squeue and sacct, one question for all jobs."""

from __future__ import annotations

import getpass
import re
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from moleflow.errors import MoleflowError
from orchestrator.backends.slurm.slurm_errors import explain
from orchestrator.backends.slurm.submissions import ArrayTask

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol")
"""The commands that submitting and following jobs needs."""
ASK_SECONDS = 60.0
NAMELESS = "allocation"  # Accounting shows this name for a short job whose name it does not have.
_RUNNING = frozenset({"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING", "SUSPENDED", "STOPPED"})
_QUEUED = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
)
_NEVER_STARTS = frozenset(
    {
        "launch failed requeued held",
        "JobHeldAdmin",
        "JobHeldUser",
        "DependencyNeverSatisfied",
        "PartitionTimeLimit",
        "PartitionNodeLimit",
        "BadConstraints",
    }
)
_GPUS = re.compile(r"(?:^|,)gpu(?::([^:,()]+))?:(\d+)")
"""GPUs in sinfo's list of a node's resources, such as lustre:1,gpu:a100:4(S:0-1)."""
INTERRUPTING = frozenset({"TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "REVOKED"})
"""States of jobs that ended through no fault of theirs."""
COMPLETED, OUT_OF_MEMORY, CANCELLED = "COMPLETED", "OUT_OF_MEMORY", "CANCELLED"
UNKNOWN = "UNKNOWN"
"""The state of a job that SLURM no longer knows; the only one that is not SLURM's own word."""
SCANCEL_IDS = 500  # Job ids of one scancel command: its command line has a limited length.


class SlurmUnavailable(MoleflowError):
    """SLURM is not installed or does not answer; the states of jobs are not known."""


@dataclass(frozen=True)
class QueueState:
    """The state of a job.

    Attributes:
        name: SLURM's name of the state, such as PENDING, or `UNKNOWN`.
        reason: SLURM's reason for it; empty if it gives none.

    """

    name: str
    reason: str = ""

    @property
    def phase(self) -> Literal["queued", "running", "over"]:
        """The job waits, runs or has ended; a requeued one waits again."""
        if self.name in _QUEUED:
            return "queued"
        return "running" if self.name in _RUNNING else "over"

    @property
    def is_stuck(self) -> bool:
        """True for a queued job that does not start by itself, such as one whose launch failed."""
        return self.phase == "queued" and self.reason in _NEVER_STARTS


_NamedState = tuple[str, QueueState]  # with the job's name


@dataclass
class Queue:
    """The jobs of this user.

    Args:
        accounting: whether sacct knows jobs that the controller has forgotten; None = find out.

    """

    accounting: bool | None = None

    def states(self, array_tasks: Collection[ArrayTask]) -> Mapping[str, QueueState]:
        """The state of each array task, by its id.

        squeue is asked once for all. sacct is asked once for two kinds of jobs. The controller
        forgets a job some minutes after its end. And of a failed job, only the accounted steps say
        that its memory was too small. A job with the id of an array task but another name is not
        ours: ids start again when a cluster is set up anew.

        Raises:
            SlurmUnavailable: SLURM is not installed or does not answer.

        """
        if not array_tasks:
            return {}
        states = _of_same_name(array_tasks, _squeue())
        unclear = [task for task in array_tasks if task.id not in states or states[task.id].name == "FAILED"]
        if unclear and self.accounting is not False:
            try:
                accounted = _of_same_name(unclear, _sacct({task.submission.job_id or "" for task in unclear}))
                # Accounting is seconds behind. It may still call a job pending that squeue shows as
                # failed, so it overrides squeue with OUT_OF_MEMORY only.
                states |= {
                    task_id: state
                    for task_id, state in accounted.items()
                    if task_id not in states or state.name == OUT_OF_MEMORY
                }
            except SlurmUnavailable as error:
                if self.accounting or not any(word in str(error) for word in ("disabled", "not installed")):
                    raise
                self.accounting = False
        return states | {task.id: QueueState(UNKNOWN) for task in array_tasks if task.id not in states}

    def cancel(self, array_tasks: Collection[ArrayTask], pending_only: bool = False) -> None:
        """Cancel array tasks; with `pending_only`, those that have not started.

        Raises:
            SlurmUnavailable: SLURM is not installed or does not answer.

        """
        by_name: dict[str, list[str]] = {}
        for task in array_tasks:
            by_name.setdefault(task.submission.name, []).append(task.id)
        for name, ids in by_name.items():
            for start in range(0, len(ids), SCANCEL_IDS):
                only = ["--state=PENDING"] * pending_only
                _ask(["scancel", "--quiet", f"--name={name}", *only, *sorted(ids)[start : start + SCANCEL_IDS]])


def _of_same_name(array_tasks: Collection[ArrayTask], jobs: Mapping[str, _NamedState]) -> dict[str, QueueState]:
    return {
        task.id: jobs[task.id][1]
        for task in array_tasks
        if task.id in jobs and jobs[task.id][0] in (task.submission.name, NAMELESS)
    }


def find_job(name: str) -> str | None:
    """The job id of the array that was submitted under `name`.

    None if SLURM never received it, or has forgotten it.

    Raises:
        SlurmUnavailable: SLURM is not installed or does not answer.

    """
    answer = _ask(
        ["squeue", "--user", getpass.getuser(), "--noheader", "--states=all", "--format=%F", f"--name={name}"]
    )
    job_ids = answer.split()
    return job_ids[0] if job_ids else None


def largest_array() -> int:
    """The number of array tasks that this site allows in one array.

    Raises:
        SlurmUnavailable: SLURM is not installed or does not answer.

    """
    # MaxArraySize is one more than the largest index, and ours start at 0 like submitit's.
    limit = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask(["scontrol", "show", "config"]), re.MULTILINE)
    return max(1, int(limit[1]) - 1) if limit else 1000


def has_gpus(partition: str | None) -> bool:
    """True if a node of a partition has GPUs. Several have commas between; None = the default one.

    Raises:
        SlurmUnavailable: SLURM is not installed or does not answer.

    """
    return any(re.search(r"(^|,)gpu(:|,|$)", resources) for (resources,) in _nodes(partition, "%G"))


def memory_per_gpu(partition: str | None, model: str | None = None) -> float | None:
    """The memory that a node of a partition has for each of its GPUs, GB; the least of all nodes.

    None if no node of the partition has a number of such GPUs.

    Args:
        partition: as for `has_gpus`.
        model: only nodes with GPUs of this name count, such as a100; None = all.

    Raises:
        SlurmUnavailable: SLURM is not installed or does not answer.

    """
    shares = []
    for resources, mebibytes in _nodes(partition, "%G|%m"):
        found = _GPUS.findall(resources)
        number = sum(int(count) for _, count in found)
        if number and model in (None, *(name for name, _ in found)):
            shares.append(int(mebibytes) / 1024 / number)
    return min(shares, default=None)


def _nodes(partition: str | None, columns: str) -> list[list[str]]:
    """The columns of sinfo, once for all nodes of a partition that have the same in them."""
    chosen = [f"--partition={partition}"] if partition else []
    answer = _ask(["sinfo", "--noheader", "--exact", f"--format=%P|{columns}", *chosen])
    rows = [line.split("|") for line in answer.splitlines()]
    # The default partition has a star. Without one, sbatch would refuse a job of no partition.
    return [values for name, *values in rows if partition or name.endswith("*")]


def _squeue() -> dict[str, _NamedState]:
    form = "--format=%F|%K|%T|%j|%r"
    lines = _ask(["squeue", "--user", getpass.getuser(), "--noheader", "--array", "--states=all", form]).splitlines()
    jobs = {}
    for line in lines:
        job_id, index, state, name, reason = line.split("|", 4)
        task_id = f"{job_id}_{index}" if index.isdigit() else job_id  # "N/A" if the job is no array
        jobs[task_id] = (name, QueueState(state, "" if reason == "None" else reason))
    return jobs


def _sacct(job_ids: Collection[str]) -> dict[str, _NamedState]:
    form = "--format=JobID,State,JobName"
    answer = _ask(["sacct", "--noheader", "--parsable2", form, f"--jobs={','.join(sorted(job_ids))}"])
    jobs: dict[str, _NamedState] = {}
    for line in answer.splitlines():
        full_id, description, name = line.split("|", 2)
        job_id, _, step = full_id.partition(".")
        # "CANCELLED by 0" and "CANCELLED+" are CANCELLED.
        state = QueueState(description.split()[0].rstrip("+"), description)
        for task_id in _expand(job_id):
            if not step:  # A job comes before its steps.
                jobs[task_id] = (name, state)
            elif state.name == OUT_OF_MEMORY and task_id in jobs:
                jobs[task_id] = (jobs[task_id][0], state)
    return jobs


def _expand(job_id: str) -> list[str]:
    """Expand `7_[2-4,6%3]` to 7_2, 7_3, 7_4, 7_6."""
    array = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", job_id)
    if array is None:
        return [job_id]
    task_ids = []
    for part in array[2].split(","):
        first, _, last = part.partition("-")
        task_ids += [f"{array[1]}_{n}" for n in range(int(first), int(last or first) + 1)]
    return task_ids


def _ask(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_SECONDS)
    except FileNotFoundError:
        raise SlurmUnavailable(f"{command[0]} is not installed here: this is no SLURM login node") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmUnavailable(f"{command[0]}: {error}") from None
    if done.returncode:
        raise SlurmUnavailable(f"{command[0]}: {explain(done.stderr) or f'exit code {done.returncode}'}")
    return done.stdout
