"""The ask/tell protocol of searches, and its implementation for a plan."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from typing import Protocol

from orchestrator.execution.backend import SourceSignal
from orchestrator.plan.stage_tree import StageTree
from orchestrator.records.events import Event
from orchestrator.sweep.trial import Trial


class TrialSearch(Protocol):
    """Proposes trials one at a time, and alone keeps what was proposed and how it ended."""

    def ask(self) -> Trial | SourceSignal:
        """The next trial; WAIT if it depends on running ones; DONE if there are no more."""

    def on_event(self, trial: Trial, event: Event) -> Collection[str]:
        """Take note of a `task` or `held` event; returns ids of running trials to stop early.

        Args:
            trial: a trial that `ask` gave and `tell` has not ended.
            event: `task`: it has finished a task. `held`: another process is running it.

        """

    def tell(self, trial: Trial, end: Event) -> None:
        """Take note of the end of a trial; it is not handed out again."""


class PlannedTrials:
    """The trials of a plan, in order.

    With a tree, the first trial that needs a stage trains it. The others wait here, not on a
    worker, until the stage is stored or until that trial has ended, even by failing. In that case
    the next one trains it.

    Args:
        trials: in the order of the plan.
        tree: their stages; None = no trial waits for another.

    """

    def __init__(self, trials: Sequence[Trial], tree: StageTree | None = None) -> None:
        self._trials = trials
        self._tree = tree or StageTree({})
        self._chains = self._tree.chains
        self._ready = list(range(len(trials)))  # a heap, so that trials that waited keep the plan's order
        self._waiting: dict[int, list[int]] = {}  # positions in the plan by the stage that they wait for
        self._to_train: dict[str, list[int]] = {}  # by running trial: the stages that it will train, in order
        self._training: set[int] = set()
        self._trained: set[int] = set()

    def ask(self) -> Trial | SourceSignal:
        """The next trial whose first missing stage no running trial is training."""
        while self._ready:
            position = heapq.heappop(self._ready)
            trial = self._trials[position]
            missing = [stage for stage in self._chains.get(trial.id, ()) if stage not in self._trained]
            if missing and missing[0] in self._training:
                self._waiting.setdefault(missing[0], []).append(position)
                continue
            # It will train all missing stages of its chain and its lanes: others wait for them.
            to_train = [stage for stage in self._tree.trained_by(trial.id) if stage not in self._trained]
            self._to_train[trial.id] = to_train
            self._training.update(to_train)
            return trial
        return SourceSignal.WAIT if self._waiting else SourceSignal.DONE

    def on_event(self, trial: Trial, event: Event) -> Collection[str]:
        """Release the trials that waited for a stage which is trained now.

        A plan stops no trial early. If another process holds the trial, the others need not wait:
        claims keep two workers from training one stage.
        """
        if event.kind == "task":
            chain = self._chains.get(trial.id, ())
            self._release(trial, chain[: event.facts["task"] + 1], trained=True)
            # What it trained in its lanes is free after its last task alone. A trial that began
            # before would take its later stages out of these lanes.
            if event.facts["task"] + 1 == len(chain):
                self._release(trial, tuple(self._to_train.get(trial.id, ())), trained=False)
        elif event.kind == "held":
            self._release(trial, self._to_train.get(trial.id, ()), trained=False)
        return ()

    def tell(self, trial: Trial, end: Event) -> None:
        """Release the trials that waited for this one."""
        stages = self._to_train.get(trial.id, ())
        self._release(trial, stages, trained=end.kind in ("finished", "elsewhere"))
        self._to_train.pop(trial.id, None)

    def _release(self, trial: Trial, stages: Collection[int], trained: bool) -> None:
        if trained:
            self._trained.update(stages)
        to_train = self._to_train.get(trial.id, [])
        for stage in [stage for stage in to_train if stage in stages]:
            to_train.remove(stage)
            self._training.discard(stage)
            for position in self._waiting.pop(stage, ()):
                heapq.heappush(self._ready, position)
