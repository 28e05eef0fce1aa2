"""One running trial: its progress and its pace, from its events."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.monitor.trial_log import describe_event
from orchestrator.records.events import Event
from orchestrator.records.stalls import stall_note


@dataclass
class RunningTrial:
    """A running trial.

    Tasks that a trial loads from the store come first and cost almost nothing. So its pace is that
    of the epochs it trains itself, evaluations between them included, from the first of these on.

    Attributes:
        trial_id: the trial.
        since: the time of its start or of its first known event, seconds on the caller's clock.
        last_progress: the last event that tells its progress.
        worker: the worker's name.
        share: the share of its epochs that is done, from 0 to 1; None while it is unknown.
        stall_min: minutes without progress after which it has stalled; 0 = never.
        trained: the number of epochs that it trained itself.
        ahead: the number of epochs that it still has to train; None before its first one.

    """

    trial_id: str
    since: float
    last_progress: Event | None = None
    worker: str | None = None
    share: float | None = None
    stall_min: float = 0.0
    trained: int = 0
    ahead: int | None = None
    _seconds: float = 0.0
    _last_time: float | None = None
    _progress_at: float | None = None
    _last_epoch: tuple[int, int] = (-1, 0)
    _epochs: int | None = None

    def on_event(self, event: Event, now: float) -> int:
        """Update from an event; the number of epochs trained since the last one."""
        facts = event.facts
        self.worker = facts.get("worker", self.worker)
        self.stall_min = facts.get("stall_min", self.stall_min)
        self._progress_at = now
        if event.kind not in ("features", "epoch", "task"):
            return 0
        self.last_progress = event
        if event.kind == "epoch":
            return self._on_epoch(facts["task"], facts["tasks"], facts["epoch"], facts["epochs"], now)
        if event.kind == "task":
            self.share = (facts["task"] + 1) / facts["tasks"]
            self._last_epoch = (facts["task"], 0)
            if self._epochs is not None:
                self.ahead = (facts["tasks"] - facts["task"] - 1) * self._epochs
        self._add_time(now)
        return 0

    def stalled(self, now: float) -> str | None:
        """The note on a trial without progress; None while it makes some."""
        return stall_note(now - (self.since if self._progress_at is None else self._progress_at), self.stall_min)

    @property
    def activity(self) -> str:
        """The current activity, in words."""
        if self.last_progress is None:
            return "starting"
        facts = self.last_progress.facts
        # No event comes between the last epoch of a task and its end. Its images are scored then.
        if self.last_progress.kind == "features" and facts["done"] == facts["total"]:
            return "scoring" if self._epochs is not None and self._last_epoch[1] == self._epochs else "training"
        if self.last_progress.kind == "task" and facts["task"] + 1 < facts["tasks"]:
            return "training"
        if self.last_progress.kind == "epoch" and facts["epoch"] == facts["epochs"]:
            return f"{facts['task_name']}  scoring"
        return describe_event(self.last_progress)

    @property
    def own_share(self) -> float:
        """The share of its own epochs that it has trained, from 0 to 1."""
        return 0.0 if self.ahead is None or not self.trained else self.trained / (self.trained + self.ahead)

    def left_s(self, now: float) -> float | None:
        """Seconds to its end at its pace; None before its first epoch."""
        if self.ahead is None or not self.trained:
            return None
        since_then = now - (self.since if self._last_time is None else self._last_time)
        return max(0.0, self.ahead * self._seconds / self.trained - since_then)

    def _on_epoch(self, task: int, tasks: int, epoch: int, epochs: int, now: float) -> int:
        # A resumed trial begins in the middle of a task, and a log does not hold every epoch.
        new = max(0, epoch - self._last_epoch[1]) if task == self._last_epoch[0] else 1
        self._last_epoch, self._epochs = (task, epoch), epochs
        self.share = (task * epochs + epoch) / (tasks * epochs)
        self.ahead = tasks * epochs - task * epochs - epoch
        self.trained += new
        self._add_time(now)
        return new

    def _add_time(self, now: float) -> None:
        """Add the time since the last event to that of its own epochs, if it has trained any."""
        if self.trained:
            self._seconds += now - (self.since if self._last_time is None else self._last_time)
        self._last_time = now
