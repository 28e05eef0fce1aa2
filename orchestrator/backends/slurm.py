"""A SLURM cluster, through submitit: job arrays that go on without the driver, which submits, watches and can be closed at any time.

The truth about a trial is what its worker wrote: its part and its attempt record. SLURM's word only says whether to go on waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from moleflow.claim import try_claim
from moleflow.errors import MoleflowError
from moleflow.source import code_digest
from orchestrator import disk
from orchestrator.attempts import FAILED, FINISHED, RUNNING, AttemptFolder, Record
from orchestrator.event_log import Follower, event_logs
from orchestrator.events import ENDS, Event, Events
from orchestrator.profile import SiteProfile
from orchestrator.results.store import ResultStore
from orchestrator.slurm.batch import Shape, executor, packed, script, shape
from orchestrator.slurm.endings import Endings
from orchestrator.slurm.jobs import Element, Submission, elements, job_folder
from orchestrator.slurm.queue import Queue, State, Unreachable, find_job, largest_array
from orchestrator.sweep_file import Resources
from orchestrator.work import Setup, Source, WorkItem, run_loop

if TYPE_CHECKING:
    from submitit import SlurmExecutor

LOOK_EVERY_S = 1.0
ASK_EVERY_S, ASK_AT_LEAST_EVERY_S = 2.0, 15.0


class SlurmBackend:
    """Job arrays on a cluster.

    Args:
        setup: what workers need; its folders must be seen by the compute nodes under the same paths.
        profile: the site's.

    """

    def __init__(self, setup: Setup, profile: SiteProfile) -> None:
        self._setup, self._profile = setup, profile

    def run(self, source: Source, events: Events) -> None:
        """Submit what no job has yet, and follow all of it until the source is done.

        Raises:
            MoleflowError: SLURM refuses the jobs or is not there.

        """
        run_loop(_SlurmEngine(self._setup, self._profile), source, events)

    def submit(self, source: Source) -> list[Submission]:
        """Submit what no job has yet, and leave it to SLURM.

        Raises:
            MoleflowError: SLURM refuses the jobs or is not there.

        """
        engine = _SlurmEngine(self._setup, self._profile)
        while isinstance(item := source.next(), WorkItem):
            engine.submit(item)
        try:
            return engine.flush()
        except Unreachable as error:
            raise MoleflowError(str(error)) from None

    def scripts(self, source: Source) -> list[str]:
        """The sbatch scripts that `submit` would hand over; nothing is written."""
        engine = _SlurmEngine(self._setup, self._profile)
        while isinstance(item := source.next(), WorkItem):
            engine.submit(item)
        return engine.scripts()


@dataclass
class _Open:
    """An element that somebody waits for: the trials still open in it, and the last word on it with when it was first heard."""

    element: Element
    trial_ids: set[str]
    state: State | None = None


@dataclass
class _Asking:
    """When to ask SLURM again: soon after something changed, ever more seldom while nothing does."""

    clock: Callable[[], float]
    due: float = 0.0
    _pause: float = ASK_EVERY_S

    def asked(self, changed: bool) -> None:
        self._pause = ASK_EVERY_S if changed else min(1.5 * self._pause, ASK_AT_LEAST_EVERY_S)
        self.due = self.clock() + self._pause

    def hurry(self) -> None:
        self._pause = ASK_EVERY_S
        self.due = min(self.due, self.clock() + self._pause)


class _SlurmEngine:
    def __init__(self, setup: Setup, profile: SiteProfile) -> None:
        self._setup, self._profile = setup, profile
        self._jobs = job_folder(setup.folder)
        self._queue = Queue(profile.accounting)
        self._records = AttemptFolder(setup.folder / "attempts")
        self._store = ResultStore(setup.folder)
        self._endings = Endings(self._records, self._store, self._jobs)
        self._follower = Follower(event_logs(setup.folder))
        self._follower.look("slurm-*")  # What was told before is in the records.
        self._waiting: dict[str, WorkItem] = {}
        self._held: dict[str, WorkItem] = {}
        self._open: dict[str, _Open] = {}
        self._where: dict[str, str] = {}
        self._asking = _Asking(time.monotonic)

    def free(self) -> int:
        return 1  # SLURM takes everything; arrays are made at the next poll.

    def submit(self, item: WorkItem) -> None:
        for trial in item.trials:
            self._waiting[trial.id] = replace(item, trials=(trial,))

    def poll(self, seconds: float) -> list[Event]:
        with suppress(Unreachable):  # The controller may be down for a while; what waits goes on waiting.
            self.flush()
        time.sleep(max(seconds, LOOK_EVERY_S))
        found = [entry.event for entry in self._follower.look("slurm-*")]
        found = [event for event in found if event.trial_id in self._where or event.kind == "fatal"]
        # An interrupted job may be on its way back into the queue, or cancelled: SLURM has the next word on it.
        found = [event for event in found if event.kind != "interrupted"]
        if found:
            self._asking.hurry()
        if time.monotonic() >= self._asking.due:
            found += self._ask()
        for event in found:
            if event.kind in ENDS:
                self._forget(event.trial_id)
        return found

    def withdraw(self) -> list[Event]:
        taken = [*self._waiting, *self._held]
        queued = {name: place for name, place in self._open.items() if place.state and place.state.phase == "queued"}
        with suppress(Unreachable):
            self._queue.cancel(queued, waiting_only=True)
            taken += [trial_id for place in queued.values() for trial_id in place.trial_ids]
        for trial_id in taken:
            self._forget(trial_id)
        return [Event("withdrawn", trial_id) for trial_id in taken]

    def close(self) -> None:
        """Jobs go on without a driver."""

    def flush(self) -> list[Submission]:
        """Submit what waits, in arrays as large as the site allows: one driver at a time, and no trial that has a job.

        Raises:
            Unreachable: SLURM does not answer.
            MoleflowError: it refuses the jobs.

        """
        if not self._waiting:
            return []
        made: list[Submission] = []
        with self._alone():
            self._take_up()
            for form, needs, arrays in self._arrays():
                before = None
                for array in arrays:
                    before = self._submit(form, needs, array, before if self._profile.parallelism else None)
                    made.append(before)
        self._asking.hurry()
        return made

    def scripts(self) -> list[str]:
        """The scripts of the arrays that would be submitted."""
        return [
            script(self._executor("UID", form), len(array)) for form, _, arrays in self._arrays() for array in arrays
        ]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        while (claim := try_claim(self._jobs.folder / "submitting")) is None:
            time.sleep(LOOK_EVERY_S)
        with claim:
            yield

    def _take_up(self) -> None:
        """Follow the jobs that are there already, whoever submitted them, and set aside what somebody else is at."""
        latest = {record.trial_id: record for record in self._records.all()}
        for element, state in self._known().items():
            for trial_id in element.trial_ids:
                last = latest.get(trial_id)
                ours = last is not None and last.content.get("job") == element.id
                if state.phase == "over":
                    if ours and last is not None and last.content["state"] == RUNNING:
                        self._endings.of(trial_id, element, state)
                elif trial_id in self._waiting and not (ours and last is not None and last.state in (FINISHED, FAILED)):
                    del self._waiting[trial_id]
                    self._follow(element, trial_id, state)
        for trial_id in [name for name in self._waiting if _elsewhere(latest.get(name))]:
            self._held[trial_id] = self._waiting.pop(trial_id)

    def _known(self) -> dict[Element, State]:
        """The elements on record that may still matter, with SLURM's word on each."""
        finished = self._store.finished()
        for submission in self._jobs.all():
            if submission.job_id is None:  # Its driver died between announcing it and hearing SLURM's answer.
                number = find_job(self._name(submission.uid))
                if number is None:
                    self._jobs.withdraw(submission)
                else:
                    self._jobs.confirm(submission, number)
        found = {
            element.id: element
            for element in elements(self._jobs.all())
            if any(trial_id not in finished for trial_id in element.trial_ids)
        }
        return {found[element_id]: state for element_id, state in self._queue.states(found).items()}

    def _arrays(self) -> list[tuple[Shape, Resources, list[list[list[WorkItem]]]]]:
        """What waits, by what it needs: arrays of elements of items."""
        by_needs: dict[str, list[WorkItem]] = {}
        for item in self._waiting.values():
            by_needs.setdefault(item.resources.model_dump_json(), []).append(item)
        if not by_needs:
            return []
        most = self._profile.max_array_size or largest_array()
        found = []
        for items in by_needs.values():
            form = shape(items[0].resources, self._profile)
            found.append((form, items[0].resources, packed(packed(items, form.trials), most)))
        return found

    def _submit(
        self, form: Shape, needs: Resources, array: list[list[WorkItem]], after: Submission | None
    ) -> Submission:
        """Hand one array over; where only so many may run at once, arrays come one after another."""
        from orchestrator.slurm.element import serve

        trials = [[trial for item in element for trial in item.trials] for element in array]
        ids = [[trial.id for trial in element] for element in trials]
        announced = self._jobs.announce(ids, form.time_min, form.mem_gb)
        submitter = self._executor(announced.uid, form, after.job_id if after else None)
        count = len(trials)
        try:
            jobs = submitter.map_array(
                serve, [self._setup] * count, trials, [form.beside] * count, [needs] * count, [code_digest()] * count
            )
        except Exception as error:  # submitit has kinds of its own, and those of whatever it calls.
            self._jobs.withdraw(announced)
            if isinstance(error, OSError) and disk.takes_no_more(error):
                raise
            raise MoleflowError(f"SLURM took no job: {' '.join(str(error).split())}") from error
        submission = self._jobs.confirm(announced, jobs[0].job_id.partition("_")[0])
        for element in elements([submission]):
            for trial_id in element.trial_ids:
                del self._waiting[trial_id]
                self._follow(element, trial_id)
        return submission

    def _ask(self) -> list[Event]:
        """Ask SLURM about every element that is open; one that is over twice in a row has ended.

        Once is not enough: SLURM shows the end of a job for a moment before it puts it back into the queue.
        """
        found = [Event("held", trial_id) for trial_id in self._held if not self._somebody_is_at(trial_id)]
        try:
            states = self._queue.states(self._open)
        except Unreachable:
            self._asking.asked(changed=False)
            return found
        changed = False
        for element_id, place in self._open.items():
            state = states[element_id]
            changed = changed or state != place.state
            if state.phase == "over" and place.state == state:
                found += [self._endings.of(trial_id, place.element, state) for trial_id in sorted(place.trial_ids)]
            place.state = state
        self._asking.asked(changed)
        return found

    def _somebody_is_at(self, trial_id: str) -> bool:
        attempts = self._records.of_trial(trial_id)
        return bool(attempts) and _elsewhere(attempts[-1])

    def _follow(self, element: Element, trial_id: str, state: State | None = None) -> None:
        self._open.setdefault(element.id, _Open(element, set(), state)).trial_ids.add(trial_id)
        self._where[trial_id] = element.id

    def _forget(self, trial_id: str) -> None:
        self._waiting.pop(trial_id, None)
        self._held.pop(trial_id, None)
        element_id = self._where.pop(trial_id, None)
        if element_id is not None:
            self._open[element_id].trial_ids.discard(trial_id)
            if not self._open[element_id].trial_ids:
                del self._open[element_id]

    def _executor(self, uid: str, form: Shape, after: str | None = None) -> SlurmExecutor:
        return executor(self._jobs.output(uid), self._name(uid), form, self._profile, self._setup.threads, after)

    def _name(self, uid: str) -> str:
        return f"moleflow-{self._setup.sweep}-{uid}"


def _elsewhere(record: Record | None) -> bool:
    """Whether a process outside SLURM is at the trial: a worker on this or another machine."""
    return record is not None and record.state == RUNNING and not record.content.get("job")
