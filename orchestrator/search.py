"""Ask and tell: which trial comes next, and what became of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import Protocol

from orchestrator.events import Event
from orchestrator.trial import Trial
from orchestrator.work import Pause


class Search(Protocol):
    """Gives trials one at a time; alone owns what has been asked for and what came of it."""

    def ask(self) -> Trial | Pause:
        """The next trial; WAIT when it depends on running ones; DONE when there are no more."""

    def heard(self, trial: Trial, event: Event) -> Collection[str]:
        """A task of a running trial ended; the ids of running trials that shall stop now."""

    def tell(self, trial: Trial, end: Event) -> None:
        """How a trial that was asked for ended, for good: finished, elsewhere, pruned, failed or interrupted."""


class PlannedTrials:
    """The trials of a plan, in order."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._waiting = deque(trials)

    def ask(self) -> Trial | Pause:
        """The next trial of the plan."""
        return self._waiting.popleft() if self._waiting else Pause.DONE

    def heard(self, trial: Trial, event: Event) -> Collection[str]:
        """A plan stops nothing early."""
        return ()

    def tell(self, trial: Trial, end: Event) -> None:
        """A plan learns nothing from an end."""
