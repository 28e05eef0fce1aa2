"""What the events of a sweep add up to. Whoever hears them, the driver at once or a watcher from the logs, sees the same."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Mapping

from orchestrator.monitor.eta import Kind, TimeLeft
from orchestrator.monitor.running_trial import RunningTrial
from orchestrator.monitor.snapshot import ProgressSnapshot, RunningTrialRow
from orchestrator.monitor.speed import Speed
from orchestrator.records.events import ENDS, Event
from orchestrator.records.trial_state import State

STARTS = 20


class SweepProgress:
    """Listens to the events of a sweep's trials.

    Args:
        labels: readable names by trial id; it may grow.
        steps: training steps that each trial to come does itself, as far as they are known; see `TimeLeft`.

    """

    def __init__(self, labels: Mapping[str, str], steps: Mapping[str, float] | None = None) -> None:
        self._labels = labels
        self._running: dict[str, RunningTrial] = {}
        self._left = TimeLeft(steps)
        self._to_come: Counter[Kind] = Counter(map(self._left.kind, steps or {}))
        self._speed = Speed()
        self._at_once: deque[int] = deque(maxlen=STARTS)
        self._best: tuple[str, float] | None = None

    def label(self, trial_id: str) -> str:
        """The readable name of a trial."""
        return self._labels.get(trial_id, trial_id)

    @property
    def workers(self) -> list[str]:
        """The workers of the running trials."""
        return [trial.worker for trial in list(self._running.values()) if trial.worker]

    def knows(self, trial_id: str) -> bool:
        """Whether a trial was heard of that has not ended."""
        return trial_id in self._running

    def hear(self, event: Event, now: float, over: bool = True) -> None:
        """Take an event in.

        Args:
            now: when, in seconds on one clock.
            over: of an end, whether the trial will not be tried again.

        """
        if event.kind in ENDS:
            self._end(event, now, over)
            return
        if event.kind == "started" or event.trial_id not in self._running:
            self._start(event.trial_id, now)
        self._speed.note(now, epochs=self._running[event.trial_id].hear(event, now))

    def learn(self, event: Event) -> None:
        """Take in a trial that finished long ago: what it took and what it reached."""
        auroc, seconds = event.facts.get("image_auroc"), event.facts.get("seconds")
        if seconds is not None:
            self._left.learn(event.trial_id, float(seconds))
        if auroc is not None and (self._best is None or auroc > self._best[1]):
            self._best = self.label(event.trial_id), float(auroc)

    def scene(
        self,
        now: float,
        counts: Mapping[State, int],
        waiting: int,
        use: tuple[str, ...] = (),
        alive: Collection[str] | None = None,
    ) -> ProgressSnapshot:
        """What there is to see now.

        Args:
            counts: how many trials are in each state.
            waiting: how many have still to begin.
            use: what is in use of memory and GPUs.
            alive: the trials that run, where somebody knows better than the events.

        """
        running = [trial for trial in list(self._running.values()) if alive is None or trial.trial_id in alive]
        lefts = self._left.of_each(running, now)
        lines = [self._line(trial, left) for trial, left in zip(running, lefts, strict=True)]
        unheard = [RunningTrialRow(self.label(of), "") for of in alive or () if of not in self._running]
        at_once = max([len(running), *self._at_once])
        left = None if unheard else self._left.of_all(running, self._kinds(waiting), at_once, now)
        return ProgressSnapshot(
            counts,
            (*lines, *unheard),
            self._speed.trials_an_hour(now),
            self._speed.epochs_a_second(now),
            self._best,
            use,
            left,
            over=not (lines or unheard or waiting),
        )

    def _kinds(self, waiting: int) -> dict[Kind, int]:
        """The waiting trials by kind; those of which no plan tells are of none."""
        known = {kind: count for kind, count in self._to_come.items() if count > 0}
        if sum(known.values()) > waiting:
            return {None: waiting}
        return known | {None: known.get(None, 0) + waiting - sum(known.values())}

    def _line(self, trial: RunningTrial, left: float | None) -> RunningTrialRow:
        return RunningTrialRow(self.label(trial.trial_id), trial.doing, trial.share, left)

    def _start(self, trial_id: str, now: float) -> None:
        if trial_id not in self._running:
            self._to_come[self._left.kind(trial_id)] -= 1
        self._running[trial_id] = RunningTrial(trial_id, now)
        self._at_once.append(len(self._running))

    def _end(self, event: Event, now: float, over: bool) -> None:
        known = self._running.pop(event.trial_id, None)
        ended = event.kind in ("finished", "pruned")
        self._speed.note(now, trials=int(ended))
        if known is not None and not over:
            self._to_come[self._left.kind(event.trial_id)] += 1
        elif known is None and over:
            self._to_come[self._left.kind(event.trial_id)] -= 1
        if event.kind == "finished":
            took = {} if known is None else {"seconds": now - known.since}
            self.learn(Event(event.kind, event.trial_id, took | event.facts))
