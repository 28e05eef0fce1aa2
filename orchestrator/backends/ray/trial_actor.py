"""The Ray actor that runs trials: a Tune trainable, started once and reset for each trial."""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import ray
from ray.tune import Trainable

from moleflow import files
from moleflow.code_digest import code_digest
from moleflow.errors import MoleflowError
from orchestrator.backends.ray.node import DriverFiles, Node
from orchestrator.execution.backend import MakeWorker, TrialRunner, WorkerConfig
from orchestrator.host import disk
from orchestrator.host.environment_variables import thread_variables
from orchestrator.records import stop_requests
from orchestrator.records.events import Event
from orchestrator.sweep.trial import Trial

LOOK_EVERY_S = 1.0
OVER = "over"  # Marks a result whose `done` means that the trial has ended, not that Tune stops it.
STOP_WITHIN_S = 5.0


@dataclass
class Placement:
    """A trial, as a value of a Tune configuration.

    Tune copies and prints configurations often: a copy is the same object, and its text is short.

    Attributes:
        trial: the trial; None once it is over.
        weights: the user's or a package's file of weights, on the driver's node; None without one.
    """

    trial: Trial | None
    weights: Path | None = None

    def release(self) -> None:
        """Forget the trial.

        Tune keeps every configuration to its end. Without this, memory would grow with the trials.
        """
        self.trial = None

    def __deepcopy__(self, _: object) -> Placement:
        return self

    def __repr__(self) -> str:
        return self.trial.id if self.trial else ""


def stop_file(setup: WorkerConfig) -> Path:
    """The file that makes all actors of a driver stop."""
    return setup.folder / "ray" / f"{setup.worker}.stop"


class TrialActor(Trainable):
    """Runs one trial after another.

    One training iteration of Tune is one task of the sequence; the last one returns `done`.
    """

    def setup(self, config: dict[str, Any], **given: Any) -> None:
        """Start the thread that runs trials. Tune calls this once per process."""
        setup: WorkerConfig = given["setup"]
        os.environ.update(thread_variables(setup.threads))
        name = f"{setup.worker}-{str(ray.get_runtime_context().get_actor_id())[:8]}"
        self._stop_file = stop_file(setup)
        given_files: DriverFiles | None = given["driver_files"]
        self._trial_thread = _TrialThread(replace(setup, worker=name), given["make"], given["code"], given_files)
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial. The process keeps everything that it has loaded."""
        self._take(new_config)
        return True

    def _take(self, config: Mapping[str, Any]) -> None:
        placed: Placement = config["placed"]
        self._next = (placed.trial, placed.weights) if placed.trial else None
        self.config = {}  # Tune would send it back with every result.
        self._show_in_dashboard()

    def step(self) -> dict[str, Any]:
        """Run until a task or the whole trial has ended; returns its metrics for Tune."""
        if self._next is not None:
            self._item = self._trial_thread.start(*self._next)
            self._next = None
        while True:
            try:
                item, note = self._trial_thread.notes.get(timeout=LOOK_EVERY_S)
                if item == self._item or (note is not None and note.kind == "fatal"):
                    break
            except queue.Empty:
                if files.exists(self._stop_file):
                    self._trial_thread.interrupt()
                    return {"done": True}
        if note is None:
            return {"done": True, OVER: True}
        if note.kind == "fatal":
            return {"done": True, "fatal": note.facts["error"]}
        result = {key: note.facts[key] for key in ("task", "tasks", "task_name", "image_auroc")}
        result |= {f"validation_{metric}": value for metric, value in (note.facts["validation"] or {}).items()}
        progress = f"{result['task'] + 1}/{result['tasks']} {result['task_name']} {_short(result['image_auroc'])}"
        self._show_in_dashboard(f" [{progress}]")
        return result

    def cleanup(self) -> None:
        """Write the remaining rows; a trial that Tune has stopped ends at its next epoch."""
        self._trial_thread.end()
        while self._trial_thread.stopping and not files.exists(self._stop_file):
            time.sleep(LOOK_EVERY_S)

    def _show_in_dashboard(self, progress: str = "") -> None:
        # The dashboard lists calls by their names, and Tune's calls all have the same one. So the
        # actor calls itself under the trial's name.
        ray.get_runtime_context().current_actor.shown.options(name=f"{self.trial_name}{progress}").remote()

    def shown(self) -> None:
        """Do nothing: only the name of the call matters."""


class _TrialThread:
    """Runs trials in a thread, in which the worker lives; the actor's own thread talks to Tune.

    Attributes:
        notes: pairs of a trial's number and a `task` or `fatal` event of it; None instead of an
            event when it has ended.

    """

    def __init__(self, setup: WorkerConfig, make: MakeWorker, code: str, driver: DriverFiles | None) -> None:
        self.notes: queue.SimpleQueue[tuple[int, Event | None]] = queue.SimpleQueue()
        self._setup, self._make, self._code, self._driver = setup, make, code, driver
        self._given: queue.SimpleQueue[tuple[int, Trial, Path | None] | None] = queue.SimpleQueue()
        self._items, self._item, self._trial_id = 0, 0, ""
        self._pruned = stop_requests.prune_requests(setup.folder)
        self._busy = False
        self._thread = threading.Thread(target=self._serve, name="trials", daemon=True)
        self._thread.start()

    def start(self, trial: Trial, weights: Path | None) -> int:
        """Run a trial after those before it; returns its number in `notes`."""
        self._items += 1
        self._given.put((self._items, trial, weights))
        return self._items

    @property
    def stopping(self) -> bool:
        """True if the running trial is marked as pruned; it stops at its next epoch."""
        return self._thread.is_alive() and self._busy and self._pruned.is_set(self._trial_id)

    def interrupt(self) -> None:
        """Stop the running trial as SIGTERM would: its attempt is recorded as interrupted.

        No signal reaches this thread, so the exception is set from outside. It is raised at the
        thread's next bytecode, that is, not within a call of torch.
        """
        from orchestrator.execution.signals import WorkerStopped

        if self._thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread.ident), ctypes.py_object(WorkerStopped)
            )
        self._thread.join(STOP_WITHIN_S)

    def end(self) -> None:
        """End the thread after it has written everything."""
        self._given.put(None)
        self._thread.join(STOP_WITHIN_S)

    def _serve(self) -> None:
        try:
            if code_digest() != self._code:
                raise RuntimeError("the project's code on that node differs from the driver's")
            node = Node(self._driver, self._setup)
            worker = self._make(node.setup, self._on_event)
        except Exception as error:
            why = disk.explain_disk_error(self._setup.folder, error) if isinstance(error, OSError) else str(error)
            where = cast(Any, ray.util).get_node_ip_address()
            self._busy = True
            self._on_event(Event("fatal", "", {"error": f"no worker can start on {where}: {why}"}))
            return
        from orchestrator.execution.signals import WorkerStopped

        with contextlib.suppress(WorkerStopped), _process_ends_if_gpu_breaks():
            try:
                while (given := self._next(worker)) is not None:
                    self._item, trial, weights = given
                    self._trial_id, self._busy = trial.id, True
                    if (prepared := self._prepared(node, trial, weights)) is not None:
                        worker.run(prepared)
                    self._busy = False
                    self.notes.put((self._item, None))
            finally:
                worker.flush()

    def _prepared(self, node: Node, trial: Trial, weights: Path | None) -> Trial | None:
        """The trial once its files are on this node; None if no node can have them."""
        try:
            return node.prepared(trial, weights)
        except (OSError, MoleflowError) as error:
            if isinstance(error, OSError) and not disk.takes_no_more(error):
                raise  # The driver sees this process die, and tries elsewhere.
            where = cast(Any, ray.util).get_node_ip_address()
            self._on_event(Event("fatal", trial.id, {"error": f"the files cannot be brought to {where}: {error}"}))
            return None

    def _next(self, worker: TrialRunner) -> tuple[int, Trial, Path | None] | None:
        while True:
            try:
                return self._given.get(timeout=worker.seconds_until_due())
            except queue.Empty:
                worker.flush()

    def _on_event(self, event: Event) -> None:
        if event.kind == "fatal" and not self._busy:
            # Between two trials the driver reads no notes. It sees the process die; the next
            # process meets the same error within a trial.
            os._exit(1)
        if event.kind in ("task", "fatal"):
            self.notes.put((self._item, event))


@contextlib.contextmanager
def _process_ends_if_gpu_breaks() -> Iterator[None]:
    """End the process after an error of its GPU; Tune starts another for the next trial."""
    from orchestrator.execution.gpu_errors import GPU_BROKEN_EXIT, GpuBroken

    try:
        yield
    except GpuBroken:
        os._exit(GPU_BROKEN_EXIT)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
