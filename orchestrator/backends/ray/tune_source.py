"""The driver's side of a Ray run: open trials, the events of workers, and dead workers."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.search import Searcher

from moleflow.features.weights import weights_file
from orchestrator.backends.ray.trial_actor import OVER, Placement
from orchestrator.execution.backend import SourceSignal, TrialSupply, WorkerConfig, WorkItem
from orchestrator.records import stop_requests
from orchestrator.records.attempts import DIED, RUNNING, WORKER_DIED, AttemptFolder, AttemptRecord
from orchestrator.records.dead_attempts import record_dead_attempts
from orchestrator.records.event_log import LogFollower, event_logs
from orchestrator.records.events import ENDS, Event, Events
from orchestrator.records.stalls import read_stall
from orchestrator.results.store import ResultStore
from orchestrator.sweep.trial import Trial

LOOK_EVERY_S = 0.2
VALIDATION = "validation_"  # Tune's schedulers compare these metrics, also with those of ended trials.
KEPT_OF_A_RESULT = {"done", "training_iteration", "trial_id", "task", "tasks", "task_name", "image_auroc"}
END_WITHIN_S = 10.0


class NoMoreTrials(BaseException):
    """Raised inside Tune to end the run although trials are running.

    A BaseException, so that Tune does not catch it and wait for them.
    """


@dataclass
class TuneSource:
    """Stands between the source of trials and Tune, which places them.

    Workers write their events, ends included, into their logs, which are read here. Tune only says
    that a trial has ended or that its process died. If the log of an ended trial has no end, its
    attempt record decides.

    Attributes:
        setup: what the workers need.
        source: where the trials come from.
        events: called with every event.
        max_items: trials that Tune may have at once.
        clock: seconds since an arbitrary start.
        collect_stalls: brings the tracebacks of stalled processes from nodes without a shared disk.
        placed: the ids of the trials that Tune has, by Tune's ids.

    """

    setup: WorkerConfig
    source: TrialSupply
    events: Events
    max_items: float
    clock: Callable[[], float] = time.monotonic
    collect_stalls: Callable[[], None] = lambda: None
    placed: dict[str, str] = field(default_factory=dict)
    _open: dict[str, str] = field(default_factory=dict)  # Tune's ids by trial ids
    _end_missing: dict[str, float] = field(default_factory=dict)  # when Tune ended trials without an end

    def __post_init__(self) -> None:
        self._records = AttemptFolder(self.setup.folder / "attempts")
        self._follower = LogFollower(event_logs(self.setup.folder), clock=self.clock)
        self._logs = f"{self.setup.worker}-*"
        self._follower.read_new(self._logs)  # Skips the events of an earlier process with the same number.

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles this to resume a run; a sweep resumes from its results folder."""
        return {}

    def next(self, tune_id: str) -> WorkItem | SourceSignal:
        """The next item, known to Tune as `tune_id` from now on.

        Raises:
            NoMoreTrials: the source is done although trials are running.

        """
        # Given nothing, Tune sleeps for a second. So an idle Tune gets the newest events at once.
        self.read_logs(None if self.placed else 0.0)
        if len(self.placed) >= self.max_items:
            return SourceSignal.WAIT
        answer = self.source.next()
        if isinstance(answer, WorkItem):
            self.placed[tune_id] = answer.trial.id
            self._open[answer.trial.id] = tune_id
        elif answer is SourceSignal.DONE and self._open:
            raise NoMoreTrials
        return answer

    def read_logs(self, every_s: float | None = None) -> None:
        """Report the new events of the workers, at most once in `every_s` seconds.

        None: often while an end is missing, seldom otherwise, since Tune tells of tasks and ends.
        """
        if every_s is None and self._end_missing:
            every_s = LOOK_EVERY_S
        entries = self._follower.read_due(self._logs, every_s)
        if entries is None:
            return
        for entry in entries:
            self._report(entry.event)
        now = self.clock()
        for trial_id in [name for name, since in self._end_missing.items() if now - since > END_WITHIN_S]:
            self._end_by_record(trial_id)

    def on_complete(self, tune_id: str) -> None:
        """Tune has ended a trial; the end of ours is still to come from the logs."""
        if trial_id := self._open_trial(tune_id):
            self._end_missing[trial_id] = self.clock()
        self.placed.pop(tune_id, None)

    def on_early_stop(self, tune_id: str) -> None:
        """A scheduler of Tune stops a trial: ask its worker to stop; the end comes from the log."""
        if trial_id := self._open_trial(tune_id):
            with contextlib.suppress(OSError):  # The disk is full: the trial runs to its end.
                stop_requests.prune_requests(self.setup.folder).add([trial_id])

    def on_death(self, tune_id: str, how: str) -> None:
        """The process of a trial died: every trial in it that had not ended loses an attempt.

        A worker may have held back the rows of trials that ended just before. They are lost, too.
        """
        self.read_logs(every_s=0.0)
        self.collect_stalls()
        records = {trial_id: self._running_attempt(trial_id) for trial_id in self._open}
        died = self._open_trial(tune_id)
        self.placed.pop(tune_id, None)
        worker = _worker(records[died]) if died else None
        for trial_id, record in records.items():
            if trial_id == died or (worker and _worker(record) == worker):
                self._fail(trial_id, record, f"the Ray worker that ran it died ({how})")

    def on_fatal(self, error: str) -> None:
        """A worker cannot continue, and no other one could."""
        self._report(Event("fatal", "", {"error": error}))

    @property
    def open_trials(self) -> frozenset[str]:
        """The trials that were handed out and whose end has not been reported."""
        return frozenset(self._open)

    def _report(self, event: Event) -> None:
        if event.trial_id not in self._open and event.kind != "fatal":
            return
        if event.kind in ENDS:
            self._open.pop(event.trial_id, None)
            self._end_missing.pop(event.trial_id, None)
        self.events(event)

    def _open_trial(self, tune_id: str) -> str | None:
        trial_id = self.placed.get(tune_id, "")
        return trial_id if self._open.get(trial_id) == tune_id else None

    def _running_attempt(self, trial_id: str) -> AttemptRecord | None:
        attempts = self._records.of_trial(trial_id)
        last = attempts[-1] if attempts else None
        ours = last is not None and (_worker(last) or "").startswith(f"{self.setup.worker}-")
        return last if last is not None and ours and last.content.get("state") == RUNNING else None

    def _end_by_record(self, trial_id: str) -> None:
        """End a trial without an end in its log: the disk was full, or its worker died idle."""
        attempts = self._records.of_trial(trial_id)
        state = attempts[-1].state if attempts else DIED
        if state == RUNNING:
            return
        if state != DIED:
            content = attempts[-1].content
            self._report(Event(state if state in ENDS else "finished", trial_id, dict(content)))  # type: ignore[arg-type]
            return
        error = "the Ray worker that ran it died after the trial's end, before its results were written"
        self._fail(trial_id, self._running_attempt(trial_id), error)

    def _fail(self, trial_id: str, record: AttemptRecord | None, error: str) -> None:
        # Ray knows of the death before the heartbeat is missed. With the death on record, the next
        # attempt need not wait.
        stall = read_stall(record) if record else None
        with contextlib.suppress(OSError):  # The disk is full: the next start records the death.
            record_dead_attempts(self._records, ResultStore(self.setup.folder), [record] if record else [], error)
        facts = stall.facts if stall else {"error": error, "error_kind": WORKER_DIED, "traceback": None}
        self._report(Event("failed", trial_id, facts))


def _weights(trial: Trial) -> Path | None:
    """The file of weights that the user or the package brought; nodes may lack it."""
    path = weights_file(trial.config.backbone)
    return None if path is None else path.absolute()


def _worker(record: AttemptRecord | None) -> str | None:
    return record.content.get("row", {}).get("worker") if record else None


class SourceSearcher(Searcher):
    """Gives Tune the trials of a source. It keeps no state: ends come through `TuneCallback`."""

    def __init__(self, tune_source: TuneSource) -> None:
        super().__init__()
        self._tune_source = tune_source

    def suggest(self, trial_id: str) -> Any:
        """The next item as a configuration; None = ask again later; FINISHED = no more items."""
        answer = self._tune_source.next(trial_id)
        if isinstance(answer, WorkItem):
            return {"placed": Placement(answer.trial, _weights(answer.trial))}
        return str(Searcher.FINISHED) if answer is SourceSignal.DONE else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: see the class."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the sweep's state is in its results folder."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: see `save`."""


class TuneCallback(Callback):
    """Passes Tune's reports on to the source."""

    def __init__(self, tune_source: TuneSource) -> None:
        self._tune_source = tune_source

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Read the logs; Tune calls this several times a second."""
        self._tune_source.read_logs()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Handle the end of a task or of a trial, or a fatal error."""
        self._tune_source.read_logs(every_s=0.0)
        if "fatal" in result:
            self._tune_source.on_fatal(result["fatal"])
        elif result.get("done") and OVER not in result:
            self._tune_source.on_early_stop(trial.trial_id)
        # Tune keeps all other values for every trial, with statistics of each number.
        for name in result.keys() - KEPT_OF_A_RESULT:
            if not name.startswith(VALIDATION):
                del result[name]
        if "task" not in result:
            # The last result of a trial has no metrics. The median rule looks for them in every
            # result up to the current iteration; at maxsize it never reaches this one.
            result["training_iteration"] = sys.maxsize

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Handle the end of a trial."""
        self._tune_source.on_complete(trial.trial_id)
        trial.config["placed"].release()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Handle the death of a trial's process."""
        error = trial.get_pickled_error()
        self._tune_source.on_death(trial.trial_id, type(error).__name__ if error else "no reason given")
        trial.config["placed"].release()
