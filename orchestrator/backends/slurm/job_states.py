"""The states of a sweep's trials in SLURM's queue, for `status` and `cancel`."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path

from orchestrator.backends.slurm.queue import Queue, QueueState, SlurmUnavailable
from orchestrator.backends.slurm.submissions import ArrayTask, array_tasks, job_folder
from orchestrator.records.trial_state import JobState

ASK_EVERY_S = 2.0


class SlurmJobs:
    """The SLURM jobs of a results folder; SLURM is asked at most every two seconds, for all."""

    def __init__(self, sweep_folder: Path) -> None:
        self._jobs = job_folder(sweep_folder)
        self._queue = Queue()
        self._asked: float | None = None
        self._task_of: dict[str, ArrayTask] = {}
        self._states: Mapping[str, QueueState] = {}
        self._unavailable: str | None = None
        self._over: set[str] = set()

    def state_of(self, trial_id: str) -> JobState | None:
        """The state of the newest job of a trial; None without one, or if it has ended."""
        self._refresh()
        task = self._task_of.get(trial_id)
        if task is None:
            return None
        if self._unavailable is not None:
            return JobState("unknown", task.job, f"job {task.id}: {self._unavailable}")
        state = self._states.get(task.id)
        if state is None or state.phase == "over":
            return None
        return JobState(state.phase, task.job, state.reason or None)

    def cancel(self, trial_ids: Collection[str]) -> int:
        """Cancel the pending jobs that contain no other trials; returns the number of trials."""
        self._refresh()
        pending = [
            task
            for task in {task.id: task for task in self._task_of.values()}.values()
            if self._unavailable is None
            and task.id in self._states
            and self._states[task.id].phase == "queued"
            and all(self._task_of[name] != task or name in trial_ids for name in task.trial_ids)
        ]
        try:
            self._queue.cancel(pending, pending_only=True)
        except SlurmUnavailable:
            return 0
        return sum(name in trial_ids for task in pending for name in task.trial_ids)

    def _refresh(self) -> None:
        if self._asked is not None and time.monotonic() - self._asked < ASK_EVERY_S:
            return
        self._asked = time.monotonic()
        # Later submissions replace earlier ones: a trial's newest job counts.
        self._task_of = {name: task for task in array_tasks(self._jobs.all()) for name in task.trial_ids}
        self._unavailable = None
        try:
            open_tasks = {task.id: task for task in self._task_of.values() if task.job not in self._over}
            before, self._states = self._states, self._queue.states(list(open_tasks.values()))
            # A requeued job looks ended for a moment. After two such answers it has ended.
            ended = [
                name for name, state in self._states.items() if state.phase == "over" and before.get(name) == state
            ]
            self._over |= {open_tasks[name].job for name in ended}
        except SlurmUnavailable as error:
            self._unavailable = str(error)
