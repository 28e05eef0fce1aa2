"""Ask and tell: which trial comes next, and what became of it."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from typing import Protocol

from orchestrator.execution.backend import SourceSignal
from orchestrator.plan.stage_tree import StageTree
from orchestrator.records.events import Event
from orchestrator.sweep.trial import Trial


class TrialSearch(Protocol):
    """Gives trials one at a time; alone owns what has been asked for and what came of it."""

    def ask(self) -> Trial | SourceSignal:
        """The next trial; WAIT when it depends on running ones; DONE when there are no more."""

    def heard(self, trial: Trial, event: Event) -> Collection[str]:
        """A task of a running trial ended, or another process is at it; the ids of running trials that shall stop now."""

    def tell(self, trial: Trial, end: Event) -> None:
        """How a trial that was asked for ended, for good: finished, elsewhere, pruned, failed or interrupted."""


class PlannedTrials:
    """The trials of a plan, in order.

    With a tree, the first trial that needs a stage trains it. The others wait here, not on a worker,
    until it is stored or until that trial has ended, even by failing; the next one then trains it.
    """

    def __init__(self, trials: Sequence[Trial], tree: StageTree | None = None) -> None:
        self._trials = trials
        self._chains = tree.chains if tree else {}
        self._ready = list(range(len(trials)))  # a heap: who comes back from waiting keeps the plan's order
        self._behind: dict[int, list[int]] = {}  # places in the plan by the stage that they wait for
        self._led: dict[str, list[int]] = {}  # the stages that a running trial has still to train, the next one first
        self._training: set[int] = set()
        self._trained: set[int] = set()

    def ask(self) -> Trial | SourceSignal:
        """The next trial that no running one keeps waiting."""
        while self._ready:
            place = heapq.heappop(self._ready)
            trial = self._trials[place]
            missing = [stage for stage in self._chains.get(trial.id, ()) if stage not in self._trained]
            if missing and missing[0] in self._training:
                self._behind.setdefault(missing[0], []).append(place)
                continue
            self._led[trial.id] = missing
            self._training.update(missing)
            return trial
        return SourceSignal.WAIT if self._behind else SourceSignal.DONE

    def heard(self, trial: Trial, event: Event) -> Collection[str]:
        """A trained stage lets those go on that waited for it; so does a leader that is another process's. A plan stops nothing early."""
        if event.kind == "task":
            self._free(trial, self._chains.get(trial.id, ())[: event.facts["task"] + 1], trained=True)
        elif event.kind == "held":
            self._free(trial, self._led.get(trial.id, ()))
        return ()

    def tell(self, trial: Trial, end: Event) -> None:
        """Nobody waits for a trial that is over."""
        self._free(trial, self._led.get(trial.id, ()), trained=end.kind in ("finished", "elsewhere"))
        self._led.pop(trial.id, None)

    def _free(self, leader: Trial, stages: Collection[int], trained: bool = False) -> None:
        if trained:
            self._trained.update(stages)
        led = self._led.get(leader.id, [])
        for stage in [stage for stage in led if stage in stages]:
            led.remove(stage)
            self._training.discard(stage)
            for place in self._behind.pop(stage, ()):
                heapq.heappush(self._ready, place)
