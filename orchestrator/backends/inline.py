"""The inline backend: one trial at a time in the driver's process."""

from __future__ import annotations

import time

from orchestrator.execution.backend import SourceSignal, TrialSupply, WorkerConfig, WorkItem
from orchestrator.execution.make_worker import make_worker
from orchestrator.execution.signals import stop_signals_ignored
from orchestrator.records.events import Events

POLL_S = 0.25


class InlineBackend:
    """Runs every trial in this process. Events are reported at once."""

    def __init__(self, setup: WorkerConfig) -> None:
        self._setup = setup

    def run(self, source: TrialSupply, events: Events) -> None:
        """Pull and run items until the source is DONE."""
        worker = make_worker(self._setup, events)
        try:
            while (answer := source.next()) is not SourceSignal.DONE:
                if isinstance(answer, WorkItem):
                    worker.run(answer.trial)
                due = worker.seconds_until_due()
                if due is not None and due <= 0:
                    worker.flush()
                elif not isinstance(answer, WorkItem):
                    time.sleep(POLL_S if due is None else min(POLL_S, due))
        finally:
            with stop_signals_ignored():
                worker.flush()
