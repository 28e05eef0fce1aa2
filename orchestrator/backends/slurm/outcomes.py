"""What became of a trial whose job is over: first what its worker wrote, and only where that is silent what SLURM says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.backends.slurm import queue
from orchestrator.backends.slurm.queue import QueueState
from orchestrator.backends.slurm.submissions import Element, JobFolder
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
from orchestrator.results.store import ResultStore


@dataclass(frozen=True)
class JobOutcomes:
    """Reads the ends of trials, and writes down those that no worker could.

    Args:
        records: the attempts of the sweep.
        store: its results.
        jobs: the arrays on record, for messages that say where a job's output is.
        code: the only code whose results count; None = any.

    """

    records: AttemptFolder
    store: ResultStore
    jobs: JobFolder
    code: str | None = None

    def of(self, trial_id: str, element: Element, state: QueueState) -> Event | None:
        """How a trial ended in an element that is over; None if a live worker is at it although SLURM does not know of it.

        Raises:
            OSError: the disk is full; an attempt that is not buried yet is found again the next time.

        """
        last = in_job(self.records.of_trial(trial_id), element)
        if last is not None and last.content.get("state") == RUNNING:
            if state.word == queue.UNHEARD and last.state == RUNNING:
                return None
            last = self._bury(last, element, state)
        if last is None or last.state == FINISHED:
            known = self.store.finished().get(trial_id)
            if known is not None and self.code in (None, known.code_digest):
                return Event("finished", trial_id, {"seconds": last.content.get("seconds") if last else None})
            if last is not None:
                return Event("interrupted", trial_id, {"error": "no whole part holds its results"})
        elif not (last.state == INTERRUPTED and state.word == queue.CANCELLED):
            return _as_written(last)
        if stop_requests.cancel_requests(self.store.folder).holds(trial_id):
            return Event("cancelled", trial_id)
        return _as_slurm_says(trial_id, element, state, self.jobs.output(element.submission.uid))

    def _bury(self, record: AttemptRecord, element: Element, state: QueueState) -> AttemptRecord:
        said = _as_slurm_says(record.trial_id, element, state, self.jobs.output(element.submission.uid))
        if state.word == "COMPLETED":  # A job ends so when whoever runs in it is killed and its script goes on.
            said = _died(record.trial_id, element, state, self.jobs.output(element.submission.uid))
        end = FAILED if said.kind == "failed" else INTERRUPTED
        record_dead_attempts(
            self.records, self.store, [record], str(said.facts["error"]), end, str(said.facts["error_kind"])
        )
        return self.records.again(record)


def in_job(attempts: Sequence[AttemptRecord], element: Element) -> AttemptRecord | None:
    """The last of a trial's attempts in this element."""
    return next((record for record in reversed(attempts) if record.content.get("job") == element.job), None)


def _as_written(record: AttemptRecord) -> Event:
    facts = {name: record.content.get(name) for name in ("error", "error_kind", "traceback", "seconds", "epochs")}
    if record.state in (FAILED, PRUNED):
        return Event("failed" if record.state == FAILED else "pruned", record.trial_id, facts)
    return Event("cancelled" if facts["error_kind"] == CANCELLED else "interrupted", record.trial_id, facts)


def _as_slurm_says(trial_id: str, element: Element, state: QueueState, output: Path) -> Event:
    job = f"SLURM job {element.id}"
    if state.word == queue.CANCELLED:
        return Event("cancelled", trial_id, {"error": f"{job} was cancelled", "error_kind": CANCELLED})
    if state.word in queue.INTERRUPTING:
        why = f"{job} was stopped ({state.word})"
        return Event("interrupted", trial_id, {"error": why, "error_kind": STOPPED})
    if state.word == queue.OUT_OF_MEMORY:
        mem = f"{element.submission.mem_gb:g}"
        why = f"{job} ran out of memory; raise resources.mem_gb (the job had {mem} GB)"
        return Event("failed", trial_id, {"error": why, "error_kind": OUT_OF_MEMORY})
    if state.word == "COMPLETED":
        why = f"{job} ended without running it"
        return Event("interrupted", trial_id, {"error": why, "error_kind": STOPPED})
    return _died(trial_id, element, state, output)


def _died(trial_id: str, element: Element, state: QueueState, output: Path) -> Event:
    job = f"SLURM job {element.id}"
    if state.word == queue.UNHEARD:
        why = f"SLURM no longer knows {job}, and its worker left no word; its output is in {output}"
    else:
        why = f"{job} ended ({state.word}) and its worker left no word: it was killed or never began; see {output}"
    return Event("failed", trial_id, {"error": why, "error_kind": WORKER_DIED})
