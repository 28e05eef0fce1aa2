"""A SLURM cluster, through submitit: job arrays that go on without the driver, which submits, watches and can be closed at any time.

The truth about a trial is what its worker wrote: its part and its attempt record. SLURM's word only says whether to go on waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from moleflow.code_digest import code_digest
from moleflow.errors import MoleflowError
from orchestrator.backends.slurm.outcomes import JobOutcomes, in_job
from orchestrator.backends.slurm.queue import UNHEARD, Queue, QueueState, SlurmUnavailable
from orchestrator.backends.slurm.site_profile import SiteProfile
from orchestrator.backends.slurm.submissions import Element, Submission, elements, job_folder
from orchestrator.backends.slurm.submitter import SubmissionRejected, Submitter
from orchestrator.execution.backend import TrialSupply, WorkerConfig, WorkItem, run_loop
from orchestrator.records.attempts import CANCELLED, DIED, ENDED, RUNNING, AttemptFolder, AttemptRecord
from orchestrator.records.dead_attempts import UNSEEN, record_dead_attempts
from orchestrator.records.event_log import LogFollower, event_logs
from orchestrator.records.events import ENDS, Event, Events
from orchestrator.results.store import ResultStore

LOOK_EVERY_S = 1.0
ASK_EVERY_S, ASK_AT_LEAST_EVERY_S = 2.0, 15.0
AGAIN_S = 60.0


class SlurmBackend:
    """Job arrays on a cluster.

    Args:
        setup: what workers need; its folders must be seen by the compute nodes under the same paths.
        profile: the site's.

    """

    def __init__(self, setup: WorkerConfig, profile: SiteProfile) -> None:
        self._setup, self._profile = setup, profile

    def run(self, source: TrialSupply, events: Events) -> None:
        """Submit what no job has yet, and follow all of it until the source is done.

        Raises:
            MoleflowError: SLURM refuses the jobs or is not there.

        """
        run_loop(_SlurmEngine(self._setup, self._profile), source, events)

    def submit(self, source: TrialSupply) -> list[Submission]:
        """Submit what no job has yet, and leave it to SLURM.

        Raises:
            MoleflowError: SLURM refuses the jobs or is not there.

        """
        engine = _SlurmEngine(self._setup, self._profile)
        while isinstance(item := source.next(), WorkItem):
            engine.submit(item)
        try:
            return engine.flush()
        except SlurmUnavailable as error:
            raise MoleflowError(str(error)) from None

    def scripts(self, source: TrialSupply) -> list[str]:
        """The sbatch scripts that `submit` would hand over; nothing is written.

        Raises:
            MoleflowError: SLURM is not there.

        """
        items = []
        while isinstance(item := source.next(), WorkItem):
            items.append(item)
        try:
            return Submitter(self._setup, self._profile, job_folder(self._setup.folder)).scripts(items)
        except SlurmUnavailable as error:
            raise MoleflowError(str(error)) from None


@dataclass
class _FollowedElement:
    """An element that somebody waits for: the trials still open in it, and the last word on it with when it was first heard."""

    element: Element
    trial_ids: set[str]
    state: QueueState | None = None


@dataclass
class _PollSchedule:
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
    def __init__(self, setup: WorkerConfig, profile: SiteProfile) -> None:
        setup = replace(setup, node_cache=profile.node_cache)
        jobs = job_folder(setup.folder)
        self._jobs, self._submitter = jobs, Submitter(setup, profile, jobs)
        self._queue = Queue(profile.accounting)
        self._records = AttemptFolder(setup.folder / "attempts")
        self._store = ResultStore(setup.folder)
        self._endings = JobOutcomes(self._records, self._store, jobs, code_digest() if setup.rerun_stale else None)
        self._follower = LogFollower(event_logs(setup.folder))
        self._follower.look("slurm-*")  # What was told before is in the records.
        self._waiting: dict[str, WorkItem] = {}
        self._held: dict[str, WorkItem] = {}
        self._open: dict[str, _FollowedElement] = {}
        self._where: dict[str, str] = {}
        self._asking = _PollSchedule(time.monotonic)
        self._flush_due: float | None = None

    def free(self) -> int:
        return 1  # SLURM takes everything; arrays are made at the next poll.

    def submit(self, item: WorkItem) -> None:
        for trial in item.trials:
            self._waiting[trial.id] = replace(item, trials=(trial,))

    def poll(self, seconds: float) -> list[Event]:
        self._flush_when_due()
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
        queued = [place for place in self._open.values() if place.state and place.state.phase == "queued"]
        with suppress(SlurmUnavailable):
            self._queue.cancel([place.element for place in queued], waiting_only=True)
            taken += [trial_id for place in queued for trial_id in place.trial_ids]
        for trial_id in taken:
            self._forget(trial_id)
        return [Event("withdrawn", trial_id) for trial_id in taken]

    def close(self) -> None:
        """Jobs go on without a driver."""

    def flush(self) -> list[Submission]:
        """Submit what waits and has no job yet.

        Raises:
            Unreachable: SLURM does not answer.
            Refused: it takes no job.

        """
        if not self._waiting:
            return []
        with self._submitter.alone():
            self._take_up()
            made = self._submitter.submit(list(self._waiting.values()), self._taken, self._standing())
        self._asking.hurry()
        return made

    def _standing(self) -> dict[str, str]:
        """The number of the job that a followed trial is in, where that is not over as far as is known."""
        return {
            trial_id: place.element.submission.job_id
            for place in self._open.values()
            if place.element.submission.job_id is not None and (place.state is None or place.state.phase != "over")
            for trial_id in place.trial_ids
        }

    def _flush_when_due(self) -> None:
        """Submit; once SLURM has answered, what it does not take now is tried again later."""
        if self._flush_due is not None and time.monotonic() < self._flush_due:
            return
        try:
            self.flush()
            self._flush_due = 0.0
        except SlurmUnavailable as error:
            if self._flush_due is None:
                raise MoleflowError(str(error)) from None
            self._flush_due = time.monotonic() + ASK_AT_LEAST_EVERY_S
        except SubmissionRejected:
            if not self._open:
                raise
            self._flush_due = time.monotonic() + AGAIN_S

    def _taken(self, submission: Submission) -> None:
        for element in elements([submission]):
            for trial_id in element.trial_ids:
                del self._waiting[trial_id]
                self._follow(element, trial_id)

    def _take_up(self) -> None:
        """Follow the jobs that are there already, whoever submitted them, and set aside what somebody else is at."""
        attempts: dict[str, list[AttemptRecord]] = {}
        for record in self._records.all():
            attempts.setdefault(record.trial_id, []).append(record)
        self._submitter.recover(self._queue)
        known = self._known()
        for element, state in known.items():
            for trial_id in element.trial_ids:
                last = in_job(attempts.get(trial_id, []), element)
                alive = last is not None and last.state == RUNNING
                if state.phase == "over" and not (alive and state.word == UNHEARD):
                    if last is not None and last.content.get("state") == RUNNING:
                        self._endings.of(trial_id, element, state)
                elif trial_id in self._waiting and not _ended(last):
                    del self._waiting[trial_id]
                    self._follow(element, trial_id, state)
        jobs = {element.job for element in known}
        for last in [attempts[trial_id][-1] for trial_id in self._waiting if trial_id in attempts]:
            if last.state == DIED and last.content.get("job") not in jobs:
                record_dead_attempts(self._records, self._store, [last], UNSEEN)
            elif last.state == RUNNING and not last.content.get("job"):  # A worker outside SLURM.
                self._held[last.trial_id] = self._waiting.pop(last.trial_id)

    def _known(self) -> dict[Element, QueueState]:
        """The elements on record that may still matter, with SLURM's word on each."""
        finished = self._store.finished()
        found = {
            element.id: element
            for element in elements(self._jobs.all())
            if any(trial_id not in finished or trial_id in self._waiting for trial_id in element.trial_ids)
        }
        return {found[element_id]: state for element_id, state in self._queue.states(list(found.values())).items()}

    def _ask(self) -> list[Event]:
        """Ask SLURM about every element that is open; one that is over twice in a row has ended.

        Once is not enough: SLURM shows the end of a job for a moment before it puts it back into the queue.
        """
        found = [Event("held", trial_id) for trial_id in self._held if not self._somebody_is_at(trial_id)]
        try:
            states = self._queue.states([place.element for place in self._open.values()])
        except SlurmUnavailable:
            self._asking.asked(changed=False)
            return found
        changed = False
        for element_id, place in self._open.items():
            state = states[element_id]
            changed = changed or state != place.state
            if state.phase == "over" and place.state == state:
                ends = [self._endings.of(trial_id, place.element, state) for trial_id in sorted(place.trial_ids)]
                found += [event for event in ends if event is not None]
            place.state = state
        self._asking.asked(changed)
        return found

    def _somebody_is_at(self, trial_id: str) -> bool:
        attempts = self._records.of_trial(trial_id)
        return bool(attempts) and attempts[-1].state == RUNNING

    def _follow(self, element: Element, trial_id: str, state: QueueState | None = None) -> None:
        self._open.setdefault(element.id, _FollowedElement(element, set(), state)).trial_ids.add(trial_id)
        self._where[trial_id] = element.id

    def _forget(self, trial_id: str) -> None:
        self._waiting.pop(trial_id, None)
        self._held.pop(trial_id, None)
        element_id = self._where.pop(trial_id, None)
        if element_id is not None:
            self._open[element_id].trial_ids.discard(trial_id)
            if not self._open[element_id].trial_ids:
                del self._open[element_id]


def _ended(last: AttemptRecord | None) -> bool:
    """Whether a trial has ended for good in the element of this attempt, which will not run it again."""
    if last is None:
        return False
    return last.state in ENDED or last.content.get("error_kind") == CANCELLED
