"""Runs trials, one after another, in this process: the only importer of `moleflow.training.sequence`."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from moleflow.cache.array_packs import node_copies
from moleflow.cache.stage_state import Epoch
from moleflow.cache.stages import StageStore
from moleflow.code_digest import code_digest
from moleflow.data.mvtec import DigestCache, TaskData, scan
from moleflow.environment import Environment, open_environment
from moleflow.errors import CodeChanged, InvalidInput, MoleflowError, WeightsUnavailable
from moleflow.features.feature_cache import FeatureCache
from moleflow.settings.config import TrialConfig, canonical_json
from moleflow.training.kept_maps import SIDE, KeptMap, picture
from moleflow.training.sequence import SequenceContext, SequenceResult, TaskReport, run_sequence
from orchestrator.execution.attempt_row import first_row
from orchestrator.execution.backend import WorkerConfig
from orchestrator.execution.signals import WorkerStopped
from orchestrator.host import disk
from orchestrator.records import attempts, stop_requests
from orchestrator.records.attempts import Attempt, AttemptFolder, AttemptRecord
from orchestrator.records.event_log import EventLog, event_logs
from orchestrator.records.events import PROGRESS, Event, Events
from orchestrator.results.schema import DETECTION
from orchestrator.results.store import ResultStore
from orchestrator.results.thumbnails import ThumbnailStore, grey_png
from orchestrator.results.writer import AttemptRows, InvalidRows, PartWriter
from orchestrator.sweep.trial import Trial


class TrialCancelled(BaseException):
    """Nobody wants the trial at hand any more; not an Exception either."""


class TrialPruned(BaseException):
    """Whoever looks at the trial at hand has seen enough of it; not an Exception either."""


class Worker:
    """Runs trials and writes their results; tells `events` what happens."""

    def __init__(self, setup: WorkerConfig, events: Events) -> None:
        self.setup = setup
        self.log = EventLog(event_logs(setup.folder) / f"{setup.worker}.jsonl")
        self.cancelled, self.pruned = (
            stop_requests.cancel_requests(setup.folder),
            stop_requests.prune_requests(setup.folder),
        )
        self._tell = events
        self.environment: Environment = open_environment(setup.device, setup.threads)
        self.features = FeatureCache(setup.cache / "features", copies=node_copies(setup.node_cache))
        self.stages = StageStore(setup.cache / "stages")
        self.attempts = AttemptFolder(setup.folder / "attempts")
        self.store = ResultStore(setup.folder)
        self.pictures = ThumbnailStore(setup.folder)
        self.writer = PartWriter(self.store, setup.worker)
        self._unflushed: list[_EndedAttempt] = []
        self._scanned: dict[tuple[str, ...], tuple[TaskData, ...]] = {}

    def events(self, event: Event) -> None:
        """Tell the driver, and whoever reads the log."""
        self.log(event)
        self._tell(event)

    def run(self, trial: Trial) -> None:
        """One attempt at one trial. Whatever goes wrong in it becomes its record, its row and an event; only `Stop` passes through."""
        row = first_row(self.setup, self.environment, trial)
        try:
            begun = self.attempts.begin(trial.id, row=row, job=self.setup.job)
        except OSError as error:
            self.events(Event("fatal", trial.id, {"error": disk.explain_disk_error(self.setup.folder, error)}))
            return
        if isinstance(begun, AttemptRecord):
            self.events(Event("held", trial.id, {"by": f"{begun.content.get('host')}:{begun.content.get('pid')}"}))
            return
        if self._finished_elsewhere(trial, begun):
            begun.withdraw()
            self.events(Event("elsewhere", trial.id))
            return
        _AttemptRun(self, trial, begun, row).run()

    def seconds_until_due(self) -> float | None:
        """When `flush` wants to be called next; None when there is nothing to write."""
        return self.writer.seconds_until_due()

    def flush(self) -> None:
        """Write what is still held back, and only then call those attempts ended."""
        waiting, self._unflushed = self._unflushed, []
        try:
            self.writer.flush()
        except InvalidRows as refused:
            wrong = [one for one in waiting if one.name in refused.errors]
            self._unflushed = [one for one in waiting if one not in wrong]
            if any(one.state == attempts.FAILED for one in wrong):
                raise  # What every row says cannot be stored: no row would do.
            for one in wrong:
                one.fail(refused.errors[one.name])
            self.flush()
            return
        except OSError as error:
            why = disk.explain_disk_error(self.setup.folder, error)
            for one in waiting:
                self.events(Event("fatal", one.event.trial_id, {"error": why, "attempt": one.attempt.number}))
            return
        for one in waiting:
            _end_quietly(one.attempt, one.state, one.event.facts)
        for one in waiting:
            self.events(one.event)

    def keep(
        self, attempt: Attempt, state: str, rows: AttemptRows, event: Event, fail: Callable[[Exception], None]
    ) -> None:
        """Take an ended attempt's rows; they are written now or, when a part was written less than a second ago, soon.

        Args:
            attempt: the attempt.
            state: how it ended.
            rows: its rows.
            event: what to tell once they are written.
            fail: makes it a failed attempt instead, where a row does not fit the schema or holds a NaN.

        """
        self.writer.add(rows)
        self._unflushed.append(_EndedAttempt(attempt, state, event, fail))
        if self.writer.due():
            self.flush()

    def tasks(self, config: TrialConfig) -> tuple[TaskData, ...]:
        """The images of a trial, looked through once per worker."""
        names = config.data.tasks
        if names not in self._scanned:
            self._scanned[names] = scan(self.setup.data_root, names, DigestCache(self.setup.cache / "digests.json"))
        return self._scanned[names]

    def _finished_elsewhere(self, trial: Trial, attempt: Attempt) -> bool:
        if not any(record.said == attempts.FINISHED for record in attempt.earlier):
            return False
        known = self.store.finished().get(trial.id)
        return known is not None and (known.code_digest == code_digest() or not self.setup.rerun_stale)


@dataclass(frozen=True, eq=False)
class _EndedAttempt:
    """An attempt that has ended and whose rows are not written yet."""

    attempt: Attempt
    state: str
    event: Event
    fail: Callable[[Exception], None]

    @property
    def name(self) -> tuple[str, int]:
        return self.attempt.trial_id, self.attempt.number


class _AttemptRun:
    """One attempt, from its first line to its record's last."""

    def __init__(self, worker: Worker, trial: Trial, attempt: Attempt, row: Mapping[str, Any]) -> None:
        self.worker, self.trial, self.attempt, self.row = worker, trial, attempt, row
        self.started = datetime.now(UTC)
        self.clock = time.perf_counter()
        self.metrics: list[dict[str, Any]] = []
        self.curves: list[dict[str, Any]] = []
        self.reused = 0.0
        self.epochs = 0

    def run(self) -> None:
        try:
            self._tell("started")
            outcome = self._sequence()
        except (WorkerStopped, KeyboardInterrupt):
            self._interrupted()
            self.worker.flush()
            raise
        except TrialCancelled:
            self._keep("cancelled", attempts.INTERRUPTED, error="cancelled", error_kind=attempts.CANCELLED)
        except TrialPruned:
            self._keep("pruned", attempts.PRUNED)
        except OSError as error:
            if disk.takes_no_more(error):
                self._end_all(error, disk.explain_disk_error(self.worker.setup.cache, error))
            else:
                self._fail(error)
        except (CodeChanged, WeightsUnavailable) as error:
            self._end_all(error, str(error))
        except Exception as error:
            self._fail(error)
        else:
            try:
                if outcome.stopped:
                    self._keep("pruned", attempts.PRUNED, outcome=outcome)
                else:
                    self._keep("finished", attempts.FINISHED, outcome=outcome)
            except ValueError as error:
                self._fail(error)

    def _end_all(self, error: Exception, message: str) -> None:
        """What no trial could do without is missing or changed: the sweep ends here, and goes on where it stands once that is mended."""
        _end_quietly(self.attempt, attempts.FAILED, {"error": message, "error_kind": type(error).__name__})
        self._tell("fatal", error=message)

    def _sequence(self) -> SequenceResult:
        worker, trial = self.worker, self.trial
        tasks = worker.tasks(trial.config)
        for data in tasks:
            if trial.inputs.data[data.name] != data.digest:
                raise InvalidInput(
                    f"{data.name}: the images changed after the sweep was planned; start the command again"
                )
        place = SequenceContext(
            tasks,
            worker.features,
            worker.stages,
            worker.environment,
            worker.setup.cache / "synthetic",
            trial.inputs.weights,
        )
        return run_sequence(trial.config, place, self)

    def on_features(self, done: int, total: int) -> None:
        self._tell("features", done=done, total=total)

    def on_epoch(self, task: int, epoch: Epoch) -> None:
        self.epochs += 1
        names = self.trial.config.data.tasks
        self._tell(
            "epoch",
            task=task,
            tasks=len(names),
            task_name=names[task],
            epoch=epoch.epoch,
            epochs=self.trial.config.training.epochs,
            loss=epoch.loss,
        )

    def on_task(self, report: TaskReport) -> bool:
        self.metrics += report.metrics
        self.curves += report.curves
        self.reused += report.seconds_reused
        names = self.trial.config.data.tasks
        own = {row["split"]: row for row in report.metrics if row["task"] == report.task}
        self._tell(
            "task",
            task=report.task,
            tasks=len(names),
            task_name=names[report.task],
            image_auroc=own.get("test", own.get("validation", {})).get("image_auroc"),
            validation=_detection(own["validation"]) if "validation" in own else None,
            reused=report.seconds_reused > 0,
        )
        return not self.worker.pruned.holds(self.trial.id)

    def _means(self, split: str) -> dict[str, float] | None:
        """Detection metrics of a split, mean over the classes seen so far; None where the trial does not score it."""
        rows = [r for r in self.metrics if r["split"] == split and r["after_task"] == self.metrics[-1]["after_task"]]
        found = [_detection(row) for row in rows]
        return (
            {m: sum(f[m] for f in found) / len(found) for m in found[0] if all(m in f for f in found)} if rows else None
        )

    def _tell(self, kind: Any, **facts: object) -> None:
        self.worker.events(
            Event(kind, self.trial.id, {"attempt": self.attempt.number, "worker": self.worker.setup.worker, **facts})
        )
        if kind in PROGRESS and self.worker.cancelled.holds_now(self.trial.id):
            raise TrialCancelled
        if kind in PROGRESS and self.worker.pruned.holds_now(self.trial.id):
            raise TrialPruned

    def _interrupted(self) -> None:
        """Stopped from outside. Under a scheduler's time limit a trial that gets nowhere twice would be stopped for ever."""
        error = "stopped from outside"
        if self.worker.setup.job and not self.epochs and self._stood_still_before():
            time_min = self.worker.setup.time_min
            error += (
                f" twice without finishing an epoch in between; give it more time: resources.time_min is {time_min}"
            )
            self._keep("failed", attempts.FAILED, error=error, error_kind=attempts.NO_PROGRESS)
        else:
            self._keep("interrupted", attempts.INTERRUPTED, error=error, error_kind=attempts.STOPPED)

    def _maps(self, gallery: list[KeptMap]) -> list[dict[str, Any]]:
        """The rows of the kept maps whose pictures are there; a picture that cannot be made costs no figure and no trial."""
        rows = []
        for kept in gallery:
            sample = kept.sample
            try:
                self.worker.pictures.keep(sample.digest, partial(picture, sample))
            except (OSError, MoleflowError) as error:
                self._tell("note", note=f"no anomaly map of {sample.name} is kept: {error}")
                continue
            rows.append(
                {
                    "split": kept.split,
                    "task": kept.task,
                    "task_name": self.trial.config.data.tasks[kept.task],
                    "image": sample.name,
                    "image_digest": sample.digest,
                    "defect": sample.defect,
                    "label": sample.label,
                    "score": kept.score,
                    "why": kept.why,
                    "rank": kept.rank,
                    "map": grey_png(kept.grey, SIDE),
                    "map_low": kept.low,
                    "map_high": kept.high,
                }
            )
        return rows

    def _stood_still_before(self) -> bool:
        earlier = [r for r in self.worker.attempts.of_trial(self.trial.id) if r.attempt < self.attempt.number]
        last = earlier[-1].content if earlier else {}
        stopped = last.get("state") == attempts.INTERRUPTED and last.get("error_kind") == attempts.STOPPED
        return stopped and not last.get("epochs")

    def _fail(self, error: Exception) -> None:
        text = "".join(traceback.format_exception(error))
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        self._keep("failed", attempts.FAILED, error=line, error_kind=type(error).__name__, traceback=text)

    def _keep(
        self,
        kind: Any,
        state: str,
        outcome: SequenceResult | None = None,
        error: str | None = None,
        error_kind: str | None = None,
        traceback: str | None = None,
    ) -> None:
        row = dict(self.row) | {
            "attempt": self.attempt.number,
            "status": state,
            "started_at": self.started,
            "ended_at": datetime.now(UTC),
            "seconds_spent": time.perf_counter() - self.clock,
            "seconds_reused": self.reused,
            "error": error,
            "error_kind": error_kind,
            "traceback": traceback,
        }
        facts: dict[str, Any] = {
            "attempt": self.attempt.number,
            "worker": self.worker.setup.worker,
            "seconds": row["seconds_spent"],
            "epochs": self.epochs,
        }
        if outcome is None:
            rows = AttemptRows(row, self.metrics, [], self.curves) if state == attempts.PRUNED else AttemptRows(row)
            facts |= {"error": error, "error_kind": error_kind, "traceback": traceback}
        else:
            row |= {
                "lora_scaling": outcome.lora_scaling,
                "parameters_total": sum(outcome.parameters_per_task),
                "parameters_per_task": outcome.parameters_per_task,
                "flags": canonical_json(outcome.flags),
                "state_digest": outcome.state_digest,
                "scores_digest": outcome.scores_digest,
            }
            rows = AttemptRows(row, self.metrics, outcome.scores, self.curves, self._maps(outcome.gallery))
            of_split = {split: self._means(split) for split in ("test", "validation")}
            facts["image_auroc"] = (of_split["test"] or of_split["validation"] or {}).get("image_auroc")
            facts["validation"] = of_split["validation"]
            facts["parameters"] = row["parameters_total"]
            facts["cost"] = row["seconds_spent"] + row["seconds_reused"]
        self.worker.keep(self.attempt, state, rows, Event(kind, self.trial.id, facts), self._fail)


def _detection(row: Mapping[str, Any]) -> dict[str, float]:
    """The detection metrics of a row, those that are defined."""
    return {metric: row[metric] for metric in DETECTION if row[metric] is not None}


def _end_quietly(attempt: Attempt, state: str, facts: Mapping[str, Any]) -> None:
    # The part is what counts; a record that cannot be written any more is seen as died and loses nothing.
    told = ("error", "error_kind", "traceback", "seconds", "epochs")
    with contextlib.suppress(OSError):
        attempt.end(state, **{name: facts[name] for name in told if name in facts})
