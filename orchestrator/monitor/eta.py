"""The time that a sweep has left, learned from the trials that have finished.

How it is made:

1. Trials are of one *kind* when they train equally much themselves: the steps of those tasks that no trial before them trains too, as
   the plan knows them. Where no plan is at hand, all are of one kind.
2. A finished trial teaches what its kind takes: the mean over the latest `LATEST` of the kind. Where no plan is at hand only the latest
   `LATEST_OF_ANY` count, as those that come first train what the others reuse.
3. A kind of which none has finished takes what a straight line through the known kinds gives, seconds = a + b steps with a, b >= 0,
   weighted by their trials; where one kind is known, in proportion to the steps. Before the first end the running trials stand in,
   each with what it has taken and what it has left at its pace.
4. A running trial has left what its own epochs ahead take at its own pace, weighed with what its kind takes beyond what it has taken
   already; the pace weighs as much as the share of its own epochs that is behind it.
5. What is left of all trials is shared out among as many as ran at once lately; it takes no less than the longest of the running ones.

The share of all work that is done, the usual way, misleads where trials reuse trained tasks: those that train them come first and are
slow, and a trial that takes a task from the store is at once far on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from statistics import fmean

from orchestrator.monitor.running_trial import RunningTrial

LATEST, LATEST_OF_ANY = 20, 8
Kind = float | None
_Point = tuple[float, float, int]


class TimeLeft:
    """Learns what trials take.

    Args:
        steps: training steps that each trial does itself, by its id; trials that are not in it are of one kind.

    """

    def __init__(self, steps: Mapping[str, float] | None = None) -> None:
        self._steps = steps or {}
        self._taken: dict[Kind, deque[float]] = {}

    def kind(self, trial_id: str) -> Kind:
        """The kind of a trial: its own training steps; None where they are not known."""
        return self._steps.get(trial_id)

    def learn(self, trial_id: str, seconds: float) -> None:
        """Take in what a finished trial took from start to end."""
        kind = self.kind(trial_id)
        self._taken.setdefault(kind, deque(maxlen=LATEST_OF_ANY if kind is None else LATEST)).append(seconds)

    def of_each(self, running: Collection[RunningTrial], now: float) -> list[float | None]:
        """Seconds that each running trial has left; None where nothing tells."""
        taught = self._taught(running, now)
        found: list[float | None] = []
        for trial in running:
            at_pace, whole = trial.left_s(now), self._of_kind(self.kind(trial.trial_id), taught)
            by_kind = None if whole is None else max(0.0, whole - (now - trial.since))
            if at_pace is None or by_kind is None:
                found.append(by_kind if at_pace is None else at_pace)
            else:
                found.append(trial.own_share * at_pace + (1 - trial.own_share) * by_kind)
        return found

    def of_all(
        self, running: Collection[RunningTrial], waiting: Mapping[Kind, int], at_once: int, now: float
    ) -> float | None:
        """Seconds to the end of the sweep; None where nothing tells.

        Args:
            running: the trials that run.
            waiting: how many trials of each kind have not begun.
            at_once: how many trials run at once.
            now: on the clock of the running trials.

        """
        taught = self._taught(running, now)
        kinds = {kind: self._of_kind(kind, taught) for kind, count in waiting.items() if count}
        lefts = [left for left in self.of_each(running, now) if left is not None]
        expected = {kind: seconds for kind, seconds in kinds.items() if seconds is not None}
        if len(lefts) < len(running) or len(expected) < len(kinds):
            return None
        count = len(lefts) + sum(waiting[kind] for kind in expected)
        work = sum(lefts) + sum(waiting[kind] * seconds for kind, seconds in expected.items())
        return max([work / max(1, min(at_once, count)), *lefts])

    def _taught(self, running: Collection[RunningTrial], now: float) -> dict[Kind, tuple[float, int]]:
        """What trials of each known kind take, and how many say so: finished ones, or running ones before any has finished."""
        taught = {kind: (fmean(seconds), len(seconds)) for kind, seconds in self._taken.items()}
        if not taught:
            for trial in running:
                left, kind = trial.left_s(now), self.kind(trial.trial_id)
                if left is not None:
                    mean, n = taught.get(kind, (0.0, 0))
                    taught[kind] = ((mean * n + now - trial.since + left) / (n + 1), n + 1)
        return taught

    def _of_kind(self, kind: Kind, taught: Mapping[Kind, tuple[float, int]]) -> float | None:
        """What a trial of a kind takes from start to end."""
        if not taught:
            return None
        if kind in self._taken:
            return taught[kind][0]
        points = [(of, mean, n) for of, (mean, n) in taught.items() if of is not None]
        if kind is None or len(points) < len(taught):
            return sum(mean * n for mean, n in taught.values()) / sum(n for _, n in taught.values())
        return _on_line(kind, points)


def _on_line(steps: float, points: Collection[_Point]) -> float:
    """Seconds for `steps` on the line through (steps, seconds, weight), whose slope and start are not negative."""
    weight = sum(n for _, _, n in points)
    x, y = (sum(point[k] * point[2] for point in points) / weight for k in (0, 1))
    spread = sum(n * (own - x) ** 2 for own, _, n in points)
    if not spread:
        return y * steps / x if x else y
    slope = max(0.0, sum(n * (own - x) * (seconds - y) for own, seconds, n in points) / spread)
    start = y - slope * x
    if start < 0:
        start, slope = (
            0.0,
            sum(n * own * seconds for own, seconds, n in points) / sum(n * own**2 for own, _, n in points),
        )
    return start + slope * steps
