"""The driver's account of what Tune runs: which trials are open, what their workers told, and what became of those that died."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ray.tune import Callback
from ray.tune.search import Searcher

from orchestrator.backends.ray.trial_actor import OVER, Placement
from orchestrator.execution.backend import SourceSignal, TrialSupply, WorkerConfig, WorkItem
from orchestrator.records import stop_requests
from orchestrator.records.attempts import DIED, RUNNING, WORKER_DIED, AttemptFolder, AttemptRecord
from orchestrator.records.dead_attempts import record_dead_attempts
from orchestrator.records.event_log import LogFollower, event_logs
from orchestrator.records.events import ENDS, Event, Events
from orchestrator.results.store import ResultStore

LOOK_EVERY_S = 0.2
MEASURED = "validation_"  # What schedulers of Tune compare; they come back to the results of trials that are over.
KEPT_OF_A_RESULT = {"done", "training_iteration", "trial_id", "task", "tasks", "task_name", "image_auroc"}
WORD_WITHIN_S = 10.0


class NoMoreTrials(BaseException):
    """Nothing that Tune still runs is wanted; not an Exception, so that Tune does not wait for it."""


@dataclass
class TuneSource:
    """Trials between the source, which gives them out, and Tune, which places them.

    What a worker tells is read from its log, progress and ends alike; Tune's word only says that a trial is over, or that its process
    died. The truth about a trial whose worker left no word is in its attempt record.

    Attributes:
        most: how many items Tune may have at once.
        placed: items that Tune has, by Tune's id.

    """

    setup: WorkerConfig
    source: TrialSupply
    events: Events
    most: float
    clock: Callable[[], float] = time.monotonic
    placed: dict[str, WorkItem] = field(default_factory=dict)
    _open: dict[str, str] = field(default_factory=dict)  # Tune's ids by trial ids
    _unheard: dict[str, float] = field(default_factory=dict)  # when Tune had done with a trial whose end nobody told
    _looked: float = 0.0

    def __post_init__(self) -> None:
        self._records = AttemptFolder(self.setup.folder / "attempts")
        self._follower = LogFollower(event_logs(self.setup.folder))
        self._follower.look(f"{self.setup.worker}-*")  # Written by an earlier process of the same number.

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles whatever it is given, to go on from there another day; a sweep goes on from its results folder."""
        return {}

    def next(self, tune_id: str) -> WorkItem | SourceSignal:
        """The next item, from now on known to Tune as `tune_id`.

        Raises:
            Over: whatever still runs shall not go on.

        """
        # Tune sleeps for a second where it has nothing and is given nothing.
        self.look(LOOK_EVERY_S if self.placed else 0.0)
        if len(self.placed) >= self.most:
            return SourceSignal.WAIT
        answer = self.source.next()
        if isinstance(answer, WorkItem):
            self.placed[tune_id] = answer
            self._open |= dict.fromkeys(answer.trial_ids, tune_id)
        elif answer is SourceSignal.DONE and self._open:
            raise NoMoreTrials
        return answer

    def look(self, every_s: float = LOOK_EVERY_S) -> None:
        """Pass on what workers told since the last look."""
        now = self.clock()
        if now - self._looked < every_s:
            return
        self._looked = now
        for entry in self._follower.look(f"{self.setup.worker}-*"):
            self._hear(entry.event)
        for trial_id in [name for name, since in self._unheard.items() if now - since > WORD_WITHIN_S]:
            self._ask_record(trial_id)

    def over(self, tune_id: str) -> None:
        """Tune has done with an item."""
        for trial_id in self._of(tune_id):
            self._unheard[trial_id] = self.clock()

    def stopped(self, tune_id: str) -> None:
        """A scheduler of Tune has seen enough of an item; its worker will tell when it has stopped."""
        with contextlib.suppress(OSError):  # A full disk: the worker goes on.
            stop_requests.prune_requests(self.setup.folder).add(self._of(tune_id, take=False))

    def died(self, tune_id: str, how: str) -> None:
        """The process that ran an item is gone: every trial that it had not ended costs an attempt."""
        self.look(every_s=0.0)
        records = {trial_id: self._running(trial_id) for trial_id in self._open}
        workers = {_worker(records.get(trial_id)) for trial_id in self._of(tune_id, take=False)} - {None}
        lost = dict.fromkeys(self._of(tune_id))
        lost |= {name: None for name, record in records.items() if record and _worker(record) in workers}
        error = f"the Ray worker that ran it died ({how})"
        for trial_id in lost:
            self._bury(records[trial_id], error)
            self._hear(Event("failed", trial_id, {"error": error, "error_kind": WORKER_DIED, "traceback": None}))

    def fatal(self, error: str) -> None:
        """A worker cannot go on, and no other one could."""
        self._hear(Event("fatal", "", {"error": error}))

    @property
    def open(self) -> frozenset[str]:
        """The trials that were given out and whose end nobody has told yet."""
        return frozenset(self._open)

    def _hear(self, event: Event) -> None:
        if event.trial_id not in self._open and event.kind != "fatal":
            return
        if event.kind in ENDS:
            self._open.pop(event.trial_id, None)
            self._unheard.pop(event.trial_id, None)
        self.events(event)

    def _of(self, tune_id: str, take: bool = True) -> list[str]:
        """The open trials of an item; an item that is taken is no longer placed."""
        item = self.placed.pop(tune_id, None) if take else self.placed.get(tune_id)
        return [name for name in (item.trial_ids if item else ()) if self._open.get(name) == tune_id]

    def _running(self, trial_id: str) -> AttemptRecord | None:
        attempts = self._records.of_trial(trial_id)
        last = attempts[-1] if attempts else None
        ours = last is not None and (_worker(last) or "").startswith(f"{self.setup.worker}-")
        return last if last is not None and ours and last.content.get("state") == RUNNING else None

    def _ask_record(self, trial_id: str) -> None:
        """Nobody told how a trial ended, long after Tune had done with it: a log that could not be written, or a worker that died idle."""
        attempts = self._records.of_trial(trial_id)
        state = attempts[-1].state if attempts else DIED
        if state == RUNNING:
            return
        if state != DIED:
            content = attempts[-1].content
            self._hear(Event(state if state in ENDS else "finished", trial_id, dict(content)))  # type: ignore[arg-type]
            return
        error = "the Ray worker that ran it died after the trial's end, before its results were written"
        self._bury(self._running(trial_id), error)
        self._hear(Event("failed", trial_id, {"error": error, "error_kind": WORKER_DIED, "traceback": None}))

    def _bury(self, record: AttemptRecord | None, error: str) -> None:
        """Ray knows that the process is gone before its heartbeat is missed; the next attempt need not wait for that."""
        with contextlib.suppress(OSError):  # A full disk: the next start finds it dead.
            record_dead_attempts(self._records, ResultStore(self.setup.folder), [record] if record else [], error)


def _worker(record: AttemptRecord | None) -> str | None:
    return record.content.get("row", {}).get("worker") if record else None


class SourceSearcher(Searcher):
    """What Tune asks for trials: the same source that every backend pulls from. It knows nothing of what becomes of them."""

    def __init__(self, account: TuneSource) -> None:
        super().__init__()
        self._account = account

    def suggest(self, trial_id: str) -> Any:
        """The next item as a configuration, None to be asked again, or the word that ends the search."""
        answer = self._account.next(trial_id)
        if isinstance(answer, WorkItem):
            return {"placed": Placement(answer.trials)}
        return str(Searcher.FINISHED) if answer is SourceSignal.DONE else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The account hears of ends elsewhere."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the sweep's state is in its results folder."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class TuneCallback(Callback):
    """What Tune reports of its trials, passed on to the account."""

    def __init__(self, account: TuneSource) -> None:
        self._account = account

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Several times a second."""
        self._account.look()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """A task ended, or nothing can go on."""
        if "fatal" in result:
            self._account.fatal(result["fatal"])
        elif result.get("done") and OVER not in result:
            self._account.stopped(trial.trial_id)
        # Tune would keep the rest for every trial, and statistics of each number in it.
        for name in result.keys() - KEPT_OF_A_RESULT:
            if not name.startswith(MEASURED):
                del result[name]
        if "task" not in result:
            # A trial's last word measures nothing; the median rule would look for a measurement wherever it looks at this task.
            result["training_iteration"] = sys.maxsize

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Tune has done with a trial."""
        self._account.over(trial.trial_id)
        trial.config["placed"].release()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """The trial's process died."""
        error = trial.get_pickled_error()
        self._account.died(trial.trial_id, type(error).__name__ if error else "no reason given")
        trial.config["placed"].release()
