"""This process, one trial at a time."""

from __future__ import annotations

import time

from orchestrator.execution.backend import TrialSupply, WorkerConfig, WorkItem, run_loop
from orchestrator.records.events import Event, Events


class InlineBackend:
    """Runs every trial here. What a worker tells is passed on at once, not at the next poll."""

    def __init__(self, setup: WorkerConfig) -> None:
        self._setup = setup

    def run(self, source: TrialSupply, events: Events) -> None:
        """Pull and run until the source is done."""
        run_loop(_InlineEngine(self._setup, events), source, events)


class _InlineEngine:
    def __init__(self, setup: WorkerConfig, events: Events) -> None:
        from orchestrator.execution.worker import Worker

        self._worker = Worker(setup, events)
        self._item: WorkItem | None = None

    def free(self) -> int:
        return 0 if self._item else 1

    def submit(self, item: WorkItem) -> None:
        self._item = item

    def poll(self, seconds: float) -> list[Event]:
        item, self._item = self._item, None
        for trial in item.trials if item else ():
            self._worker.run(trial)
        due = self._worker.seconds_until_due()
        if item is None:
            time.sleep(seconds if due is None else min(seconds, due))
        if due is not None and due <= 0:
            self._worker.flush()
        return []

    def withdraw(self) -> list[Event]:
        return []  # What is submitted runs.

    def close(self) -> None:
        self._worker.flush()
