"""This machine: long-lived worker processes, each with its threads or its share of a GPU."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING

from orchestrator import disk
from orchestrator.attempts import WORKER_DIED
from orchestrator.events import ENDS, Event, Events
from orchestrator.sweep_file import Resources
from orchestrator.trial import Trial
from orchestrator.variables import thread_variables, variables_set
from orchestrator.work import Setup, Source, WorkItem, run_loop

if TYPE_CHECKING:
    from orchestrator.worker import Worker

    MakeWorker = Callable[[Setup, Events], Worker]

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
        setup: Setup,
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

    def run(self, source: Source, events: Events) -> None:
        """Pull and run until the source is done."""
        run_loop(_LocalEngine(self._setup, self._slots, self._stop_seconds, self._make), source, events)


@dataclass
class _Seat:
    """One worker process, its pipe, and the trials it has not yet reported the end of."""

    number: int
    gpu: str | None
    process: SpawnProcess
    pipe: Connection
    busy: bool
    open: dict[str, None]


class _LocalEngine:
    def __init__(self, setup: Setup, slots: list[str | None], stop_seconds: float, make: MakeWorker | None) -> None:
        self._setup, self._slots, self._stop_seconds, self._make = setup, slots, stop_seconds, make
        self._context = multiprocessing.get_context("spawn")
        self._seats: dict[int, _Seat] = {}
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

    def _start(self, number: int) -> _Seat:
        here, there = self._context.Pipe()
        setup = replace(self._setup, worker=f"{self._setup.worker}-{number}")
        variables = thread_variables(setup.threads)
        gpu = self._slots[number]
        if gpu is not None:
            variables["CUDA_VISIBLE_DEVICES"] = gpu
        process = self._context.Process(
            target=_serve, args=(there, setup, self._make), name=f"moleflow worker {number}", daemon=True
        )
        # Ctrl-C reaches the whole process group, and so may SLURM's warning; the driver alone acts on them, from the worker's first
        # instruction on.
        before = {heard: signal.signal(heard, signal.SIG_IGN) for heard in (signal.SIGINT, signal.SIGUSR2)}
        try:
            with variables_set(variables):
                process.start()
        finally:
            for heard, handler in before.items():
                signal.signal(heard, handler)
        there.close()
        seat = self._seats[number] = _Seat(number, gpu, process, here, busy=False, open={})
        self._selector.register(here, selectors.EVENT_READ, seat)
        self._selector.register(process.sentinel, selectors.EVENT_READ, seat)
        return seat

    def _leave(self, seat: _Seat) -> None:
        del self._seats[seat.number]
        self._selector.unregister(seat.pipe)
        self._selector.unregister(seat.process.sentinel)
        seat.pipe.close()

    def _receive(self, seat: _Seat, take: Callable[[Event], None]) -> bool:
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

    def _lost(self, seat: _Seat) -> list[Event]:
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


def _serve(pipe: Connection, setup: Setup, make: MakeWorker | None) -> None:
    """The life of a worker process: take trials until told to end or until the driver is gone."""
    from orchestrator.worker import Stop, Worker, stop_on_signal

    def tell(event: Event) -> None:
        try:
            pipe.send(event)
        except OSError:
            raise Stop from None  # The driver is gone, and nobody would ever wait for this process.

    stop_on_signal()
    with contextlib.suppress(Stop, EOFError, BrokenPipeError, ConnectionResetError):
        try:
            worker = (make or Worker)(setup, tell)
        except Exception as error:
            why = disk.explain(setup.folder, error) if isinstance(error, OSError) else f"no worker can start: {error}"
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


def memory_gb() -> float:
    """Memory of this machine in GB; as much as anyone asks for where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError, AttributeError):
        return math.inf


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; found without loading CUDA."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [gpu for gpu in given.split(",") if gpu.strip() not in ("", "-1")]
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.split()
