"""Submit job arrays: packed, split as the site requires, recorded before sbatch is called.

One driver submits at a time.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from moleflow.code_digest import code_digest
from moleflow.errors import MoleflowError, counted
from orchestrator.backends.slurm.job_array import ArrayShape, array_shape, batched, sbatch_script, submitit_executor
from orchestrator.backends.slurm.queue import Queue, find_job, largest_array
from orchestrator.backends.slurm.site_profile import SiteProfile
from orchestrator.backends.slurm.slurm_errors import explain
from orchestrator.backends.slurm.submissions import JobFolder, Submission, array_tasks, new_submission
from orchestrator.backends.slurm.submit_environment import outside_of_jobs
from orchestrator.backends.slurm.submit_order import depths, leaders_first
from orchestrator.execution.backend import WorkerConfig, WorkItem
from orchestrator.host import disk
from orchestrator.sweep.file_schema import Resources

if TYPE_CHECKING:
    from submitit import SlurmExecutor


class SubmissionRejected(MoleflowError):
    """SLURM accepted no job."""


@contextmanager
def rejections(undo: Callable[[], None], hint: str = "") -> Iterator[None]:
    """Call sbatch within the block, outside of any job. An error becomes `SubmissionRejected`.

    `undo` is called first. A full disk stays an OSError.

    Args:
        undo: removes what was prepared.
        hint: appended if SLURM's message names a limit.

    """
    try:
        with outside_of_jobs(), redirect_stderr(io.StringIO()):  # submitit prints what it also raises.
            yield
    except Exception as error:  # submitit raises its own exceptions and those of all that it calls.
        undo()
        if isinstance(error, OSError) and disk.takes_no_more(error):
            raise
        more = hint if "limit" in str(error).lower() else ""
        raise SubmissionRejected(f"SLURM took no job: {explain(str(error))}{more}") from error


@dataclass(frozen=True)
class Array:
    """Items that are submitted in one job array.

    Attributes:
        shape: the resources of an array task.
        needs: the resources of a trial.
        tasks: the items of each array task.
        depth: the number of arrays that it waits for, one after another.
        after: ids of earlier jobs that it waits for.

    """

    shape: ArrayShape
    needs: Resources
    tasks: list[list[WorkItem]]
    depth: int = 0
    after: tuple[str, ...] = ()


def _so_far(made: Sequence[Submission], arrays: Sequence[Array]) -> str:
    """The arrays that SLURM has and those that it lacks, for the message of a rejection."""
    if len(arrays) == 1:
        return ""
    left = arrays[len(made) :]
    missing = (
        f"{counted(sum(len(task) for array in left for task in array.tasks), 'trial')} in {counted(len(left), 'array')}"
    )
    if not made:
        return f"; not submitted: {missing}"
    taken = counted(sum(len(ids) for one in made for ids in one.elements), "trial")
    jobs = ", ".join(str(one.job_id) for one in made)
    return f"; submitted before that, and going on: {taken} as SLURM job {jobs}; not submitted: {missing}"


@dataclass(frozen=True)
class Submitter:
    """Submits the items of one sweep.

    Args:
        setup: what the workers need.
        profile: the site's profile.
        jobs: the records of the sweep's arrays.

    """

    setup: WorkerConfig
    profile: SiteProfile
    jobs: JobFolder

    def arrays(self, items: Sequence[WorkItem], running: Mapping[str, str] | None = None) -> list[Array]:
        """The arrays for some items: one for each set of resources, as large as the site allows.

        With `stages: dependencies`, items of different depth are in different arrays, too.

        Args:
            items: the items to submit.
            running: {trial id: job id} of trials in earlier jobs that have not ended. With
                `stages: dependencies`, the trials that follow them wait for those jobs.

        Raises:
            SlurmUnavailable: the profile sets no `max_array_size`, and SLURM does not answer.

        """
        if not items:
            return []
        jobs = running or {}
        depend = self.profile.stages == "dependencies"
        alike: dict[tuple[int, tuple[str, ...], str], list[WorkItem]] = {}
        for item, depth in zip(items, depths(items) if depend else [0] * len(items), strict=True):
            after = tuple(jobs[leader] for leader in item.after if leader in jobs) if depend else ()
            alike.setdefault((depth, after, item.resources.model_dump_json()), []).append(item)
        most = self.profile.max_array_size or largest_array()
        arrays = []
        for (depth, after, _), some in sorted(alike.items(), key=lambda entry: entry[0][0]):
            needs = some[0].resources
            shape = array_shape(needs, self.profile)
            tasks = batched(leaders_first(some, shape.trials), shape.trials)
            arrays += [Array(shape, needs, part, depth, after) for part in batched(tasks, most)]
        return arrays

    def scripts(self, items: Sequence[WorkItem]) -> list[str]:
        """The sbatch scripts of those arrays; nothing is written.

        Raises:
            InvalidInput: as `sbatch_script`.
            SlurmUnavailable: as `arrays`.

        """
        unnamed = Submission("UID", self.setup.sweep, (), 0, 0.0)
        folder, threads = self.jobs.output(unnamed.uid), self.setup.threads
        return [
            sbatch_script(folder, unnamed.name, array.shape, self.profile, threads, tasks=len(array.tasks))
            for array in self.arrays(items)
        ]

    def submit(
        self,
        items: Sequence[WorkItem],
        on_submitted: Callable[[Submission], None],
        running: Mapping[str, str] | None = None,
    ) -> list[Submission]:
        """Submit the arrays in order.

        An array waits for the arrays one depth above it. With `parallelism` set, it also waits for
        the one before it, since SLURM limits the tasks of each array only.

        Args:
            items: the items to submit.
            on_submitted: called with each array as soon as SLURM has accepted it.
            running: see `arrays`.

        Raises:
            SubmissionRejected: SLURM rejected an array; `on_submitted` got those before it.
            SlurmUnavailable: see `arrays`.
            OSError: the disk is full.

        """
        made: list[tuple[int, Submission]] = []
        arrays = self.arrays(items, running)
        for array in arrays:
            after: list[str | None] = [*array.after]
            after += [before.job_id for depth, before in made if depth == array.depth - 1]
            if made and self.profile.parallelism:
                after.append(made[-1][1].job_id)
            try:
                submission = self._submit(array, [job for job in dict.fromkeys(after) if job is not None])
            except SubmissionRejected as error:
                raise SubmissionRejected(f"{error}{_so_far([one for _, one in made], arrays)}") from error
            made.append((array.depth, submission))
            on_submitted(submission)
        return [submission for _, submission in made]

    def recover(self, queue: Queue) -> None:
        """Complete or remove the records of drivers that died while they called sbatch.

        Raises:
            SlurmUnavailable: SLURM does not answer.

        """
        for unconfirmed in self.jobs.all():
            if unconfirmed.job_id is not None:
                continue
            # Job names are unique, so the name tells whether SLURM has received the array.
            job_id = find_job(unconfirmed.name)
            if job_id is None:
                self.jobs.remove(unconfirmed)
                continue
            submission = self.jobs.set_job_id(unconfirmed, job_id)
            if not self.jobs.has_all_pickles(submission):  # Some array tasks would not find their trials.
                queue.cancel(list(array_tasks([submission])))
                self.jobs.remove(submission)

    def _submit(self, array: Array, after: Sequence[str]) -> Submission:
        from orchestrator.backends.slurm.array_worker import run_array_task

        trials = [[item.trial for item in task] for task in array.tasks]
        ids = [[trial.id for trial in task] for task in trials]
        new = new_submission(self.setup.sweep, ids, array.shape.time_min, array.shape.mem_gb)
        executor = self._executor(new, array.shape, after)  # Fails without SLURM, before anything is written.
        # The record exists before sbatch is called: a driver that dies in between loses no job.
        self.jobs.add(new)
        run = partial(
            run_array_task, self.setup, new.uid, parallel=array.shape.parallel, needs=array.needs, code=code_digest()
        )
        with rejections(lambda: self._undo(new), "; fewer, larger jobs may be allowed: trials_per_job"):
            jobs = executor.map_array(run, trials)
        return self.jobs.set_job_id(new, jobs[0].job_id.partition("_")[0])

    def _executor(self, submission: Submission, shape: ArrayShape, after: Sequence[str] = ()) -> SlurmExecutor:
        output, threads = self.jobs.output(submission.uid), self.setup.threads
        try:
            return submitit_executor(output, submission.name, shape, self.profile, threads, after)
        except RuntimeError as error:
            raise SubmissionRejected(str(error)) from None

    def _undo(self, unconfirmed: Submission) -> None:
        """Remove the record of an array that failed; cancel it if only SLURM's answer was lost."""
        try:
            job_id = find_job(unconfirmed.name)
            if job_id is not None:
                Queue().cancel(list(array_tasks([self.jobs.set_job_id(unconfirmed, job_id)])))
        except Exception:
            return  # The record stays without a job id, and the next start recovers it.
        self.jobs.remove(unconfirmed)
