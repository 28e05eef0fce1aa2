"""The worker: runs trials one after another in its process and writes their results."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from moleflow.cache.array_packs import node_copies
from moleflow.cache.stage_state import Epoch
from moleflow.cache.stages import StageStore
from moleflow.code_digest import code_digest
from moleflow.data.samples import TaskData
from moleflow.data.scan import reading_of, scan
from moleflow.detection.collect import collect_detector
from moleflow.detection.detector_file import write_detector
from moleflow.environment import Environment, open_environment
from moleflow.errors import CodeChanged, InvalidInput, MoleflowError, WeightsUnavailable
from moleflow.features.extract import Extractor, frozen_backbone
from moleflow.features.feature_cache import FeatureCache
from moleflow.settings.config import TrialConfig, canonical_json
from moleflow.settings.task_list import task_name
from moleflow.training.kept_maps import SIDE, KeptMap, picture
from moleflow.training.sequence import Doing, SequenceContext, SequenceResult, TaskReport, run_sequence
from orchestrator.execution.attempt_row import first_row
from orchestrator.execution.backend import WorkerConfig
from orchestrator.execution.gpu_errors import GPU_OUT_OF_MEMORY, GpuBroken, breaks_gpu, explain_full_gpu, fills_gpu
from orchestrator.execution.signals import WorkerStopped
from orchestrator.execution.watchdog import ProgressWatch, TimeLimitReached, WatchedDigests
from orchestrator.host import disk
from orchestrator.records import attempts, stop_requests
from orchestrator.records.attempts import Attempt, AttemptFolder, AttemptRecord
from orchestrator.records.dead_attempts import UNSEEN, record_dead_attempts
from orchestrator.records.event_log import EventLog, event_logs
from orchestrator.records.events import PROGRESS, Event, Events
from orchestrator.results.detector_files import detector_file
from orchestrator.results.schema import DETECTION
from orchestrator.results.store import ResultStore
from orchestrator.results.thumbnails import ThumbnailStore, grey_png
from orchestrator.results.writer import AttemptRows, InvalidRows, PartWriter
from orchestrator.sweep.trial import Trial

TAKEN_FOR_DEAD = "another worker, since this one gave no sign for too long"


class TrialCancelled(BaseException):
    """Raised in a worker whose trial was cancelled.

    A BaseException, so that `except Exception` does not catch it.
    """


class TrialPruned(BaseException):
    """Raised in a worker whose trial was stopped early, for good; a BaseException as above."""


class Worker:
    """Runs trials and writes their results.

    An attempt ends in two steps. First its rows go into a part; then its record says how it ended,
    and its event is sent. If the worker dies in between, the attempt counts as died.

    Args:
        setup: the sweep's folders, the device and the worker's name.
        events: called with every event of the trials.

    """

    def __init__(self, setup: WorkerConfig, events: Events) -> None:
        self.setup = setup
        self.log = EventLog(event_logs(setup.folder) / f"{setup.worker}.jsonl")
        self.cancelled = stop_requests.cancel_requests(setup.folder)
        self.pruned = stop_requests.prune_requests(setup.folder)
        self._send = events
        self.environment: Environment = open_environment(setup.device, setup.threads)
        self.features = FeatureCache(setup.cache / "features", self._backbone, node_copies(setup.node_cache))
        self.stages = StageStore(setup.cache / "stages")
        self.attempts = AttemptFolder(setup.folder / "attempts")
        self.store = ResultStore(setup.folder)
        self.pictures = ThumbnailStore(setup.folder)
        self.writer = PartWriter(self.store)
        self._unflushed: list[_EndedAttempt] = []
        self._scanned: dict[tuple[str, ...], tuple[TaskData, ...]] = {}

    def events(self, event: Event) -> None:
        """Append an event to the worker's log and send it to the driver."""
        self.log(event)
        self._send(event)

    def run(self, trial: Trial) -> None:
        """Make one attempt at a trial.

        An error in it becomes the attempt's record, its row and an event.

        Raises:
            WorkerStopped, KeyboardInterrupt: after the interrupted attempt has been written.
            GpuBroken: after the failed attempt has been written.

        """
        row = first_row(self.setup, self.environment, trial)
        try:
            begun = self.attempts.begin(trial.id, row=row, job=self.setup.job, stall_min=self.setup.stall_min)
        except OSError as error:
            self.events(Event("fatal", trial.id, {"error": disk.explain_disk_error(self.setup.folder, error)}))
            return
        if isinstance(begun, AttemptRecord):  # Another live process holds the trial.
            self.events(Event("held", trial.id, {"by": f"{begun.content.get('host')}:{begun.content.get('pid')}"}))
            return
        # Another driver may have finished the trial after this one made its plan.
        if self._finished_elsewhere(trial, begun):
            begun.withdraw()
            self.events(Event("elsewhere", trial.id))
            return
        # Recorded before the next attempt ends: how often a trial was tried is read from the store.
        dead = [record for record in begun.earlier if record.stored_state == attempts.RUNNING]
        with contextlib.suppress(OSError):
            record_dead_attempts(self.attempts, self.store, dead, UNSEEN)
        attempt = _AttemptRun(self, trial, begun, row)
        with attempt.watch:
            attempt.run()

    def seconds_until_due(self) -> float | None:
        """Seconds until `flush` should be called; None if there is nothing to write."""
        return self.writer.seconds_until_due()

    def flush(self) -> None:
        """Write the rows of ended attempts, then their records, then send their events."""
        waiting, self._unflushed = self._unflushed, []
        try:
            waiting = self._without_lost(waiting)
            self.writer.flush()
        except InvalidRows as refused:
            wrong = [one for one in waiting if one.name in refused.errors]
            self._unflushed = [one for one in waiting if one not in wrong]
            # A refused attempt becomes a failed one whose row says why; the others keep their rows.
            # If that row is refused too, the record alone says why.
            for one in wrong:
                if one.state == attempts.FAILED:
                    _end_record(one.attempt, one.state, one.event.facts)
                    self.events(one.event)
                else:
                    one.fail(refused.errors[one.name])
            self.flush()
            return
        except OSError as error:
            why = disk.explain_disk_error(self.setup.folder, error)
            for one in waiting:
                self.events(Event("fatal", one.event.trial_id, {"error": why, "attempt": one.attempt.number}))
            return
        for one in waiting:
            _end_record(one.attempt, one.state, one.event.facts)
        for one in waiting:
            self.events(one.event)

    def _without_lost(self, waiting: list[_EndedAttempt]) -> list[_EndedAttempt]:
        """The attempts whose end this worker may write.

        The others were taken for dead while this worker slept. Their rows do not count.
        """
        lost = [one for one in waiting if not self.attempts.claim_end(*one.name)]
        self.writer.drop([one.name for one in lost])
        for one in lost:
            one.attempt.stop()
            self.events(Event("held", one.event.trial_id, {"by": TAKEN_FOR_DEAD}))
        return [one for one in waiting if one not in lost]

    def keep(
        self, attempt: Attempt, state: str, rows: AttemptRows, event: Event, fail: Callable[[Exception], None]
    ) -> None:
        """Take the rows of an ended attempt. They are written within a second, or before training.

        Args:
            attempt: the attempt.
            state: how it ended.
            rows: its rows.
            event: sent once they are written.
            fail: makes it a failed attempt, if a row does not fit the schema or holds a NaN.

        """
        self.writer.add(rows)
        self._unflushed.append(_EndedAttempt(attempt, state, event, fail))
        if self.writer.due():
            self.flush()

    def classes(self, config: TrialConfig, report: Callable[[], None]) -> tuple[TaskData, ...]:
        """The images of a trial's classes; each folder is scanned once per worker.

        `report` is called at each image.
        """
        names = config.data.classes
        if names not in self._scanned:
            digests = WatchedDigests(self.setup.image_cache / "digests.json", report)
            self._scanned[names] = scan(self.setup.data_root, names, digests, reading_of(config.data))
        return self._scanned[names]

    def _backbone(self, config: TrialConfig, environment: Environment) -> Extractor:
        with self.setup.weights_at_hand(config.backbone):
            return frozen_backbone(config, environment)

    def _finished_elsewhere(self, trial: Trial, attempt: Attempt) -> bool:
        if not any(record.stored_state == attempts.FINISHED for record in attempt.earlier):
            return False
        known = self.store.finished(fresh=True).get(trial.id)
        return known is not None and (known.code_digest == code_digest() or not self.setup.rerun_stale)


@dataclass(frozen=True, eq=False)
class _EndedAttempt:
    """An attempt that has ended, before its rows are written."""

    attempt: Attempt
    state: str
    event: Event
    fail: Callable[[Exception], None]

    @property
    def name(self) -> tuple[str, int]:
        return self.attempt.trial_id, self.attempt.number


class _AttemptRun:
    """One attempt: runs the sequence, reports its progress and hands over its rows."""

    def __init__(self, worker: Worker, trial: Trial, attempt: Attempt, row: Mapping[str, Any]) -> None:
        self.worker, self.trial, self.attempt, self.row = worker, trial, attempt, row
        self.started = datetime.now(UTC)
        self.clock = time.perf_counter()
        self.metrics: list[dict[str, Any]] = []
        self.curves: list[dict[str, Any]] = []
        self.reused = 0.0
        self.epochs = 0
        self.watch = ProgressWatch(attempt.record.path, worker.setup)
        self._features = (0, 0)

    def run(self) -> None:
        try:
            self._report("started", stall_min=self.worker.setup.stall_min)
            outcome = self._sequence()
        except (WorkerStopped, KeyboardInterrupt):
            self._interrupted()
            self.worker.flush()
            raise
        except TimeLimitReached:
            self._interrupted(f"stopped after resources.time_min = {self.worker.setup.time_min} min", limited=True)
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
            if breaks_gpu(error):
                self.worker.flush()
                raise GpuBroken(str(error).splitlines()[0]) from error
        else:
            try:
                if outcome.stopped:
                    self._keep("pruned", attempts.PRUNED, outcome=outcome)
                else:
                    self._keep("finished", attempts.FINISHED, outcome=outcome)
            except ValueError as error:
                self._fail(error)

    def _end_all(self, error: Exception, message: str) -> None:
        """End the sweep: every trial would meet this error. The next run continues the trials."""
        _end_record(self.attempt, attempts.FAILED, {"error": message, "error_kind": type(error).__name__})
        self._report("fatal", error=message)

    def _sequence(self) -> SequenceResult:
        worker, trial = self.worker, self.trial
        classes = worker.classes(trial.config, self.watch.progress)
        for data in classes:
            # The trial id contains the digest: with other images the rows would be wrong.
            if trial.inputs.data[data.name] != data.digest:
                raise InvalidInput(
                    f"{data.name}: the images changed after the sweep was planned; run the same command again"
                )
        context = SequenceContext(
            classes,
            worker.features,
            worker.stages,
            worker.environment,
            worker.setup.image_cache / "synthetic",
            trial.inputs.weights,
            tuple(mate.config for mate in trial.lane_mates),
        )
        outcome = run_sequence(trial.config, context, self)
        if worker.setup.keep and not outcome.stopped:
            self._keep_detector(context, outcome)
        return outcome

    def _keep_detector(self, context: SequenceContext, outcome: SequenceResult) -> None:
        """Store the trained detector; before the rows, so that no finished trial lacks its own."""
        folder, trial = self.worker.setup.folder, self.trial
        names = {"sweep": self.worker.setup.sweep, "trial": trial.id, "label": trial.label}
        names |= {"attempt": str(self.attempt.number), "dataset": self.worker.setup.dataset}
        self.watch.progress()
        detector = collect_detector(trial.config, context, outcome.scores, names, self.on_features)
        write_detector(detector_file(folder, trial.id, self.attempt.number), detector)
        self.watch.progress()

    def on_features(self, done: int, total: int) -> None:
        if (done, total) == self._features and done < total:
            self.on_step("waiting")  # Another worker computes the rest.
            return
        if done == total and self._features[0] == self._features[1] > 0:
            # All of them were stored, as those before: no news for readers of the log.
            self.watch.progress()
            self.watch.check_time()
            return
        self._features = (done, total)
        self._report("features", done=done, total=total)

    def on_step(self, doing: Doing) -> None:
        # Training and waiting may take hours: the rows of trials that ended before must not wait.
        if doing != "scoring" and self.worker.seconds_until_due() is not None:
            self.worker.flush()
        if doing == "waiting":
            self.watch.waiting()
        else:
            self.watch.progress()
            self.watch.check_time()
        if self.watch.is_untold:
            self._report("step", doing=doing)

    def on_epoch(self, task: int, epoch: Epoch) -> None:
        self.epochs += 1
        tasks = self.trial.config.data.tasks
        self._report(
            "epoch",
            task=task,
            tasks=len(tasks),
            task_name=task_name(tasks[task]),
            epoch=epoch.epoch,
            epochs=self.trial.config.training.epochs,
            loss=epoch.loss,
        )

    def on_task(self, report: TaskReport) -> bool:
        self.metrics += report.metrics
        self.curves += report.curves
        self.reused += report.seconds_reused
        tasks = self.trial.config.data.tasks
        own = [row for row in report.metrics if row["task"] == report.task]
        test, validation = (_mean_detection(own, split) for split in ("test", "validation"))
        self._report(
            "task",
            task=report.task,
            tasks=len(tasks),
            task_name=task_name(tasks[report.task]),
            image_auroc=((validation or {}) if test is None else test).get("image_auroc"),
            validation=validation,
            reused=report.seconds_reused > 0,
        )
        return not self.worker.pruned.is_set(self.trial.id)

    def _means(self, split: str) -> dict[str, float] | None:
        """The detection metrics of a split, mean over the classes seen; None without the split."""
        last = self.metrics[-1]["after_task"]
        return _mean_detection([row for row in self.metrics if row["after_task"] == last], split)

    def _report(self, kind: Any, **facts: object) -> None:
        self.worker.events(
            Event(kind, self.trial.id, {"attempt": self.attempt.number, "worker": self.worker.setup.worker, **facts})
        )
        self.watch.progress()
        self.watch.told()
        if kind in PROGRESS:
            self.watch.check_time()
        # A request takes effect after an epoch; its file is looked at only now and then.
        if kind in PROGRESS and self.worker.cancelled.is_set_throttled(self.trial.id):
            raise TrialCancelled
        if kind in PROGRESS and self.worker.pruned.is_set_throttled(self.trial.id):
            raise TrialPruned

    def _interrupted(self, error: str = "stopped from outside", limited: bool = False) -> None:
        """Write an interrupted attempt; a failed one if two in a row made no progress.

        Under a time limit, such a trial would be interrupted again and again.

        Args:
            error: the reason.
            limited: whether the worker itself kept the time limit; in a job the scheduler does.

        """
        if (
            (limited or self.worker.setup.job)
            and not self.epochs
            and self._made_no_progress_before(error if limited else None)
        ):
            time_min = self.worker.setup.time_min
            error += (
                f" twice without finishing an epoch in between; give it more time: resources.time_min is {time_min}"
            )
            self._keep("failed", attempts.FAILED, error=error, error_kind=attempts.NO_PROGRESS)
        else:
            self._keep("interrupted", attempts.INTERRUPTED, error=error, error_kind=attempts.STOPPED)

    def _maps(self, gallery: list[KeptMap]) -> list[dict[str, Any]]:
        """The rows of the kept anomaly maps; a map whose image cannot be read becomes a note."""
        rows = []
        for kept in gallery:
            sample = kept.sample
            try:
                self.worker.pictures.keep(sample.digest, partial(picture, sample))
            except (OSError, MoleflowError) as error:
                self._report("note", note=f"no anomaly map of {sample.name} is kept: {error}")
                continue
            rows.append(
                {
                    "split": kept.split,
                    "task": kept.task,
                    "task_name": kept.class_name,
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

    def _made_no_progress_before(self, error: str | None) -> bool:
        """True if the attempt before was stopped without an epoch; with this error, if given."""
        earlier = [r for r in self.worker.attempts.of_trial(self.trial.id) if r.attempt < self.attempt.number]
        last = earlier[-1].content if earlier else {}
        stopped = last.get("state") == attempts.INTERRUPTED and last.get("error_kind") == attempts.STOPPED
        return stopped and not last.get("epochs") and error in (None, last.get("error"))

    def _fail(self, error: Exception) -> None:
        text = "".join(traceback.format_exception(error))
        line, kind = f"{type(error).__name__}: {error}".splitlines()[0], type(error).__name__
        if fills_gpu(error):
            line, kind = explain_full_gpu(error, self.trial.config), GPU_OUT_OF_MEMORY
        self._keep("failed", attempts.FAILED, error=line, error_kind=kind, traceback=text)

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


def _mean_detection(rows: Sequence[Mapping[str, Any]], split: str) -> dict[str, float] | None:
    """The mean over classes of each detection metric that all rows of a split have.

    None without a row of the split.
    """
    of_class = [row for row in rows if row["split"] == split]
    if not of_class:
        return None
    defined = [metric for metric in DETECTION if all(row[metric] is not None for row in of_class)]
    return {metric: sum(row[metric] for row in of_class) / len(of_class) for metric in defined}


def _end_record(attempt: Attempt, state: str, facts: Mapping[str, Any]) -> None:
    # The part decides which results count. A record that cannot be written stays `running`, and the
    # attempt counts as died once this process is gone.
    names = ("error", "error_kind", "traceback", "seconds", "epochs")
    with contextlib.suppress(OSError):
        attempt.end(state, **{name: facts[name] for name in names if name in facts})
