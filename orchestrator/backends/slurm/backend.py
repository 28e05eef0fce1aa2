"""The SLURM backend: job arrays, submitted through submitit, that run on without the driver.

The driver submits, follows and can be closed at any time. A trial's outcome is what its worker
wrote: its part and its attempt record. SLURM's state only says whether to wait any longer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from moleflow.cache.claim import exclusive
from moleflow.code_digest import code_digest
from orchestrator.backends.slurm.outcomes import JobOutcomes, last_attempt_in_job
from orchestrator.backends.slurm.queue import UNKNOWN, Queue, QueueState, SlurmUnavailable
from orchestrator.backends.slurm.site_profile import SiteProfile
from orchestrator.backends.slurm.submissions import ArrayTask, Submission, array_tasks, job_folder
from orchestrator.backends.slurm.submitter import Array, SubmissionRejected, Submitter
from orchestrator.execution.backend import TrialSupply, WorkerConfig, WorkItem, run_loop
from orchestrator.records.attempts import CANCELLED, DIED, ENDED, RUNNING, AttemptFolder, AttemptRecord
from orchestrator.records.dead_attempts import UNSEEN, record_dead_attempts
from orchestrator.records.event_log import LogFollower, LoggedEvent, event_logs
from orchestrator.records.events import ENDS, Event, Events
from orchestrator.results.store import ResultStore

LOOK_EVERY_S, LOCK_RETRY_S = 1.0, 1.0
ASK_EVERY_S, ASK_AT_LEAST_EVERY_S = 2.0, 15.0
RESUBMIT_AFTER_S = 60.0
WORKER_LOGS = "slurm-*"


@dataclass(frozen=True)
class SlurmBackend:
    """Job arrays on a cluster.

    Args:
        setup: what the workers need. The compute nodes must see its folders under the same paths.
        profile: the site's profile.
        say: called with sentences for the user while the driver follows jobs.

    """

    setup: WorkerConfig
    profile: SiteProfile
    say: Callable[[str], None] = lambda _: None

    def run(self, source: TrialSupply, events: Events) -> None:
        """Submit the trials that are in no job, and follow all of them until the source is DONE.

        Raises:
            MoleflowError: SLURM rejects the jobs or is not available.

        """
        run_loop(_SlurmEngine(self.setup, self.profile, self.say), source, events)

    def submit(self, source: TrialSupply) -> list[Submission]:
        """Submit the trials that are in no job, and leave them to SLURM.

        Raises:
            MoleflowError: SLURM rejects the jobs or is not available.

        """
        engine = _SlurmEngine(self.setup, self.profile)
        for item in _items(source):
            engine.submit(item)
        try:
            return engine.submit_waiting()
        except SubmissionRejected as error:
            raise SubmissionRejected(f"{error}; the same command submits what is missing") from error

    def scripts(self, source: TrialSupply) -> list[str]:
        """The sbatch scripts that `submit` would submit; nothing is written.

        Raises:
            MoleflowError: SLURM is not available.

        """
        return self._submitter().scripts(list(_items(source)))

    def arrays(self, source: TrialSupply) -> list[Array]:
        """The arrays that `submit` would submit if no trial were in a job; nothing is written.

        Raises:
            SlurmUnavailable: the profile sets no `max_array_size`, and SLURM does not answer.

        """
        return self._submitter().arrays(list(_items(source)))

    def _submitter(self) -> Submitter:
        return Submitter(self.setup, self.profile, job_folder(self.setup.folder))


def _items(source: TrialSupply) -> Iterator[WorkItem]:
    while isinstance(item := source.next(), WorkItem):
        yield item


@dataclass
class _PollSchedule:
    """The time of the next question to SLURM: soon after a change, ever later without one."""

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
    """The SLURM half of `run_loop`.

    A trial is in one of three places: in `_waiting` until it is submitted, in a followed array
    task, or in `_held` while a worker outside SLURM is running it.
    """

    def __init__(self, setup: WorkerConfig, profile: SiteProfile, say: Callable[[str], None] = lambda _: None) -> None:
        setup = replace(setup, node_cache=profile.node_cache)
        jobs = job_folder(setup.folder)
        self._jobs, self._submitter = jobs, Submitter(setup, profile, jobs)
        self._queue = Queue(profile.accounting)
        self._records = AttemptFolder(setup.folder / "attempts")
        self._store = ResultStore(setup.folder)
        self._outcomes = JobOutcomes(self._records, self._store, jobs, code_digest() if setup.rerun_stale else None)
        self._follower = LogFollower(event_logs(setup.folder))
        self._follower.read_new(WORKER_LOGS)  # Earlier events are skipped: the attempt records hold them.
        self._waiting: dict[str, WorkItem] = {}
        self._held: dict[str, WorkItem] = {}
        self._task_of: dict[str, ArrayTask] = {}  # of the trials that the driver follows
        self._states: dict[str, QueueState] = {}  # the last answer, by array task
        self._schedule = _PollSchedule(time.monotonic)
        self._submit_due: float | None = None
        self._say, self._said = say, set[str]()

    def free_slots(self) -> int:
        return 1  # SLURM queues everything; arrays are made at the next poll.

    def submit(self, item: WorkItem) -> None:
        self._waiting[item.trial.id] = item

    def poll(self, seconds: float) -> list[Event]:
        self._submit_when_due()
        time.sleep(max(seconds, LOOK_EVERY_S))
        events = self._followed(self._follower.read_due(WORKER_LOGS) or ())
        if events:
            self._schedule.hurry()
        if time.monotonic() >= self._schedule.due and (asked := self._ask()):
            # What a job wrote before it ended comes before the ends of its trials.
            events += self._followed(self._follower.read_new(WORKER_LOGS))
            ended = {event.trial_id for event in events if event.kind in ENDS}
            events += [event for event in asked if event.trial_id not in ended]
        for event in events:
            if event.kind in ENDS:
                self._forget(event.trial_id)
        return events

    def cancel_queued(self) -> list[Event]:
        cancelled = [*self._waiting, *self._held]
        queued = {trial_id: task for trial_id, task in self._task_of.items() if self._phase(task) == "queued"}
        with suppress(SlurmUnavailable):
            self._queue.cancel(_distinct(queued.values()), pending_only=True)
            cancelled += queued
        for trial_id in cancelled:
            self._forget(trial_id)
        return [Event("withdrawn", trial_id) for trial_id in cancelled]

    def close(self) -> None:
        """Nothing to stop: jobs run on without a driver."""

    def submit_waiting(self) -> list[Submission]:
        """Submit the waiting trials that are in no job."""
        if not self._waiting:
            return []
        # Under the lock, two drivers cannot both find a trial without a job and submit it twice.
        with exclusive(self._jobs.folder / "submitting", LOCK_RETRY_S):
            self._follow_submitted()
            made = self._submitter.submit(list(self._waiting.values()), self._on_submitted, self._unfinished_jobs())
        self._schedule.hurry()
        return made

    def _unfinished_jobs(self) -> dict[str, str]:
        """{trial id: job id} of the followed trials whose jobs are not known to have ended."""
        return {
            trial_id: task.submission.job_id
            for trial_id, task in self._task_of.items()
            if task.submission.job_id is not None and self._phase(task) != "over"
        }

    def _phase(self, task: ArrayTask) -> str | None:
        return self._states[task.id].phase if task.id in self._states else None

    def _submit_when_due(self) -> None:
        """Submit the waiting trials. Once SLURM has answered, an error means another try later."""
        if self._submit_due is not None and time.monotonic() < self._submit_due:
            return
        try:
            self.submit_waiting()
            self._submit_due = 0.0
        except SlurmUnavailable as error:
            if self._submit_due is None:
                raise
            self._say_once(f"SLURM does not answer: {error}; asked again every {ASK_AT_LEAST_EVERY_S:.0f} s")
            self._submit_due = time.monotonic() + ASK_AT_LEAST_EVERY_S
        except SubmissionRejected as error:
            if not self._task_of:
                raise
            self._say_once(f"{error}; tried again every {RESUBMIT_AFTER_S:.0f} s")
            # Sites limit the jobs of a user; when some have ended, more are accepted.
            self._submit_due = time.monotonic() + RESUBMIT_AFTER_S

    def _on_submitted(self, submission: Submission) -> None:
        for task in array_tasks([submission]):
            for trial_id in task.trial_ids:
                del self._waiting[trial_id]
                self._task_of[trial_id] = task

    def _follow_submitted(self) -> None:
        """Follow waiting trials that are in a job already, whichever driver submitted it.

        Trials that a worker outside SLURM is running are held back.
        """
        attempts: dict[str, list[AttemptRecord]] = {}
        for record in self._records.all():
            attempts.setdefault(record.trial_id, []).append(record)
        self._submitter.recover(self._queue)
        known = self._known_tasks()
        for task, state in known.items():
            for trial_id in task.trial_ids:
                last = last_attempt_in_job(attempts.get(trial_id, []), task)
                alive = last is not None and last.state == RUNNING
                if state.phase == "over" and not (alive and state.name == UNKNOWN):
                    if last is not None and last.content.get("state") == RUNNING:
                        self._outcomes.outcome(trial_id, task, state)  # It records the dead attempt.
                elif trial_id in self._waiting and not _has_ended(last):
                    del self._waiting[trial_id]
                    self._task_of[trial_id] = task
                    self._states[task.id] = state
        jobs = {task.job for task in known}
        for last in [attempts[trial_id][-1] for trial_id in self._waiting if trial_id in attempts]:
            if last.state == DIED and last.content.get("job") not in jobs:
                record_dead_attempts(self._records, self._store, [last], UNSEEN)
            elif last.state == RUNNING and not last.content.get("job"):  # A worker outside SLURM.
                self._held[last.trial_id] = self._waiting.pop(last.trial_id)

    def _known_tasks(self) -> dict[ArrayTask, QueueState]:
        """The array tasks on record that have an unfinished or waiting trial, with their states."""
        finished = self._store.finished()
        tasks = {
            task.id: task
            for task in array_tasks(self._jobs.all())
            if any(trial_id not in finished or trial_id in self._waiting for trial_id in task.trial_ids)
        }
        return {tasks[task_id]: state for task_id, state in self._queue.states(list(tasks.values())).items()}

    def _ask(self) -> list[Event]:
        """Ask SLURM for the state of every followed array task; returns the ends of its trials.

        A task has ended if two answers in a row say so: SLURM shows a job as ended for a moment
        before it requeues it.
        """
        events = [Event("held", trial_id) for trial_id in self._held if not self._is_running(trial_id)]
        before = self._states
        try:
            self._states = dict(self._queue.states(_distinct(self._task_of.values())))
        except SlurmUnavailable as error:
            self._say_once(f"SLURM does not answer: {error}; asked again every {ASK_AT_LEAST_EVERY_S:.0f} s")
            self._schedule.asked(changed=False)
            return events
        self._say_stuck()
        for trial_id, task in self._task_of.items():
            state = self._states[task.id]
            if state.phase == "over" and before.get(task.id) == state:
                event = self._outcomes.outcome(trial_id, task, state)
                events += [event] if event is not None else []
        self._schedule.asked(any(before.get(name) != state for name, state in self._states.items()))
        return events

    def _followed(self, entries: Iterable[LoggedEvent]) -> list[Event]:
        """The events that count: of followed trials, and those that end the sweep."""
        events = [entry.event for entry in entries]
        # An interrupted job may be requeued or cancelled: SLURM's state decides what that means.
        return [
            event
            for event in events
            if event.kind == "fatal" or (event.trial_id in self._task_of and event.kind != "interrupted")
        ]

    def _say_stuck(self) -> None:
        """Name the jobs that do not start by themselves, each job once, by reason."""
        jobs: dict[str, dict[str, None]] = {}
        for task in _distinct(self._task_of.values()):
            state, job = self._states[task.id], str(task.submission.job_id)
            if state.is_stuck and job not in self._said:
                jobs.setdefault(state.reason, {})[job] = None
        for reason, some in jobs.items():
            self._said |= some.keys()
            self._say(_stuck_sentence(list(some), reason))

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)

    def _is_running(self, trial_id: str) -> bool:
        attempts = self._records.of_trial(trial_id)
        return bool(attempts) and attempts[-1].state == RUNNING

    def _forget(self, trial_id: str) -> None:
        for place in (self._waiting, self._held, self._task_of):
            place.pop(trial_id, None)


def _stuck_sentence(jobs: Sequence[str], reason: str) -> str:
    one = len(jobs) == 1
    wait = (
        f"job {jobs[0]} waits and does not start by itself"
        if one
        else f"jobs {', '.join(jobs)} wait and do not start by themselves"
    )
    return (
        f"SLURM {wait} ({reason}); when the cause is mended "
        f"(`sinfo -R` shows nodes with a fault, such as a full spool disk): scontrol release {' '.join(jobs)}"
    )


def _distinct(tasks: Iterable[ArrayTask]) -> list[ArrayTask]:
    return list({task.id: task for task in tasks}.values())


def _has_ended(last: AttemptRecord | None) -> bool:
    """True if an array task will not run a trial again, given the trial's last attempt in it."""
    if last is None:
        return False
    return last.state in ENDED or last.content.get("error_kind") == CANCELLED
