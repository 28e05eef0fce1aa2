"""The local backend: worker processes on this machine."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import selectors
import signal
import time
from collections import Counter
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from orchestrator.execution.backend import MakeWorker, TrialSupply, WorkerConfig, WorkItem, run_loop
from orchestrator.execution.gpu_errors import GPU_BROKEN_EXIT, GpuBroken
from orchestrator.execution.make_worker import make_worker
from orchestrator.host import disk
from orchestrator.host.environment_variables import set_variables, thread_variables
from orchestrator.host.hardware import available_cores, memory_gb, visible_gpus
from orchestrator.records.attempts import RUNNING, WORKER_DIED, AttemptFolder
from orchestrator.records.dead_attempts import record_dead_attempts
from orchestrator.records.events import ENDS, Event, Events
from orchestrator.records.stalls import read_stall
from orchestrator.results.store import ResultStore
from orchestrator.sweep.file_schema import Resources
from orchestrator.sweep.trial import Trial

STOP_SECONDS = 5.0
PROOFS = 2
"""Trials that broke a GPU and finished on another one, after which the first gets no more trials. A
trial that breaks every GPU proves nothing against them."""
_LOG = logging.getLogger(__name__)


class LocalBackend:
    """Worker processes on this machine.

    Args:
        setup: what the workers need.
        workers: the number of processes. None = `trials_per_gpu` on each visible GPU. Without a
            GPU, or with `--device cpu`, None = as many as cores and memory allow.
        resources: what one trial needs. `gpus` is for schedulers; here `setup.device` decides.
        stop_seconds: time that workers get to stop before they are killed.
        make: makes the worker of a process; a function that other processes can import.

    Attributes:
        worker_gpus: the GPU of each worker process, as in CUDA_VISIBLE_DEVICES; None = no choice.

    """

    def __init__(
        self,
        setup: WorkerConfig,
        workers: int | None = None,
        resources: Resources | None = None,
        stop_seconds: float = STOP_SECONDS,
        make: MakeWorker = make_worker,
    ) -> None:
        needs = resources or Resources()
        self._setup, self._stop_seconds, self._make = setup, stop_seconds, make
        gpus = [] if setup.device == "cpu" else visible_gpus()
        places = [gpu for gpu in gpus for _ in range(needs.sharing)]
        fitting = min(available_cores() // max(setup.threads, needs.cpus), memory_gb() // needs.mem_gb)
        count = workers or len(places) or max(1, int(fitting))
        self.worker_gpus = [places[n % len(places)] if places else None for n in range(count)]

    def run(self, source: TrialSupply, events: Events) -> None:
        """Pull and run items until the source is DONE."""
        run_loop(_LocalEngine(self._setup, self.worker_gpus, self._stop_seconds, self._make), source, events)


@dataclass
class _WorkerSlot:
    """A worker process, its pipe, the trials whose end it has not reported, and its last trial."""

    number: int
    process: SpawnProcess
    pipe: Connection
    busy: bool
    open: dict[str, None]
    last: str = ""


class _LocalEngine:
    def __init__(self, setup: WorkerConfig, gpus: list[str | None], stop_seconds: float, make: MakeWorker) -> None:
        self._setup, self._gpus, self._stop_seconds, self._make = setup, gpus, stop_seconds, make
        self._context = multiprocessing.get_context("spawn")
        self._slots: dict[int, _WorkerSlot] = {}  # Processes start with their first item.
        self._selector = selectors.DefaultSelector()  # Kept: making one costs more than a poll.
        self._broke: dict[str, set[str | None]] = {}  # The GPUs that broke in a trial.
        self._proven: Counter[str | None] = Counter()  # Such trials that another GPU finished.
        self._held: list[WorkItem] = []  # Items that wait for another GPU than the free ones.

    def free_slots(self) -> int:
        return len(self._free()) - len(self._held)

    def submit(self, item: WorkItem) -> None:
        free = self._free()
        broke = self._broke.get(item.trial.id, set())
        if broke and set(self._gpus) - broke - self._retired():
            free = [number for number in free if self._gpus[number] not in broke]
        if not free:
            self._held.append(item)
            return
        number = next((number for number in free if number in self._slots), free[0])
        slot = self._slots.get(number) or self._start(number)
        slot.busy = True
        slot.open[item.trial.id] = None
        slot.last = item.trial.id
        with contextlib.suppress(BrokenPipeError):  # The next poll finds it dead and reports its trials.
            slot.pipe.send(item.trial)

    def poll(self, seconds: float) -> list[Event]:
        if not self._slots:
            time.sleep(seconds)
            return []
        events: list[Event] = []
        ready = {key.fileobj: key.data for key, _ in self._selector.select(seconds)}
        for slot in {slot.number: slot for slot in ready.values()}.values():
            if slot.process.sentinel in ready:
                # The process is dead, but its last messages may still be in the pipe. A trial that
                # finished just before has not failed.
                while slot.pipe.poll() and self._receive(slot, events):
                    pass
                events += self._report_death(slot)
            else:
                self._receive(slot, events)
        held, self._held = self._held, []
        for item in held:
            self.submit(item)
        return events

    def cancel_queued(self) -> list[Event]:
        held, self._held = self._held, []  # Every other item is already at its worker.
        return [Event("withdrawn", item.trial.id) for item in held]

    def close(self) -> None:
        for slot in self._slots.values():
            with contextlib.suppress(OSError):
                slot.pipe.send(None)
            if slot.open:
                slot.process.terminate()
        # One deadline for all workers together: Ctrl-C must end the command in seconds.
        deadline = time.monotonic() + self._stop_seconds
        for slot in list(self._slots.values()):
            slot.process.join(max(0.1, deadline - time.monotonic()))
            if slot.process.is_alive():
                slot.process.kill()
                slot.process.join()
            self._remove(slot)
        self._selector.close()

    def _start(self, number: int) -> _WorkerSlot:
        pipe, worker_pipe = self._context.Pipe()
        setup = replace(self._setup, worker=f"{self._setup.worker}-{number}")
        variables = thread_variables(setup.threads)
        gpu = self._gpus[number]
        if gpu is not None:
            variables["CUDA_VISIBLE_DEVICES"] = gpu
        process = self._context.Process(
            target=_run_worker, args=(worker_pipe, setup, self._make), name=f"moleflow worker {number}", daemon=True
        )
        # Ctrl-C and a closed terminal reach the whole process group, and so may SLURM's warning.
        # Only the driver acts on them. A child inherits ignored signals, so that none can hit it
        # before it sets its own handlers.
        ignored = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
        before = {each: signal.signal(each, signal.SIG_IGN) for each in ignored}
        try:
            with set_variables(variables):
                process.start()
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
        worker_pipe.close()  # Or the driver's copy would keep the pipe open after the worker's death.
        slot = self._slots[number] = _WorkerSlot(number, process, pipe, busy=False, open={})
        self._selector.register(pipe, selectors.EVENT_READ, slot)
        self._selector.register(process.sentinel, selectors.EVENT_READ, slot)
        return slot

    def _remove(self, slot: _WorkerSlot) -> None:
        del self._slots[slot.number]
        self._selector.unregister(slot.pipe)
        self._selector.unregister(slot.process.sentinel)
        slot.pipe.close()

    def _receive(self, slot: _WorkerSlot, events: list[Event]) -> bool:
        """Take one message, waiting for it if there is none; False at the end of the pipe."""
        try:
            message = slot.pipe.recv()
        except (EOFError, OSError):
            return False
        if message is None:  # The item is done.
            slot.busy = False
            return True
        if message.kind in ENDS:
            slot.open.pop(message.trial_id, None)
        if message.kind == "finished":
            self._count_broken_gpus(message.trial_id)
        if message.kind == "fatal":  # The worker takes no more items, and its open trials have not failed.
            slot.busy = False
            slot.open.clear()
        events.append(message)
        return True

    def _report_death(self, slot: _WorkerSlot) -> list[Event]:
        """Fail the open trials of a dead worker; its slot is free for a new process."""
        slot.process.join()
        self._remove(slot)
        code = slot.process.exitcode or 0
        if code == GPU_BROKEN_EXIT:
            self._broke.setdefault(slot.last, set()).add(self._gpus[slot.number])
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        error = f"the worker process died {how}" + ("; the machine may be out of memory" if code == -9 else "")
        return [
            self._stalled(trial_id, slot)
            or Event("failed", trial_id, {"error": error, "error_kind": WORKER_DIED, "traceback": None})
            for trial_id in slot.open
        ]

    def _free(self) -> list[int]:
        """The numbers of the workers that can take an item; some are not started yet."""
        retired = self._retired()
        return [
            number
            for number, gpu in enumerate(self._gpus)
            if gpu not in retired and not (number in self._slots and self._slots[number].busy)
        ]

    def _retired(self) -> set[str | None]:
        """GPUs that get no more trials: they broke in several that another GPU finished.

        None, if that is true of all of them: some of their trials finish.
        """
        broken = {gpu for gpu, count in self._proven.items() if count >= PROOFS}
        return broken if set(self._gpus) - broken else set()

    def _count_broken_gpus(self, trial_id: str) -> None:
        """Note the GPUs that broke in a trial which now has finished on another one."""
        for gpu in self._broke.pop(trial_id, ()):
            self._proven[gpu] += 1
            if self._proven[gpu] == PROOFS:
                _LOG.warning("GPU %s broke in trials that others finish, and gets no more; see `nvidia-smi -q`", gpu)

    def _stalled(self, trial_id: str, slot: _WorkerSlot) -> Event | None:
        """The end of a trial whose dead worker had made no progress in it, also on record."""
        records = AttemptFolder(self._setup.folder / "attempts")
        last = next(reversed(records.of_trial(trial_id)), None)
        if last is None or last.content.get("pid") != slot.process.pid or last.stored_state != RUNNING:
            return None
        stall = read_stall(last)
        if stall is None:
            return None
        # On a full disk it stays unrecorded until the next start.
        with contextlib.suppress(OSError):
            record_dead_attempts(records, ResultStore(self._setup.folder), [last], stall.error, certain=True)
        return Event("failed", trial_id, stall.facts)


def _run_worker(pipe: Connection, setup: WorkerConfig, make: MakeWorker) -> None:
    """Run trials in a worker process until the driver sends None or is gone."""
    from orchestrator.execution.signals import WorkerStopped, stop_on_signal

    def send(event: Event) -> None:
        try:
            pipe.send(event)
        except OSError:
            raise WorkerStopped from None  # The driver is gone: none waits for this process.

    stop_on_signal()
    code = 0
    with contextlib.suppress(WorkerStopped, EOFError, BrokenPipeError, ConnectionResetError):
        try:
            worker = make(setup, send)
        except Exception as error:
            why = (
                disk.explain_disk_error(setup.folder, error)
                if isinstance(error, OSError)
                else f"no worker can start: {error}"
            )
            send(Event("fatal", "", {"error": why}))
            return
        try:
            while True:
                if not pipe.poll(worker.seconds_until_due()):
                    worker.flush()
                    continue
                trial: Trial | None = pipe.recv()
                if trial is None:
                    break
                worker.run(trial)
                pipe.send(None)
        except GpuBroken:
            code = GPU_BROKEN_EXIT
        finally:
            # A SIGTERM during the last flush would raise WorkerStopped in it and lose rows.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            worker.flush()
    os._exit(code)  # Everything is written; the interpreter would take a second to take torch apart.
