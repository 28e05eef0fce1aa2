"""What became of a trial whose job is over: first what its worker wrote, and only where that is silent what SLURM says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.attempts import (
    CANCELLED,
    FAILED,
    FINISHED,
    INTERRUPTED,
    OUT_OF_MEMORY,
    RUNNING,
    WORKER_DIED,
    AttemptFolder,
    Record,
)
from orchestrator.burial import bury
from orchestrator.events import Event
from orchestrator.results.store import ResultStore
from orchestrator.slurm import queue
from orchestrator.slurm.jobs import Element, JobFolder
from orchestrator.slurm.queue import State


@dataclass(frozen=True)
class Endings:
    """Reads the ends of trials, and writes down those that no worker could.

    Args:
        records: the attempts of the sweep.
        store: its results.
        jobs: the arrays on record, for messages that say where a job's output is.

    """

    records: AttemptFolder
    store: ResultStore
    jobs: JobFolder

    def of(self, trial_id: str, element: Element, state: State) -> Event:
        """How a trial ended in an element that is over.

        Raises:
            OSError: the disk is full; an attempt that is not buried yet is found again the next time.

        """
        attempts = self.records.of_trial(trial_id)
        if any(record.state == FINISHED for record in attempts):
            return Event("finished", trial_id, {"seconds": attempts[-1].content.get("seconds")})
        last = next((record for record in reversed(attempts) if record.content.get("job") == element.id), None)
        if last is not None and last.content["state"] == RUNNING:
            last = self._bury(last, element, state)
        if last is not None and not (last.state == INTERRUPTED and state.word == queue.CANCELLED):
            return _as_written(last)
        return _as_slurm_says(trial_id, element, state, self.jobs.output(element.submission.uid))

    def _bury(self, record: Record, element: Element, state: State) -> Record:
        said = _as_slurm_says(record.trial_id, element, state, self.jobs.output(element.submission.uid))
        end = FAILED if said.kind == "failed" else INTERRUPTED
        kind = str(said.facts["error_kind"])
        bury(self.records, self.store, [record], str(said.facts["error"]), end, kind)
        return next(r for r in self.records.of_trial(record.trial_id) if r.attempt == record.attempt)


def _as_written(record: Record) -> Event:
    facts = {name: record.content.get(name) for name in ("error", "error_kind", "traceback", "seconds", "epochs")}
    if record.state == FINISHED:
        return Event("finished", record.trial_id, facts)
    if record.state == FAILED:
        return Event("failed", record.trial_id, facts)
    return Event("cancelled" if facts["error_kind"] == CANCELLED else "interrupted", record.trial_id, facts)


def _as_slurm_says(trial_id: str, element: Element, state: State, output: Path) -> Event:
    job = f"SLURM job {element.id}"
    if state.word == queue.CANCELLED:
        return Event("cancelled", trial_id, {"error": f"{job} was cancelled", "error_kind": CANCELLED})
    if state.word in queue.INTERRUPTING:
        why = f"{job} was stopped ({state.word})"
        return Event("interrupted", trial_id, {"error": why, "error_kind": "Stop"})
    if state.word == queue.OUT_OF_MEMORY:
        mem = f"{element.submission.mem_gb:g}"
        why = f"{job} ran out of memory; raise resources.mem_gb (the job had {mem} GB)"
        return Event("failed", trial_id, {"error": why, "error_kind": OUT_OF_MEMORY})
    if state.word == queue.UNHEARD:
        why = f"SLURM no longer knows {job}, and its worker left no word; its output is in {output}"
    else:
        why = f"{job} ended ({state.word}) and its worker left no word: it was killed or never began; see {output}"
    return Event("failed", trial_id, {"error": why, "error_kind": WORKER_DIED})
