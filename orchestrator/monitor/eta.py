"""The time that a sweep has left, learned from its finished trials, and the speed of the sweep.

1. Trials are of one *kind* if they train equally many steps of their own: steps of tasks that no
   earlier trial of the plan trains. Without a plan all trials are of one kind.
2. A kind takes the mean of its latest `LATEST` finished trials. Without a plan only the latest
   `LATEST_WITHOUT_PLAN` count, because the first trials train what the others reuse.
3. A kind without a finished trial takes what a line through the other kinds gives: seconds = a + b
   steps with a, b >= 0, weighted by the number of trials; in proportion to the steps if one kind
   is known. Before the first trial ends, each running trial counts with its time so far plus the
   rest at its pace.
4. A running trial has left: its remaining epochs at its pace, weighted with what its kind takes
   minus its time so far. The weight of the pace is the share of its own epochs that it has
   trained.
5. The sum over all trials is divided by the number that ran at once lately. The sweep takes at
   least as long as the longest running trial.

The usual estimate, from the share of work that is done, misleads where trials reuse trained tasks.
The trials that train them come first and are slow, and a trial that loads a task is far ahead at
once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from statistics import fmean

from orchestrator.monitor.running_trial import RunningTrial

LATEST, LATEST_WITHOUT_PLAN = 20, 8
LATEST_ENDS, LATEST_EPOCHS = 20, 50
PAUSE_S = 900.0
Kind = float | None
"""The training steps of a trial's own; None without a plan."""
_Point = tuple[float, float, int]
"""Steps, seconds, number of trials."""


class TimeLeft:
    """The time that trials take, learned from those that finish.

    Args:
        steps: training steps of each trial's own, by its id; trials without an entry are of one
            kind.

    """

    def __init__(self, steps: Mapping[str, float] | None = None) -> None:
        self._steps = steps or {}
        self._seconds: dict[Kind, deque[float]] = {}

    def kind(self, trial_id: str) -> Kind:
        """The kind of a trial."""
        return self._steps.get(trial_id)

    def learn(self, trial_id: str, seconds: float) -> None:
        """Learn from a finished trial: it took `seconds` from start to end."""
        kind = self.kind(trial_id)
        latest = LATEST_WITHOUT_PLAN if kind is None else LATEST
        self._seconds.setdefault(kind, deque(maxlen=latest)).append(seconds)

    def of_each(self, running: Collection[RunningTrial], now: float) -> list[float | None]:
        """Seconds that each running trial has left; None while nothing is known."""
        means = self._means(running, now)
        left: list[float | None] = []
        for trial in running:
            at_pace, whole = trial.left_s(now), self._seconds_of(self.kind(trial.trial_id), means)
            by_kind = None if whole is None else max(0.0, whole - (now - trial.since))
            if at_pace is None or by_kind is None:
                left.append(by_kind if at_pace is None else at_pace)
            else:
                left.append(trial.own_share * at_pace + (1 - trial.own_share) * by_kind)
        return left

    def of_all(
        self, running: Collection[RunningTrial], waiting: Mapping[Kind, int], at_once: int, now: float
    ) -> float | None:
        """Seconds to the end of the sweep; None while nothing is known.

        Args:
            running: the running trials.
            waiting: the number of trials of each kind that have not begun.
            at_once: the number of trials that run at once.
            now: seconds on the clock of the running trials.

        """
        means = self._means(running, now)
        kinds = {kind: self._seconds_of(kind, means) for kind, count in waiting.items() if count}
        left = [seconds for seconds in self.of_each(running, now) if seconds is not None]
        expected = {kind: seconds for kind, seconds in kinds.items() if seconds is not None}
        if len(left) < len(running) or len(expected) < len(kinds):
            return None
        count = len(left) + sum(waiting[kind] for kind in expected)
        work = sum(left) + sum(waiting[kind] * seconds for kind, seconds in expected.items())
        return max([work / max(1, min(at_once, count)), *left])

    def _means(self, running: Collection[RunningTrial], now: float) -> dict[Kind, tuple[float, int]]:
        """Mean seconds of a trial of each known kind, and the number of trials in the mean."""
        means = {kind: (fmean(seconds), len(seconds)) for kind, seconds in self._seconds.items()}
        if not means:
            for trial in running:
                left, kind = trial.left_s(now), self.kind(trial.trial_id)
                if left is not None:
                    mean, n = means.get(kind, (0.0, 0))
                    means[kind] = ((mean * n + now - trial.since + left) / (n + 1), n + 1)
        return means

    def _seconds_of(self, kind: Kind, means: Mapping[Kind, tuple[float, int]]) -> float | None:
        """Seconds of a trial of a kind from start to end; None while nothing is known."""
        if not means:
            return None
        if kind in self._seconds:
            return means[kind][0]
        points = [(steps, mean, n) for steps, (mean, n) in means.items() if steps is not None]
        if kind is None or len(points) < len(means):
            return sum(mean * n for mean, n in means.values()) / sum(n for _, n in means.values())
        return _on_line(kind, points)


def _on_line(steps: float, points: Collection[_Point]) -> float:
    """Seconds for `steps` on the weighted least-squares line with slope and intercept >= 0."""
    weight = sum(n for _, _, n in points)
    x, y = (sum(point[k] * point[2] for point in points) / weight for k in (0, 1))
    spread = sum(n * (each - x) ** 2 for each, _, n in points)
    if not spread:
        return y * steps / x if x else y
    slope = max(0.0, sum(n * (each - x) * (seconds - y) for each, seconds, n in points) / spread)
    intercept = y - slope * x
    if intercept < 0:
        # The best line with a non-negative intercept then goes through the origin.
        intercept = 0.0
        slope = sum(n * each * seconds for each, seconds, n in points) / sum(n * each**2 for each, _, n in points)
    return intercept + slope * steps


@dataclass
class Speed:
    """Trials per hour and epochs per second, over the latest of each.

    All times are seconds on one clock. After a pause of `PAUSE_S` without events the measurement
    starts
    anew: a sweep that was stopped overnight is not slow.
    """

    _begun: float | None = None
    _last: float = 0.0
    _trials: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST_ENDS + 1))
    _epochs: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=LATEST_EPOCHS + 1))

    def record(self, now: float, trials: int = 0, epochs: int = 0) -> None:
        """Record an event, with the number of trials and epochs that ended with it."""
        if self._begun is None or now - self._last > PAUSE_S:
            self._begun = now
            self._trials.clear()
            self._epochs.clear()
        self._last = now
        self._trials.extend([now] * trials)
        if epochs:
            self._epochs.append((now, epochs))

    def trials_an_hour(self, now: float) -> float | None:
        """Trials that end per hour; None before the first."""
        if not self._trials or self._begun is None:
            return None
        # The oldest of a full list only marks the start of the time.
        full = len(self._trials) > LATEST_ENDS
        took = now - (self._trials[0] if full else self._begun)
        return 3600 * (len(self._trials) - full) / took if took > 0 else None

    def epochs_a_second(self, now: float) -> float | None:
        """Epochs trained per second; None before the second."""
        if len(self._epochs) < 2:
            return None
        took = now - self._epochs[0][0]
        return sum(count for _, count in list(self._epochs)[1:]) / took if took > 0 else None
