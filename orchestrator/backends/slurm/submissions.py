"""The job arrays of a sweep on record: one small file each, written before SLURM is asked, so that any driver knows them."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from orchestrator.records.attempts import write_json


@dataclass(frozen=True)
class Submission:
    """One job array.

    Attributes:
        uid: names the record.
        sweep: the sweep's name.
        elements: the trials of each element, by id.
        time_min, mem_gb: what an element was given, for messages that say what to raise.
        job_id: SLURM's number; None until SLURM has answered.
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

    def element_ids(self) -> list[str]:
        """SLURM's names of the elements: `7_0`, `7_1`, or `7` where there is one alone."""
        if len(self.elements) == 1:
            return [str(self.job_id)]
        return [f"{self.job_id}_{n}" for n in range(len(self.elements))]


@dataclass(frozen=True)
class Element:
    """One element of an array on record."""

    id: str
    trial_ids: tuple[str, ...]
    submission: Submission

    @property
    def job(self) -> str:
        """What attempt records call it."""
        return job_name(self.id, self.submission.uid)


@dataclass(frozen=True)
class JobFolder:
    """The records of a sweep, `<folder>/<uid>.json`, beside what submitit writes."""

    folder: Path

    def output(self, uid: str) -> Path:
        """Where submitit keeps the script and the output of an array."""
        return self.folder / uid

    def announce(self, submission: Submission) -> Submission:
        """Record an array that is about to be submitted.

        Raises:
            OSError: the folder cannot be written.

        """
        return self._write(submission)

    def confirm(self, submission: Submission, job_id: str) -> Submission:
        """Record the number that SLURM gave.

        Raises:
            OSError: the folder cannot be written.

        """
        return self._write(replace(submission, job_id=job_id))

    def is_whole(self, submission: Submission) -> bool:
        """Whether submitit has put everything where the elements of an array look for it."""
        output = self.output(submission.uid)
        return all((output / f"{element_id}_submitted.pkl").exists() for element_id in submission.element_ids())

    def withdraw(self, submission: Submission) -> None:
        """Take an announced array back, with what was prepared for it: SLURM refused it."""
        self._path(submission.uid).unlink(missing_ok=True)
        shutil.rmtree(self.output(submission.uid), ignore_errors=True)

    def all(self) -> list[Submission]:
        """Every array on record, oldest first."""
        found = []
        for path in self.folder.glob("*.json"):
            try:
                content = json.loads(path.read_text())
                content["elements"] = tuple(tuple(ids) for ids in content["elements"])
                found.append(Submission(**content))
            except (OSError, ValueError, KeyError, TypeError):
                continue  # Cut off while it was written: SLURM was not asked yet.
        return sorted(found, key=lambda submission: submission.submitted_at)

    def _write(self, submission: Submission) -> Submission:
        write_json(self._path(submission.uid), asdict(submission))
        return submission

    def _path(self, uid: str) -> Path:
        return self.folder / f"{uid}.json"


def new_submission(sweep: str, elements: Sequence[Sequence[str]], time_min: int, mem_gb: float) -> Submission:
    """An array of elements of trial ids, under a name that no other has; nothing is on record yet."""
    return Submission(uuid.uuid4().hex[:12], sweep, tuple(tuple(ids) for ids in elements), time_min, mem_gb)


def job_name(element_id: str, uid: str) -> str:
    """An element as attempt records name it: SLURM's number alone comes again when a cluster is set up anew."""
    return f"{element_id}@{uid}"


def elements(submissions: Sequence[Submission]) -> Iterator[Element]:
    """The elements of arrays that SLURM has taken."""
    for submission in submissions:
        if submission.job_id is not None:
            for element_id, trial_ids in zip(submission.element_ids(), submission.elements, strict=True):
                yield Element(element_id, trial_ids, submission)


def job_folder(sweep_folder: Path) -> JobFolder:
    """The records of the sweep in `sweep_folder`."""
    return JobFolder(sweep_folder / "slurm")
