"""Handing arrays over: packed, split as the site wants it, on record before SLURM is asked, and one driver at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from moleflow.claim import try_claim
from moleflow.errors import MoleflowError
from moleflow.source import code_digest
from orchestrator import disk
from orchestrator.profile import SiteProfile
from orchestrator.slurm.batch import Shape, executor, packed, script, shape
from orchestrator.slurm.jobs import JobFolder, Submission, elements
from orchestrator.slurm.queue import Queue, find_job, largest_array
from orchestrator.sweep_file import Resources
from orchestrator.work import Setup, WorkItem

if TYPE_CHECKING:
    from submitit import SlurmExecutor

WAIT_S = 1.0
UNNAMED = Submission("UID", "", (), 0, 0.0)


class Refused(MoleflowError):
    """SLURM took no job."""


@dataclass(frozen=True)
class Array:
    """Items that are submitted together: elements of items, what an element is given, and what each trial needs."""

    form: Shape
    needs: Resources
    elements: list[list[WorkItem]]


@dataclass(frozen=True)
class Submitter:
    """Submits for one sweep.

    Args:
        setup: what workers need.
        profile: the site's.
        jobs: where arrays are on record.

    """

    setup: Setup
    profile: SiteProfile
    jobs: JobFolder

    def arrays(self, items: Iterable[WorkItem]) -> list[Array]:
        """The arrays for some items, by what they need and in order.

        Raises:
            Unreachable: the profile has no largest array, and SLURM does not tell it.

        """
        by_needs: dict[str, list[WorkItem]] = {}
        for item in items:
            by_needs.setdefault(item.resources.model_dump_json(), []).append(item)
        if not by_needs:
            return []
        most = self.profile.max_array_size or largest_array()
        found = []
        for alike in by_needs.values():
            needs = alike[0].resources
            form = shape(needs, self.profile)
            found += [Array(form, needs, some) for some in packed(packed(alike, form.trials), most)]
        return found

    def scripts(self, items: Iterable[WorkItem]) -> list[str]:
        """The sbatch scripts of those arrays.

        Raises:
            MoleflowError: this is no SLURM login node.
            Unreachable: see `arrays`.

        """
        arrays = self.arrays(items)
        return [script(self._executor(UNNAMED, array.form), len(array.elements)) for array in arrays]

    def submit(self, items: Iterable[WorkItem], taken: Callable[[Submission], None]) -> list[Submission]:
        """Hand the arrays over; where only so many elements may run at once, one array comes after the other.

        Args:
            items: what to submit.
            taken: told of every array as soon as SLURM has it.

        Raises:
            Refused: SLURM took not all of them; those it took are told.
            Unreachable: see `arrays`.
            OSError: the disk is full.

        """
        made: list[Submission] = []
        for array in self.arrays(items):
            after = made[-1].job_id if made and self.profile.parallelism else None
            made.append(self._submit(array, after))
            taken(made[-1])
        return made

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While no other driver submits."""
        while (claim := try_claim(self.jobs.folder / "submitting")) is None:
            time.sleep(WAIT_S)
        with claim:
            yield

    def recover(self, queue: Queue) -> None:
        """Settle what drivers left that died between announcing an array and hearing SLURM's answer.

        Raises:
            Unreachable: SLURM does not answer.

        """
        for announced in self.jobs.all():
            if announced.job_id is not None:
                continue
            number = find_job(announced.name)
            if number is None:
                self.jobs.withdraw(announced)
                continue
            submission = self.jobs.confirm(announced, number)
            if not self.jobs.is_whole(submission):  # Its elements would look in vain for what they shall run.
                queue.cancel(list(elements([submission])))
                self.jobs.withdraw(submission)

    def _submit(self, array: Array, after: str | None) -> Submission:
        from orchestrator.slurm.element import serve

        trials = [[trial for item in element for trial in item.trials] for element in array.elements]
        ids = [[trial.id for trial in element] for element in trials]
        self._executor(UNNAMED, array.form, after)  # Refuses where there is no SLURM, before anything is written.
        announced = self.jobs.announce(self.setup.sweep, ids, array.form.time_min, array.form.mem_gb)
        fixed = (self.setup, announced.uid), (array.form.beside, array.needs, code_digest())
        repeated = [[[value] * len(trials) for value in values] for values in fixed]
        try:
            jobs = self._executor(announced, array.form, after).map_array(serve, *repeated[0], trials, *repeated[1])
        except Exception as error:  # submitit has kinds of its own, and those of whatever it calls.
            self._take_back(announced)
            if isinstance(error, OSError) and disk.takes_no_more(error):
                raise
            hint = "; fewer, larger jobs may be allowed: trials_per_job" if "limit" in str(error).lower() else ""
            raise Refused(f"SLURM took no job: {' '.join(str(error).split())}{hint}") from error
        return self.jobs.confirm(announced, jobs[0].job_id.partition("_")[0])

    def _executor(self, submission: Submission, form: Shape, after: str | None = None) -> SlurmExecutor:
        name = replace(submission, sweep=self.setup.sweep).name
        try:
            return executor(self.jobs.output(submission.uid), name, form, self.profile, self.setup.threads, after)
        except RuntimeError as error:
            raise Refused(str(error)) from None

    def _take_back(self, announced: Submission) -> None:
        """Forget an array that SLURM refused, or withdraw it if SLURM took it and only its answer was lost."""
        try:
            number = find_job(announced.name)
            if number is not None:
                Queue().cancel(list(elements([self.jobs.confirm(announced, number)])))
        except Exception:
            return
        self.jobs.withdraw(announced)
