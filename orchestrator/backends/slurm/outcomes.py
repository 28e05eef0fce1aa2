"""The outcome of a trial whose job has ended.

The worker's record decides. If it does not say how the attempt ended, SLURM's state decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.backends.slurm import queue
from orchestrator.backends.slurm.queue import QueueState
from orchestrator.backends.slurm.submissions import ArrayTask, JobFolder
from orchestrator.records import stop_requests
from orchestrator.records.attempts import (
    CANCELLED,
    FAILED,
    FINISHED,
    INTERRUPTED,
    OUT_OF_MEMORY,
    PRUNED,
    RUNNING,
    STOPPED,
    WORKER_DIED,
    AttemptFolder,
    AttemptRecord,
)
from orchestrator.records.dead_attempts import record_dead_attempts
from orchestrator.records.events import Event
from orchestrator.records.stalls import STALLED, read_stall
from orchestrator.results.store import ResultStore


@dataclass(frozen=True)
class JobOutcomes:
    """Determines how trials ended, and records the attempts of dead workers.

    Attributes:
        records: the attempt records of the sweep.
        store: its results.
        jobs: the records of its arrays, for messages that name a job's output.
        code: the only code digest whose results count; None = any.

    """

    records: AttemptFolder
    store: ResultStore
    jobs: JobFolder
    code: str | None = None

    def outcome(self, trial_id: str, task: ArrayTask, state: QueueState) -> Event | None:
        """The end of a trial whose array task has ended.

        None if its worker is alive although SLURM does not know the job.

        Raises:
            OSError: the disk is full; a dead attempt is then recorded at the next start.

        """
        last = last_attempt_in_job(self.records.of_trial(trial_id), task)
        if last is not None and last.content.get("state") == RUNNING:
            if state.name == queue.UNKNOWN and last.state == RUNNING:
                return None
            last = self._record_death(last, task, state)
        if last is None or last.state == FINISHED:
            known = self.store.finished().get(trial_id)
            if known is not None and self.code in (None, known.code_digest):
                return Event("finished", trial_id, {"seconds": last.content.get("seconds") if last else None})
            if last is not None:
                return Event("interrupted", trial_id, {"error": "no whole part holds its results"})
        elif not (last.state == INTERRUPTED and state.name == queue.CANCELLED):
            return _recorded_outcome(last)
        # SLURM also cancels a job whose trials `cancel` took back; those wait for the next run.
        if stop_requests.cancel_requests(self.store.folder).is_set(trial_id):
            return Event("cancelled", trial_id)
        if last is None and self._stalled(task):
            error = f"SLURM job {task.id} ended before it began: another trial in it stalled"
            return Event("interrupted", trial_id, {"error": error, "error_kind": STOPPED})
        return _outcome_of_state(trial_id, task, state, self.jobs.output(task.submission.uid))

    def _stalled(self, task: ArrayTask) -> bool:
        """True if a trial stalled in an array task, which ended the process that runs all of it."""
        ends = [last_attempt_in_job(self.records.of_trial(trial_id), task) for trial_id in task.trial_ids]
        running = [end for end in ends if end is not None and end.stored_state == RUNNING]
        kinds = [end.content.get("error_kind") for end in ends if end is not None]
        return STALLED in kinds or any(read_stall(record) is not None for record in running)

    def _record_death(self, record: AttemptRecord, task: ArrayTask, state: QueueState) -> AttemptRecord:
        output = self.jobs.output(task.submission.uid)
        # A job also completes if its worker is killed: its script continues, the attempt has died.
        outcome = _died if state.name == queue.COMPLETED else _outcome_of_state
        event = outcome(record.trial_id, task, state, output)
        end = FAILED if event.kind == "failed" else INTERRUPTED
        record_dead_attempts(
            self.records,
            self.store,
            [record],
            str(event.facts["error"]),
            end,
            str(event.facts["error_kind"]),
            certain=True,
        )
        return self.records.reread(record)


def last_attempt_in_job(attempts: Sequence[AttemptRecord], task: ArrayTask) -> AttemptRecord | None:
    """The last of a trial's attempts that ran in an array task; None without one."""
    return next((record for record in reversed(attempts) if record.content.get("job") == task.job), None)


def _recorded_outcome(record: AttemptRecord) -> Event:
    facts = {name: record.content.get(name) for name in ("error", "error_kind", "traceback", "seconds", "epochs")}
    if record.state in (FAILED, PRUNED):
        return Event("failed" if record.state == FAILED else "pruned", record.trial_id, facts)
    return Event("cancelled" if facts["error_kind"] == CANCELLED else "interrupted", record.trial_id, facts)


def _outcome_of_state(trial_id: str, task: ArrayTask, state: QueueState, output: Path) -> Event:
    job = f"SLURM job {task.id}"
    if state.name == queue.CANCELLED:
        return Event("cancelled", trial_id, {"error": f"{job} was cancelled", "error_kind": CANCELLED})
    if state.name in queue.INTERRUPTING:
        error = f"{job} was stopped ({state.name})"
        return Event("interrupted", trial_id, {"error": error, "error_kind": STOPPED})
    if state.name == queue.OUT_OF_MEMORY:
        had = task.submission.mem_gb
        remedy = (
            f"raise resources.mem_gb (the job had {had:g} GB)"
            if had
            else "ask for some with `mem: per_node` in the profile, which has `mem: none`"
        )
        error = f"{job} ran out of memory; {remedy}"
        return Event("failed", trial_id, {"error": error, "error_kind": OUT_OF_MEMORY})
    if state.name == queue.COMPLETED:
        error = f"{job} ended without running it"
        return Event("interrupted", trial_id, {"error": error, "error_kind": STOPPED})
    return _died(trial_id, task, state, output)


def _died(trial_id: str, task: ArrayTask, state: QueueState, output: Path) -> Event:
    job = f"SLURM job {task.id}"
    if state.name == queue.UNKNOWN:
        error = f"SLURM no longer knows {job}, and its worker recorded no end; see the output in {output}"
    else:
        error = (
            f"{job} ended ({state.name}), and its worker recorded no end: it was killed or never began; "
            f"see the output in {output}"
        )
    return Event("failed", trial_id, {"error": error, "error_kind": WORKER_DIED})
