"""The process that runs trials on Ray: a Tune trainable that is started once and reset for every further trial."""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import ray
from ray.tune import Trainable

from moleflow.code_digest import code_digest
from orchestrator.execution.backend import WorkerConfig
from orchestrator.host import disk
from orchestrator.host.environment_variables import thread_variables
from orchestrator.records import stop_requests
from orchestrator.records.events import Event, Events
from orchestrator.sweep.trial import Trial

LOOK_EVERY_S = 0.5
OVER = "over"  # In a result that says `done` because the trial is, not because a scheduler wants it.
LEAVE_WITHIN_S = 5.0


class TrialRunner(Protocol):
    """What the actor needs of a worker."""

    def run(self, trial: Trial) -> None:
        """One attempt at one trial."""

    def seconds_until_due(self) -> float | None:
        """When `flush` wants to be called next; None when there is nothing to write."""

    def flush(self) -> None:
        """Write what is held back."""


MakeWorker = Callable[[WorkerConfig, Events], TrialRunner]


def make_worker(setup: WorkerConfig, events: Events) -> TrialRunner:
    """The project's worker; torch is imported here and no earlier."""
    from orchestrator.execution.worker import Worker

    return Worker(setup, events)


@dataclass
class Placement:
    """The trials of one work item on their way through Tune, which copies and prints configurations as often as it likes."""

    trials: tuple[Trial, ...]

    def release(self) -> None:
        """Let the trials go: Tune keeps every configuration that it was given, and writes all of them down at its end."""
        self.trials = ()

    def __deepcopy__(self, _: object) -> Placement:
        return self

    def __repr__(self) -> str:
        return ",".join(trial.id for trial in self.trials)


def stop_mark(setup: WorkerConfig) -> Path:
    """The file that tells all actors of a driver to leave; it is looked for where every worker writes its results."""
    return setup.folder / "ray" / f"{setup.worker}.stop"


class TrialActor(Trainable):
    """One training iteration of Tune is one task of the sequence; the last one says `done`."""

    def setup(self, config: dict[str, Any], **given: Any) -> None:
        """Start the thread that runs trials. Called once a process, with the first trial's configuration."""
        setup: WorkerConfig = given["setup"]
        os.environ.update(thread_variables(setup.threads))
        name = f"{setup.worker}-{str(ray.get_runtime_context().get_actor_id())[:8]}"
        self._mark = stop_mark(setup)
        self._runs = _RunsInThread(replace(setup, worker=name), given["make"], given["code"])
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial's configuration; the process and what it has loaded stay."""
        self._take(new_config)
        return True

    def _take(self, config: Mapping[str, Any]) -> None:
        self._placed: Placement | None = config["placed"]
        self.config = {}  # It would go back with every result.
        self._show()

    def step(self) -> dict[str, Any]:
        """Run on until a task or the whole item is over; what Tune, its schedulers and its dashboard get to see."""
        if self._placed is not None:
            self._item = self._runs.start(self._placed.trials)
            self._placed = None
        while True:
            try:
                item, note = self._runs.notes.get(timeout=LOOK_EVERY_S)
                if item == self._item or (note is not None and note.kind == "fatal"):
                    break
            except queue.Empty:
                if self._mark.exists():
                    self._runs.interrupt()
                    return {"done": True}
        if note is None:
            return {"done": True, OVER: True}
        if note.kind == "fatal":
            return {"done": True, "fatal": note.facts["error"]}
        told = {key: note.facts[key] for key in ("task", "tasks", "task_name", "image_auroc")}
        told |= {f"validation_{metric}": value for metric, value in (note.facts["validation"] or {}).items()}
        self._show(f" [{told['task'] + 1}/{told['tasks']} {told['task_name']} {_short(told['image_auroc'])}]")
        return told

    def cleanup(self) -> None:
        """Let the thread write what it still holds back, and end a trial that a scheduler of Tune has stopped at its next epoch."""
        self._runs.end()
        while self._runs.stopping and not self._mark.exists():
            time.sleep(LOOK_EVERY_S)

    def _show(self, progress: str = "") -> None:
        """Have this process call itself under the trial's name: the dashboard lists calls by name, and Tune's all have the same."""
        ray.get_runtime_context().current_actor.shown.options(name=f"{self.trial_name}{progress}").remote()

    def shown(self) -> None:
        """Nothing to do: what counts is the name of the call."""


class _RunsInThread:
    """Runs trials in one thread, where the worker lives; the actor's own thread talks to Tune.

    Attributes:
        notes: what Tune shall know, beside the number that `start` gave: tasks that ended, what is fatal, and None when all trials of that
            number are over.

    """

    def __init__(self, setup: WorkerConfig, make: MakeWorker, code: str) -> None:
        self.notes: queue.SimpleQueue[tuple[int, Event | None]] = queue.SimpleQueue()
        self._setup, self._make, self._code = setup, make, code
        self._given: queue.SimpleQueue[tuple[int, Sequence[Trial]] | None] = queue.SimpleQueue()
        self._items, self._item, self._trials = 0, 0, frozenset[str]()
        self._pruned = stop_requests.prune_requests(setup.folder)
        self._busy = False
        self._thread = threading.Thread(target=self._serve, name="trials", daemon=True)
        self._thread.start()

    def start(self, trials: Sequence[Trial]) -> int:
        """Run these trials, one after another; the number by which notes of them are known."""
        self._items += 1
        self._given.put((self._items, trials))
        return self._items

    @property
    def stopping(self) -> bool:
        """Whether the trial at hand is marked to be stopped for good; it sees that at its next epoch."""
        return self._thread.is_alive() and self._busy and any(map(self._pruned.holds, self._trials))

    def interrupt(self) -> None:
        """Stop the trial at hand as a signal would: its attempt is written down as interrupted, at its last whole epoch."""
        from orchestrator.execution.signals import WorkerStopped

        if self._thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread.ident), ctypes.py_object(WorkerStopped)
            )
        self._thread.join(LEAVE_WITHIN_S)

    def end(self) -> None:
        """End the thread, once it has written everything."""
        self._given.put(None)
        self._thread.join(LEAVE_WITHIN_S)

    def _serve(self) -> None:
        try:
            if code_digest() != self._code:
                raise RuntimeError("the project's code there is not the driver's")
            worker = self._make(self._setup, self._tell)
        except Exception as error:
            why = disk.explain_disk_error(self._setup.folder, error) if isinstance(error, OSError) else str(error)
            where = cast(Any, ray.util).get_node_ip_address()
            self._busy = True
            self._tell(Event("fatal", "", {"error": f"no worker can start on {where}: {why}"}))
            return
        from orchestrator.execution.signals import WorkerStopped

        with contextlib.suppress(WorkerStopped):
            try:
                while (given := self._next(worker)) is not None:
                    self._item, trials = given
                    self._trials, self._busy = frozenset(trial.id for trial in trials), True
                    for trial in trials:
                        worker.run(trial)
                    self._busy = False
                    self.notes.put((self._item, None))
            finally:
                worker.flush()

    def _next(self, worker: TrialRunner) -> tuple[int, Sequence[Trial]] | None:
        while True:
            try:
                return self._given.get(timeout=worker.seconds_until_due())
            except queue.Empty:
                worker.flush()

    def _tell(self, event: Event) -> None:
        if event.kind == "fatal" and not self._busy:
            os._exit(
                1
            )  # Between two trials nobody listens; the driver sees the process die, and another one meets the same.
        if event.kind in ("task", "fatal"):
            self.notes.put((self._item, event))


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
