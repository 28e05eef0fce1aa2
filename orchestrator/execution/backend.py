"""The backend protocol, and the loop that the inline, local and SLURM backends share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Protocol

from moleflow.settings.config import BackboneKnobs
from orchestrator.execution.signals import stop_signals_ignored
from orchestrator.records.events import Event, Events
from orchestrator.sweep.file_schema import Resources
from orchestrator.sweep.trial import Trial


@dataclass(frozen=True)
class WorkItem:
    """A trial to run.

    Attributes:
        trial: the trial.
        after: ids of trials that have to end first.
        resources: what the trial needs.

    """

    trial: Trial
    after: tuple[str, ...]
    resources: Resources


@dataclass(frozen=True)
class WorkerConfig:
    """The configuration of a worker. It is pickled for other processes: plain values only.

    Attributes:
        sweep: the sweep's name.
        folder: the sweep's results folder.
        cache: the cache folder.
        data_root: the folder of the images.
        dataset: the name of the data set, for the attempts table.
        backend: the backend's name.
        worker: a name that no other worker of the sweep has; event logs are named after it.
        device: where to train.
        threads: CPU threads of one trial.
        rerun_stale: whether a result that other code made counts as missing.
        provenance: git commit and package versions, for the attempts table.
        time_min: time limit of an attempt in minutes; 0 without one. A scheduler's job has its own
            limit, made from this number.
        stall_min: minutes without progress after which an attempt counts as stalled; 0 = never.
        job: the scheduler's job that the worker runs in. Attempts of an earlier start of the same
            job have ended.
        node_cache: a folder on the node's own disk, with $VARIABLES of the worker. Features are
            copied there and read from there.
        keep: whether a finished trial's trained detector is stored with the results.
        scratch: a folder on the node's own disk for what is made from the images there, where they
            were copied to the node; None = the cache holds it.
        weights_at_hand: gives a block within which timm finds the weights of a backbone. Set in the
            process of a worker only.

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
    stall_min: float = 0.0
    job: str | None = None
    node_cache: str | None = None
    keep: bool = False
    scratch: Path | None = None
    weights_at_hand: Callable[[BackboneKnobs], AbstractContextManager[object]] = nullcontext

    @property
    def image_cache(self) -> Path:
        """The folder of digests and generated defects, which belong to one copy of the images."""
        return self.scratch or self.cache


class TrialRunner(Protocol):
    """Runs trials in a worker process; `orchestrator.execution.worker.Worker` is the project's."""

    def run(self, trial: Trial) -> None:
        """Make one attempt at a trial."""

    def seconds_until_due(self) -> float | None:
        """Seconds until `flush` should be called; None if there is nothing to write."""

    def flush(self) -> None:
        """Write the rows of attempts that have ended."""


MakeWorker = Callable[[WorkerConfig, Events], TrialRunner]


class SourceSignal(Enum):
    """The answer of a source that has no item."""

    WAIT = "wait"  # An item may come later.
    STOP = "stop"  # None will come: cancel what is queued, and let running trials end.
    DONE = "done"  # None will come, and no trial is left to wait for.


class TrialSupply(Protocol):
    """The source that a backend pulls work from."""

    def next(self) -> WorkItem | SourceSignal:
        """The next item, or why there is none."""


class Backend(Protocol):
    """Runs trials. It never reads results: workers write them."""

    def run(self, source: TrialSupply, events: Events) -> None:
        """Pull items until DONE and report every event of their trials."""


class JobEngine(Protocol):
    """One way of running items; `run_loop` does the rest for inline, local and SLURM."""

    def free_slots(self) -> int:
        """The number of items that can be submitted now."""

    def submit(self, item: WorkItem) -> None:
        """Start or queue an item."""

    def poll(self, seconds: float) -> list[Event]:
        """The events since the last poll; waits at most `seconds` for one."""

    def cancel_queued(self) -> list[Event]:
        """Cancel every item that has not begun; returns a `withdrawn` event for each."""

    def close(self) -> None:
        """Stop everything that still runs, within seconds."""


def run_loop(engine: JobEngine, source: TrialSupply, events: Events, poll_seconds: float = 0.25) -> None:
    """Submit while slots are free, poll and report, until the source is DONE.

    The engine is closed even after an error or Ctrl-C.
    """
    try:
        while True:
            answer: WorkItem | SourceSignal = SourceSignal.WAIT
            while engine.free_slots() > 0:
                answer = source.next()
                if isinstance(answer, SourceSignal):
                    break
                engine.submit(answer)
            if answer is SourceSignal.DONE:
                return
            for event in engine.cancel_queued() if answer is SourceSignal.STOP else ():
                events(event)
            for event in engine.poll(poll_seconds):
                events(event)
    finally:
        with stop_signals_ignored():
            engine.close()
