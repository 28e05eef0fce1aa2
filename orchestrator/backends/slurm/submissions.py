"""The records of a sweep's job arrays: one small file each, written before sbatch is called.

Any driver finds the jobs of an earlier one in them.
"""

from __future__ import annotations

import json
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from moleflow.passing_errors import read
from orchestrator.records.attempts import write_json
from orchestrator.records.stored_values import is_text, is_time

_JOB_ID = re.compile(r"\d+", re.ASCII)
_UID = re.compile(r"[\w-]+", re.ASCII)
_SWEEP = re.compile(r"[^\s,]+")  # A comma would make two names of it.


@dataclass(frozen=True)
class Submission:
    """A job array.

    Its fields are the keys of the stored record, where an array task is called an element.

    Attributes:
        uid: the name of the record.
        sweep: the sweep's name.
        elements: the trial ids of each array task.
        time_min, mem_gb: time limit in minutes and memory in GB of an array task, for messages.
        job_id: SLURM's job id; None until SLURM has answered.
        submitted_at: seconds since 1970.

    """

    uid: str
    sweep: str
    elements: tuple[tuple[str, ...], ...]
    time_min: int
    mem_gb: float
    job_id: str | None = None
    submitted_at: float = field(default_factory=time.time)

    @property
    def name(self) -> str:
        """The name of the job in SLURM."""
        return f"moleflow-{self.sweep}-{self.uid}"

    def is_well_formed(self) -> bool:
        """True if its values may enter SLURM's commands; others may have written the record."""
        texts = [self.uid, self.sweep, *(trial_id for ids in self.elements for trial_id in ids)]
        job_id = "0" if self.job_id is None else self.job_id
        return (
            all(map(is_text, [*texts, job_id]))
            and all(map(is_time, (self.time_min, self.mem_gb, self.submitted_at)))
            and _UID.fullmatch(self.uid) is not None
            and _SWEEP.fullmatch(self.sweep) is not None
            and _JOB_ID.fullmatch(job_id) is not None
        )

    def task_ids(self) -> list[str]:
        """SLURM's ids of the array tasks: `7_0`, `7_1`; a single one is no array: `7`."""
        if len(self.elements) == 1:
            return [str(self.job_id)]
        return [f"{self.job_id}_{n}" for n in range(len(self.elements))]


@dataclass(frozen=True)
class ArrayTask:
    """An array task of a submission that SLURM has accepted.

    Attributes:
        id: SLURM's id, such as `7_0`.
        trial_ids: the trials that it runs.
        submission: its array.

    """

    id: str
    trial_ids: tuple[str, ...]
    submission: Submission

    @property
    def job(self) -> str:
        """The job's name in attempt records."""
        return job_name(self.id, self.submission.uid)


@dataclass(frozen=True)
class JobFolder:
    """The submissions of a sweep, `<folder>/<uid>.json`, next to the files of submitit."""

    folder: Path

    def output(self, uid: str) -> Path:
        """The folder in which submitit keeps the script and the output of an array."""
        return self.folder / uid

    def add(self, submission: Submission) -> Submission:
        """Record an array before sbatch is called.

        Raises:
            OSError: the folder cannot be written.

        """
        write_json(self._path(submission.uid), asdict(submission))
        return submission

    def set_job_id(self, submission: Submission, job_id: str) -> Submission:
        """Record the job id that SLURM gave to an array.

        Raises:
            OSError: the folder cannot be written.

        """
        return self.add(replace(submission, job_id=job_id))

    def has_all_pickles(self, submission: Submission) -> bool:
        """True if submitit has written the pickle of every array task."""
        output = self.output(submission.uid)
        return all((output / f"{task_id}_submitted.pkl").exists() for task_id in submission.task_ids())

    def remove(self, submission: Submission) -> None:
        """Remove the record and the files of an array that SLURM did not accept."""
        self._path(submission.uid).unlink(missing_ok=True)
        shutil.rmtree(self.output(submission.uid), ignore_errors=True)

    def all(self) -> list[Submission]:
        """Every submission, oldest first."""
        submissions = []
        for path in self.folder.glob("*.json"):
            try:
                content = json.loads(read(path))
                content["elements"] = tuple(tuple(ids) for ids in content["elements"])
                submission = Submission(**content)
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                continue  # The driver died while it wrote the record, that is, before it called sbatch.
            if submission.uid == path.stem and submission.is_well_formed():
                submissions.append(submission)
        return sorted(submissions, key=lambda submission: submission.submitted_at)

    def _path(self, uid: str) -> Path:
        return self.folder / f"{uid}.json"


def new_submission(sweep: str, trial_ids: Sequence[Sequence[str]], time_min: int, mem_gb: float) -> Submission:
    """A submission with a unique name; `trial_ids` of each array task. Nothing is recorded yet."""
    return Submission(uuid.uuid4().hex[:12], sweep, tuple(tuple(ids) for ids in trial_ids), time_min, mem_gb)


def job_name(task_id: str, uid: str) -> str:
    """The name of an array task in attempt records, such as `7_0@0123456789ab`.

    SLURM's id alone is not unique: ids start again when a cluster is set up anew.
    """
    return f"{task_id}@{uid}"


def array_tasks(submissions: Sequence[Submission]) -> Iterator[ArrayTask]:
    """The array tasks of the submissions that SLURM has accepted."""
    for submission in submissions:
        if submission.job_id is not None:
            for task_id, trial_ids in zip(submission.task_ids(), submission.elements, strict=True):
                yield ArrayTask(task_id, trial_ids, submission)


def job_folder(sweep_folder: Path) -> JobFolder:
    """The submissions of the sweep in `sweep_folder`."""
    return JobFolder(sweep_folder / "slurm")
