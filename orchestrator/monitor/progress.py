"""The progress of a sweep, summed up from events.

A driver gets the events at once, a watcher from the logs.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Mapping

from orchestrator.monitor.eta import Kind, Speed, TimeLeft
from orchestrator.monitor.running_trial import RunningTrial
from orchestrator.monitor.snapshot import ProgressSnapshot, RunningTrialRow
from orchestrator.records.events import ENDS, Event
from orchestrator.records.trial_state import State

STARTS = 20


class SweepProgress:
    """The running trials, the speed and the best result of a sweep.

    Args:
        labels: readable names by trial id; the caller may add to it.
        steps: training steps of each trial's own, as far as they are known; see `TimeLeft`.
        is_search: never call a trial the best by its test images.

    """

    def __init__(
        self, labels: Mapping[str, str], steps: Mapping[str, float] | None = None, is_search: bool = False
    ) -> None:
        self._labels = labels
        self._running: dict[str, RunningTrial] = {}
        self._time_left = TimeLeft(steps)
        self._to_come: Counter[Kind] = Counter(map(self._time_left.kind, steps or {}))
        self._speed = Speed()
        self._at_once: deque[int] = deque(maxlen=STARTS)
        self._best: tuple[str, float] | None = None
        self._split = "test"
        self._is_search = is_search

    def label(self, trial_id: str) -> str:
        """The readable name of a trial."""
        return self._labels.get(trial_id, trial_id)

    @property
    def workers(self) -> list[str]:
        """The workers of the running trials."""
        return [trial.worker for trial in list(self._running.values()) if trial.worker]

    def is_running(self, trial_id: str) -> bool:
        """True for a trial with events but no end event yet."""
        return trial_id in self._running

    def on_event(self, event: Event, now: float, over: bool = True) -> None:
        """Update from an event.

        Args:
            event: the event.
            now: its time, seconds on one clock.
            over: for the end of an attempt, whether the trial is not tried again.

        """
        if event.kind in ENDS:
            self._on_end(event, now, over)
            return
        if event.kind == "started" or event.trial_id not in self._running:
            self._on_start(event.trial_id, now)
        self._speed.record(now, epochs=self._running[event.trial_id].on_event(event, now))

    def learn(self, event: Event) -> None:
        """Learn the duration and the result of a trial that finished at any time."""
        auroc, seconds = event.facts.get("image_auroc"), event.facts.get("seconds")
        if seconds is not None:
            self._time_left.learn(event.trial_id, float(seconds))
        validated = (event.facts.get("validation") or {}).get("image_auroc")
        if validated is None and (self._is_search or self._split == "validation"):
            return
        # Where there are validation images, the best is the best by them.
        if validated is not None and self._split == "test":
            self._split, self._best = "validation", None
        value = auroc if validated is None else validated
        if value is not None and (self._best is None or value > self._best[1]):
            self._best = self.label(event.trial_id), float(value)

    def snapshot(
        self,
        now: float,
        counts: Mapping[State, int],
        waiting: int,
        use: tuple[str, ...] = (),
        alive: Collection[str] | None = None,
        stalled: Mapping[str, str] | None = None,
    ) -> ProgressSnapshot:
        """The sweep at this moment.

        Args:
            now: the time, on the clock of the events.
            counts: the number of trials in each state.
            waiting: the number of trials that have not begun.
            use: memory and GPUs in use, in words.
            alive: the trials that run; default: those of the events.
            stalled: notes on trials without progress, by trial id; default: those of the events.

        """
        running = [trial for trial in list(self._running.values()) if alive is None or trial.trial_id in alive]
        left = self._time_left.of_each(running, now)
        rows = [
            self._row(trial, seconds, (stalled or {}).get(trial.trial_id) or trial.stalled(now))
            for trial, seconds in zip(running, left, strict=True)
        ]
        silent = [RunningTrialRow(self.label(trial), "") for trial in alive or () if trial not in self._running]
        at_once = max([len(running), *self._at_once])
        return ProgressSnapshot(
            counts,
            (*rows, *silent),
            self._speed.trials_an_hour(now),
            self._speed.epochs_a_second(now),
            self._best,
            use,
            None if silent else self._time_left.of_all(running, self._waiting_by_kind(waiting), at_once, now),
            over=not (rows or silent or waiting),
            split=self._split,
        )

    def _waiting_by_kind(self, waiting: int) -> dict[Kind, int]:
        """The number of waiting trials by kind; trials outside the plan are of the kind None."""
        known = {kind: count for kind, count in self._to_come.items() if count > 0}
        if sum(known.values()) > waiting:
            return {None: waiting}
        return known | {None: known.get(None, 0) + waiting - sum(known.values())}

    def _row(self, trial: RunningTrial, left: float | None, stalled: str | None) -> RunningTrialRow:
        return RunningTrialRow(self.label(trial.trial_id), stalled or trial.activity, trial.share, left)

    def _on_start(self, trial_id: str, now: float) -> None:
        if trial_id not in self._running:
            self._to_come[self._time_left.kind(trial_id)] -= 1
        self._running[trial_id] = RunningTrial(trial_id, now)
        self._at_once.append(len(self._running))

    def _on_end(self, event: Event, now: float, over: bool) -> None:
        trial = self._running.pop(event.trial_id, None)
        self._speed.record(now, trials=int(event.kind in ("finished", "pruned")))
        if trial is not None and not over:
            self._to_come[self._time_left.kind(event.trial_id)] += 1
        elif trial is None and over:
            self._to_come[self._time_left.kind(event.trial_id)] -= 1
        if event.kind == "finished":
            took = {} if trial is None else {"seconds": now - trial.since}
            self.learn(Event(event.kind, event.trial_id, took | event.facts))
