"""Handing arrays over: packed, split as the site wants it, on record before SLURM is asked, and one driver at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from moleflow.cache.claim import exclusive
from moleflow.code_digest import code_digest
from moleflow.errors import MoleflowError
from orchestrator.backends.slurm.job_array import ArrayShape, array_shape, pack_trials, sbatch_script, submitit_executor
from orchestrator.backends.slurm.queue import Queue, find_job, largest_array
from orchestrator.backends.slurm.site_profile import SiteProfile
from orchestrator.backends.slurm.submissions import JobFolder, Submission, elements, new_submission
from orchestrator.backends.slurm.submit_order import depths, leaders_first
from orchestrator.execution.backend import WorkerConfig, WorkItem
from orchestrator.host import disk
from orchestrator.sweep.file_schema import Resources

if TYPE_CHECKING:
    from submitit import SlurmExecutor

WAIT_S = 1.0
NOWHERE: Mapping[str, str] = MappingProxyType({})


class SubmissionRejected(MoleflowError):
    """SLURM took no job."""


@contextmanager
def refusals(take_back: Callable[[], None], hint: str = "") -> Iterator[None]:
    """Turn whatever submitit raises into `Refused`, after `take_back`; a full disk stays one.

    Args:
        take_back: undoes what was prepared.
        hint: what may help where SLURM names a limit.

    """
    try:
        yield
    except Exception as error:  # submitit has kinds of its own, and those of whatever it calls.
        take_back()
        if isinstance(error, OSError) and disk.takes_no_more(error):
            raise
        more = hint if "limit" in str(error).lower() else ""
        raise SubmissionRejected(f"SLURM took no job: {' '.join(str(error).split())}{more}") from error


@dataclass(frozen=True)
class Array:
    """Items that are submitted together.

    Attributes:
        form: what an element is given.
        needs: what a trial needs.
        elements: the items of each.
        depth: how deep in the tree.
        ahead: numbers of earlier jobs that some of the leaders are in.

    """

    form: ArrayShape
    needs: Resources
    elements: list[list[WorkItem]]
    depth: int = 0
    ahead: tuple[str, ...] = ()


@dataclass(frozen=True)
class Submitter:
    """Submits for one sweep.

    Args:
        setup: what workers need.
        profile: the site's.
        jobs: where arrays are on record.

    """

    setup: WorkerConfig
    profile: SiteProfile
    jobs: JobFolder

    def arrays(self, items: Iterable[WorkItem], standing: Mapping[str, str] = NOWHERE) -> list[Array]:
        """The arrays for some items, by what they need; where jobs depend on each other, also by how many items lead them.

        Args:
            items: what to submit.
            standing: the job's number, by id, of trials that are in earlier jobs which are not over; who follows them waits for those.

        Raises:
            Unreachable: the profile has no largest array, and SLURM does not tell it.

        """
        given = list(items)
        if not given:
            return []
        depend = self.profile.stages == "dependencies"
        by_needs: dict[tuple[int, tuple[str, ...], str], list[WorkItem]] = {}
        for item, depth in zip(given, depths(given) if depend else [0] * len(given), strict=True):
            ahead = tuple(standing[leader] for leader in item.after if leader in standing) if depend else ()
            by_needs.setdefault((depth, ahead, item.resources.model_dump_json()), []).append(item)
        most = self.profile.max_array_size or largest_array()
        found = []
        for (depth, ahead, _), alike in sorted(by_needs.items(), key=lambda entry: entry[0][0]):
            needs = alike[0].resources
            form = array_shape(needs, self.profile)
            ordered = leaders_first(alike, form.trials)
            found += [
                Array(form, needs, some, depth, ahead) for some in pack_trials(pack_trials(ordered, form.trials), most)
            ]
        return found

    def scripts(self, items: Iterable[WorkItem]) -> list[str]:
        """The sbatch scripts of those arrays.

        Raises:
            MoleflowError: this is no SLURM login node.
            Unreachable: see `arrays`.

        """
        unnamed = Submission("UID", self.setup.sweep, (), 0, 0.0)
        arrays = self.arrays(items)
        return [sbatch_script(self._executor(unnamed, array.form), len(array.elements)) for array in arrays]

    def submit(
        self, items: Iterable[WorkItem], taken: Callable[[Submission], None], standing: Mapping[str, str] = NOWHERE
    ) -> list[Submission]:
        """Hand the arrays over; one array comes after its leaders, or where `parallelism` is limited after the one before.

        Args:
            items: what to submit.
            taken: told of every array as soon as SLURM has it.
            standing: see `arrays`.

        Raises:
            Refused: SLURM took not all of them; those it took are told.
            Unreachable: see `arrays`.
            OSError: the disk is full.

        """
        made: list[tuple[int, Submission]] = []
        for array in self.arrays(items, standing):
            ahead: list[str | None] = [*array.ahead]
            ahead += [before.job_id for depth, before in made if depth == array.depth - 1]
            if made and self.profile.parallelism:
                ahead.append(made[-1][1].job_id)
            made.append((array.depth, self._submit(array, [job for job in dict.fromkeys(ahead) if job is not None])))
            taken(made[-1][1])
        return [submission for _, submission in made]

    def alone(self) -> AbstractContextManager[None]:
        """While no other driver submits."""
        return exclusive(self.jobs.folder / "submitting", WAIT_S)

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

    def _submit(self, array: Array, after: Sequence[str]) -> Submission:
        from orchestrator.backends.slurm.array_worker import run_array_element

        trials = [[trial for item in element for trial in item.trials] for element in array.elements]
        ids = [[trial.id for trial in element] for element in trials]
        new = new_submission(self.setup.sweep, ids, array.form.time_min, array.form.mem_gb)
        made = self._executor(new, array.form, after)  # Refuses where there is no SLURM, before anything is written.
        announced = self.jobs.announce(new)
        fixed = (self.setup, announced.uid), (array.form.beside, array.needs, code_digest())
        repeated = [[[value] * len(trials) for value in values] for values in fixed]
        with refusals(lambda: self._take_back(announced), "; fewer, larger jobs may be allowed: trials_per_job"):
            jobs = made.map_array(run_array_element, *repeated[0], trials, *repeated[1])
        return self.jobs.confirm(announced, jobs[0].job_id.partition("_")[0])

    def _executor(self, submission: Submission, form: ArrayShape, after: Sequence[str] = ()) -> SlurmExecutor:
        output, threads = self.jobs.output(submission.uid), self.setup.threads
        try:
            return submitit_executor(output, submission.name, form, self.profile, threads, after)
        except RuntimeError as error:
            raise SubmissionRejected(str(error)) from None

    def _take_back(self, announced: Submission) -> None:
        """Forget an array that SLURM refused, or withdraw it if SLURM took it and only its answer was lost."""
        try:
            number = find_job(announced.name)
            if number is not None:
                Queue().cancel(list(elements([self.jobs.confirm(announced, number)])))
        except Exception:
            return  # It stays on record as announced, and the next start settles it.
        self.jobs.withdraw(announced)
