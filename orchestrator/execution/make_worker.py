"""The project's worker, made where trials run."""

from __future__ import annotations

from orchestrator.execution.backend import TrialRunner, WorkerConfig
from orchestrator.records.events import Events


def make_worker(setup: WorkerConfig, events: Events) -> TrialRunner:
    """The worker of a process that runs trials.

    The import is late, because it loads torch, which a driver does not need.
    """
    from orchestrator.execution.worker import Worker

    return Worker(setup, events)
