"""What a backend is and what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Protocol

from orchestrator.execution.signals import _undisturbed
from orchestrator.records.events import Event, Events
from orchestrator.sweep.file_schema import Resources
from orchestrator.sweep.trial import Trial


@dataclass(frozen=True)
class WorkItem:
    """Trials that one worker runs one after another, what must have ended before, and what they need."""

    trials: tuple[Trial, ...]
    after: tuple[str, ...]
    resources: Resources

    @property
    def trial_ids(self) -> tuple[str, ...]:
        """The ids of the trials."""
        return tuple(trial.id for trial in self.trials)


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker needs beside its trials; it travels to other processes, so it holds plain values.

    `job` names the scheduler's job that the worker runs in, if any: attempts of an earlier start of the same job are known to be over.
    `node_cache` is a folder on the worker's own disk, with $VARIABLES of the worker, from which features are read once they were copied.
    """

    sweep: str
    folder: Path
    cache: Path
    data_root: Path
    dataset: str
    backend: str
    worker: str
    device: Literal["auto", "cpu", "cuda"]
    threads: int
    rerun_stale: bool
    provenance: Mapping[str, Any]
    time_min: int = 0
    job: str | None = None
    node_cache: str | None = None


class SourceSignal(Enum):
    """What a source answers when it has no item."""

    WAIT = "wait"
    STOP = "stop"
    DONE = "done"


class TrialSupply(Protocol):
    """Where a backend pulls work from."""

    def next(self) -> WorkItem | SourceSignal:
        """The next item; WAIT when one may come later; STOP when what has not begun shall not; DONE when nothing is left to wait for."""


class Backend(Protocol):
    """Runs work. It never reads results: workers write them."""

    def run(self, source: TrialSupply, events: Events) -> None:
        """Pull items until DONE and report what happens to their trials."""


class JobEngine(Protocol):
    """What the shared submit/poll/cancel loop needs of inline, local and slurm."""

    def free(self) -> int:
        """How many more items can be submitted now."""

    def submit(self, item: WorkItem) -> None:
        """Start an item."""

    def poll(self, seconds: float) -> list[Event]:
        """What happened, waiting at most `seconds` for something to."""

    def withdraw(self) -> list[Event]:
        """Take back what was submitted and has not begun, and report it as withdrawn."""

    def close(self) -> None:
        """Stop everything that still runs here, in seconds."""


def run_loop(engine: JobEngine, source: TrialSupply, events: Events, poll_seconds: float = 0.25) -> None:
    """Submit while there is room, poll, report; until the source says DONE. The engine is closed whatever happens."""
    try:
        while True:
            answer: WorkItem | SourceSignal = SourceSignal.WAIT
            while engine.free() > 0:
                answer = source.next()
                if isinstance(answer, SourceSignal):
                    break
                engine.submit(answer)
            if answer is SourceSignal.DONE:
                return
            for event in engine.withdraw() if answer is SourceSignal.STOP else ():
                events(event)
            for event in engine.poll(poll_seconds):
                events(event)
    finally:
        with _undisturbed():
            engine.close()
