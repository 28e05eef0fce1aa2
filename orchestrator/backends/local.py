"""This machine: long-lived worker processes, each with its threads or its share of a GPU."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import selectors
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING

from orchestrator.execution.backend import TrialSupply, WorkerConfig, WorkItem, run_loop
from orchestrator.host import disk
from orchestrator.host.environment_variables import set_variables, thread_variables
from orchestrator.host.hardware import available_cores, memory_gb, visible_gpus
from orchestrator.records.attempts import WORKER_DIED
from orchestrator.records.events import ENDS, Event, Events
from orchestrator.sweep.file_schema import Resources
from orchestrator.sweep.trial import Trial

if TYPE_CHECKING:
    from orchestrator.execution.worker import Worker

    MakeWorker = Callable[[WorkerConfig, Events], Worker]

STOP_SECONDS = 5.0


class LocalBackend:
    """N worker processes on this machine.

    Args:
        workers: how many at once; None = as many as the GPUs hold where there are any, else as the cores and the memory do.
        resources: what one trial needs; `gpus` is for schedulers, here the device option decides.
        stop_seconds: how long workers that are told to stop may take.
        make: what runs trials in a worker process; a function that other processes can import.

    """

    def __init__(
        self,
        setup: WorkerConfig,
        workers: int | None = None,
        resources: Resources | None = None,
        stop_seconds: float = STOP_SECONDS,
        make: MakeWorker | None = None,
    ) -> None:
        needs = resources or Resources()
        self._setup, self._stop_seconds, self._make = setup, stop_seconds, make
        gpus = [] if setup.device == "cpu" else visible_gpus()
        slots = [gpu for gpu in gpus for _ in range(needs.trials_per_gpu)]
        fitting = min(available_cores() // max(setup.threads, needs.cpus), memory_gb() // needs.mem_gb)
        count = workers or len(slots) or max(1, int(fitting))
        self._slots = [slots[n % len(slots)] if slots else None for n in range(count)]

    @property
    def workers(self) -> int:
        """How many processes it starts at most."""
        return len(self._slots)

    def run(self, source: TrialSupply, events: Events) -> None:
        """Pull and run until the source is done."""
        run_loop(_LocalEngine(self._setup, self._slots, self._stop_seconds, self._make), source, events)


@dataclass
class _WorkerSlot:
    """One worker process, its pipe, and the trials it has not yet reported the end of."""

    number: int
    gpu: str | None
    process: SpawnProcess
    pipe: Connection
    busy: bool
    open: dict[str, None]


class _LocalEngine:
    def __init__(
        self, setup: WorkerConfig, slots: list[str | None], stop_seconds: float, make: MakeWorker | None
    ) -> None:
        self._setup, self._slots, self._stop_seconds, self._make = setup, slots, stop_seconds, make
        self._context = multiprocessing.get_context("spawn")
        self._seats: dict[int, _WorkerSlot] = {}
        self._selector = selectors.DefaultSelector()  # Kept: to make one for each look costs more than the look.

    def free(self) -> int:
        return sum(1 for n in range(len(self._slots)) if n not in self._seats or not self._seats[n].busy)

    def submit(self, item: WorkItem) -> None:
        idle = next((seat for seat in self._seats.values() if not seat.busy), None)
        seat = idle or self._start(next(n for n in range(len(self._slots)) if n not in self._seats))
        seat.busy = True
        seat.open |= dict.fromkeys(item.trial_ids)
        with contextlib.suppress(BrokenPipeError):  # The next poll finds it dead and reports its trials.
            seat.pipe.send(item.trials)

    def poll(self, seconds: float) -> list[Event]:
        if not self._seats:
            time.sleep(seconds)
            return []
        found: list[Event] = []
        ready = {key.fileobj: key.data for key, _ in self._selector.select(seconds)}
        for seat in {seat.number: seat for seat in ready.values()}.values():
            if seat.process.sentinel in ready:
                while seat.pipe.poll() and self._receive(seat, found.append):
                    pass  # Whatever it sent before it died.
                found += self._lost(seat)
            else:
                self._receive(seat, found.append)
        return found

    def withdraw(self) -> list[Event]:
        return []  # What is submitted runs.

    def close(self) -> None:
        for seat in self._seats.values():
            with contextlib.suppress(OSError):
                seat.pipe.send(None)
            if seat.open:
                seat.process.terminate()
        deadline = time.monotonic() + self._stop_seconds
        for seat in list(self._seats.values()):
            seat.process.join(max(0.1, deadline - time.monotonic()))
            if seat.process.is_alive():
                seat.process.kill()
                seat.process.join()
            self._leave(seat)
        self._selector.close()

    def _start(self, number: int) -> _WorkerSlot:
        here, there = self._context.Pipe()
        setup = replace(self._setup, worker=f"{self._setup.worker}-{number}")
        variables = thread_variables(setup.threads)
        gpu = self._slots[number]
        if gpu is not None:
            variables["CUDA_VISIBLE_DEVICES"] = gpu
        process = self._context.Process(
            target=_run_worker, args=(there, setup, self._make), name=f"moleflow worker {number}", daemon=True
        )
        # Ctrl-C reaches the whole process group, and so may SLURM's warning; the driver alone acts on them, from the worker's first
        # instruction on.
        before = {heard: signal.signal(heard, signal.SIG_IGN) for heard in (signal.SIGINT, signal.SIGUSR2)}
        try:
            with set_variables(variables):
                process.start()
        finally:
            for heard, handler in before.items():
                signal.signal(heard, handler)
        there.close()
        seat = self._seats[number] = _WorkerSlot(number, gpu, process, here, busy=False, open={})
        self._selector.register(here, selectors.EVENT_READ, seat)
        self._selector.register(process.sentinel, selectors.EVENT_READ, seat)
        return seat

    def _leave(self, seat: _WorkerSlot) -> None:
        del self._seats[seat.number]
        self._selector.unregister(seat.pipe)
        self._selector.unregister(seat.process.sentinel)
        seat.pipe.close()

    def _receive(self, seat: _WorkerSlot, take: Callable[[Event], None]) -> bool:
        """Take one message, waiting for it where none is there; False once there will be no more."""
        try:
            message = seat.pipe.recv()
        except (EOFError, OSError):
            return False
        if message is None:
            seat.busy = False
            return True
        if message.kind in ENDS:
            seat.open.pop(message.trial_id, None)
        if message.kind == "fatal":  # It takes no more work, and what it still had has not failed.
            seat.busy = False
            seat.open.clear()
        take(message)
        return True

    def _lost(self, seat: _WorkerSlot) -> list[Event]:
        """A worker died: each trial it still had costs an attempt, and its seat is free for a new process."""
        seat.process.join()
        self._leave(seat)
        code = seat.process.exitcode or 0
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        error = f"the worker process died {how}" + ("; the machine may be out of memory" if code == -9 else "")
        return [
            Event("failed", trial_id, {"error": error, "error_kind": WORKER_DIED, "traceback": None})
            for trial_id in seat.open
        ]


def _run_worker(pipe: Connection, setup: WorkerConfig, make: MakeWorker | None) -> None:
    """The life of a worker process: take trials until told to end or until the driver is gone."""
    from orchestrator.execution.signals import WorkerStopped, stop_on_signal
    from orchestrator.execution.worker import Worker

    def tell(event: Event) -> None:
        try:
            pipe.send(event)
        except OSError:
            raise WorkerStopped from None  # The driver is gone, and nobody would ever wait for this process.

    stop_on_signal()
    with contextlib.suppress(WorkerStopped, EOFError, BrokenPipeError, ConnectionResetError):
        try:
            worker = (make or Worker)(setup, tell)
        except Exception as error:
            why = (
                disk.explain_disk_error(setup.folder, error)
                if isinstance(error, OSError)
                else f"no worker can start: {error}"
            )
            tell(Event("fatal", "", {"error": why}))
            return
        asked = selectors.DefaultSelector()
        asked.register(pipe, selectors.EVENT_READ)
        try:
            while True:
                if not asked.select(worker.seconds_until_due()):
                    worker.flush()
                    continue
                trials: tuple[Trial, ...] | None = pipe.recv()
                if trials is None:
                    break
                for trial in trials:
                    worker.run(trial)
                pipe.send(None)
        finally:
            signal.signal(
                signal.SIGTERM, signal.SIG_IGN
            )  # The rest takes no time, and nobody would catch a Stop in it.
            worker.flush()
    os._exit(0)  # Everything is written; the interpreter would take a second to take torch apart.
