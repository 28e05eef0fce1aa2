"""How the trials of a sweep stand in SLURM's queue, for `status` and `cancel`."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path

from orchestrator.backends.slurm.queue import Queue, QueueState, SlurmUnavailable
from orchestrator.backends.slurm.submissions import Element, elements, job_folder
from orchestrator.records.trial_state import JobState

ASK_EVERY_S = 2.0


class SlurmJobs:
    """The jobs on record in a results folder; SLURM is asked once for all of them, every two seconds at most."""

    def __init__(self, sweep_folder: Path) -> None:
        self._record = job_folder(sweep_folder)
        self._queue = Queue()
        self._asked: float | None = None
        self._elements: dict[str, Element] = {}
        self._states: Mapping[str, QueueState] = {}
        self._silence: str | None = None
        self._over: set[str] = set()

    def state_of(self, trial_id: str) -> JobState | None:
        """What SLURM says of the newest job that has a trial; None once that job is over, or when there is none."""
        self._look()
        element = self._elements.get(trial_id)
        if element is None:
            return None
        if self._silence is not None:
            return JobState("unknown", element.job, f"job {element.id}: {self._silence}")
        state = self._states.get(element.id)
        return (
            None if state is None or state.phase == "over" else JobState(state.phase, element.job, state.reason or None)
        )

    def cancel(self, trial_ids: Collection[str]) -> int:
        """Withdraw the waiting jobs that hold none but these trials; of how many trials."""
        self._look()
        taken = [
            element
            for element in {element.id: element for element in self._elements.values()}.values()
            if self._silence is None
            and element.id in self._states
            and self._states[element.id].phase == "queued"
            and all(self._elements[name] != element or name in trial_ids for name in element.trial_ids)
        ]
        try:
            self._queue.cancel(taken, waiting_only=True)
        except SlurmUnavailable:
            return 0
        return sum(name in trial_ids for element in taken for name in element.trial_ids)

    def _look(self) -> None:
        if self._asked is not None and time.monotonic() - self._asked < ASK_EVERY_S:
            return
        self._asked = time.monotonic()
        self._elements = {name: element for element in elements(self._record.all()) for name in element.trial_ids}
        self._silence = None
        try:
            open_ones = {e.id: e for e in self._elements.values() if e.job not in self._over}
            before, self._states = self._states, self._queue.states(list(open_ones.values()))
            # One that is over at two looks in a row does not come back.
            twice = {
                name for name, state in self._states.items() if state.phase == "over" and before.get(name) == state
            }
            self._over |= {open_ones[name].job for name in twice}
        except SlurmUnavailable as error:
            self._silence = str(error)
