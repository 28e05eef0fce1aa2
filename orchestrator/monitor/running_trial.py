"""One running trial, as its events tell of it: how far it is, and at what pace."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.monitor.trial_log import describe_event
from orchestrator.records.events import Event


@dataclass
class RunningTrial:
    """What is known of a trial that runs.

    Trained tasks that a trial takes from the store come first and cost next to nothing, so the pace is that of the epochs it trains
    itself, with the evaluations between them, and says nothing of what came before the first of these.

    Attributes:
        trial_id: the trial.
        since: when it began, or was first heard of; seconds on the clock of whoever listens.
        told: the last thing that says how far it is.
        worker: the worker's name.
        share: how much of its epochs is behind it, from 0 to 1; None before anything is known.
        trained: epochs that it trained itself.
        ahead: epochs that it still has to train; None before its first one.

    """

    trial_id: str
    since: float
    told: Event | None = None
    worker: str | None = None
    share: float | None = None
    trained: int = 0
    ahead: int | None = None
    _seconds: float = 0.0
    _mark: float | None = None
    _last: tuple[int, int] = (-1, 0)
    _epochs: int | None = None

    def hear(self, event: Event, now: float) -> int:
        """Take in what it tells at `now`; how many epochs it has trained since it last told."""
        facts = event.facts
        self.worker = facts.get("worker", self.worker)
        if event.kind not in ("features", "epoch", "task"):
            return 0
        self.told = event
        if event.kind == "epoch":
            return self._epoch(facts["task"], facts["tasks"], facts["epoch"], facts["epochs"], now)
        if event.kind == "task":
            self.share = (facts["task"] + 1) / facts["tasks"]
            self._last = (facts["task"], 0)
            if self._epochs is not None:
                self.ahead = (facts["tasks"] - facts["task"] - 1) * self._epochs
        self._pass(now)
        return 0

    @property
    def doing(self) -> str:
        """What it is at, in words. Between the last epoch of a task and its end nothing is told: then its images are scored."""
        if self.told is None:
            return "starting"
        facts = self.told.facts
        if self.told.kind == "features" and facts["done"] == facts["total"]:
            return "scoring" if self._epochs is not None and self._last[1] == self._epochs else "training"
        if self.told.kind == "epoch" and facts["epoch"] == facts["epochs"]:
            return f"{facts['task_name']}  scoring"
        return describe_event(self.told)

    @property
    def own_share(self) -> float:
        """How much of what it trains itself it has trained, from 0 to 1."""
        return 0.0 if self.ahead is None or not self.trained else self.trained / (self.trained + self.ahead)

    def left_s(self, now: float) -> float | None:
        """Seconds to its end at its own pace; None before its first epoch."""
        if self.ahead is None or not self.trained:
            return None
        since_then = now - (self.since if self._mark is None else self._mark)
        return max(0.0, self.ahead * self._seconds / self.trained - since_then)

    def _epoch(self, task: int, tasks: int, epoch: int, epochs: int, now: float) -> int:
        # A trial that is taken up again begins in the middle of a task, and a log holds not every epoch.
        new = max(0, epoch - self._last[1]) if task == self._last[0] else 1
        self._last, self._epochs = (task, epoch), epochs
        self.share = (task * epochs + epoch) / (tasks * epochs)
        self.ahead = tasks * epochs - task * epochs - epoch
        self.trained += new
        self._pass(now)
        return new

    def _pass(self, now: float) -> None:
        """Count the time since the last mark into the pace, unless no epoch of its own is in it."""
        if self.trained:
            self._seconds += now - (self.since if self._mark is None else self._mark)
        self._mark = now
