"""The inline backend: one trial at a time in the driver's process."""

from __future__ import annotations

import time

from orchestrator.execution.backend import TrialSupply, WorkerConfig, WorkItem, run_loop
from orchestrator.execution.gpu_errors import GpuBroken
from orchestrator.execution.make_worker import make_worker
from orchestrator.records.events import Event, Events

_BROKEN = (
    "this process cannot use its GPU any more ({}); run the same command again, which goes on with the other trials, "
    "or run it with --backend local, which replaces such a process"
)


class InlineBackend:
    """Runs every trial in this process. Events are reported at once, not at the next poll."""

    def __init__(self, setup: WorkerConfig) -> None:
        self._setup = setup

    def run(self, source: TrialSupply, events: Events) -> None:
        """Pull and run items until the source is DONE."""
        run_loop(_InlineEngine(self._setup, events), source, events)


class _InlineEngine:
    def __init__(self, setup: WorkerConfig, events: Events) -> None:
        self._worker = make_worker(setup, events)
        self._worker_is_job = setup.job is not None
        self._item: WorkItem | None = None

    def free_slots(self) -> int:
        return 0 if self._item else 1

    def submit(self, item: WorkItem) -> None:
        self._item = item

    def poll(self, seconds: float) -> list[Event]:
        item, self._item = self._item, None
        if item is not None:
            try:
                self._worker.run(item.trial)
            except GpuBroken as broken:
                if self._worker_is_job:  # The job starts again, in a new process.
                    raise
                return [Event("fatal", "", {"error": _BROKEN.format(broken)})]
        due = self._worker.seconds_until_due()
        if item is None:
            time.sleep(seconds if due is None else min(seconds, due))
        if due is not None and due <= 0:
            self._worker.flush()
        return []

    def cancel_queued(self) -> list[Event]:
        return []  # A submitted item runs at the next poll.

    def close(self) -> None:
        self._worker.flush()
