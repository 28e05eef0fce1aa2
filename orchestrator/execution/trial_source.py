"""The source of work: ask the search, hand out, retry what failed, stop when going on makes no sense."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.execution.backend import SourceSignal, WorkItem
from orchestrator.execution.planned_trials import TrialSearch
from orchestrator.records.attempts import NO_PROGRESS, OUT_OF_MEMORY
from orchestrator.records.events import ENDS, Event
from orchestrator.sweep.file_schema import Resources
from orchestrator.sweep.trial import Trial

IDENTICAL_FAILURES = 10
HELD_AGAIN_S = 2.0
INTERRUPTIONS = 3
HOPELESS = ("InvalidInput", NO_PROGRESS, OUT_OF_MEMORY)  # What happened will happen the next time too.


@dataclass
class RunOutcome:
    """What became of the trials that a run handed out.

    Attributes:
        finished: trials that this run finished.
        elsewhere: trials that another driver finished meanwhile.
        failed: trials whose last attempt failed, with its end.
        interrupted: trials that somebody stopped from outside again and again; they are left to the next run.
        cancelled: trials that somebody took back; they are left to the next run too.
        pruned: trials that were stopped early, for good.
        over: trials that this run has done with.
        stopped_by: why it hands out no more.

    """

    finished: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    failed: dict[str, Event] = field(default_factory=dict)
    interrupted: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    pruned: list[str] = field(default_factory=list)
    over: set[str] = field(default_factory=set)
    stopped_by: str | None = None


class TrialSource:
    """Hands a search's trials to a backend and takes the events back.

    Args:
        search: where the trials come from.
        resources: what each of them needs.
        retries: further attempts that a failed trial gets.
        most_identical: after so many identical failures in a row it hands out no more.
        cancelled: whether somebody took a trial back.
        prune: stops a running trial early, wherever it runs.
        waits_for_others: whether to ask again for a trial that another process is at, or to leave it to that.
        after: the trials that lead a trial, for engines that place it behind them; those that pull one by one wait in the search.
        clock: seconds, from anywhere.

    """

    def __init__(
        self,
        search: TrialSearch,
        resources: Resources,
        retries: int,
        most_identical: float = IDENTICAL_FAILURES,
        cancelled: Callable[[str], bool] = lambda _: False,
        prune: Callable[[str], None] = lambda _: None,
        waits_for_others: bool = True,
        after: Callable[[str], tuple[str, ...]] = lambda _: (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tally = RunOutcome()
        self._search, self._resources, self._retries, self._clock = search, resources, retries, clock
        self._most_identical, self._cancelled, self._prune = most_identical, cancelled, prune
        self._waits, self._after = waits_for_others, after
        self._running: dict[str, Trial] = {}
        self._again: list[tuple[float, Trial]] = []
        self._failures: dict[str, int] = {}
        self._interruptions: dict[str, int] = {}
        self._same: tuple[str, int] = ("", 0)
        self._at_once = False

    def next(self) -> WorkItem | SourceSignal:
        """The next item to run."""
        if self.tally.stopped_by is not None:
            return SourceSignal.STOP if self._running and not self._at_once else SourceSignal.DONE
        while True:
            answer = self._wanted()
            if not isinstance(answer, Trial):
                return answer
            self._running[answer.id] = answer
            if not self._cancelled(answer.id):
                return WorkItem((answer,), self._after(answer.id), self._resources)
            self.events(Event("cancelled", answer.id))

    def events(self, event: Event) -> None:
        """Take note of what happened to a trial."""
        if event.kind == "fatal":
            self.tally.stopped_by = str(event.facts["error"])
            self._at_once = True
        running = self._running.get(event.trial_id)
        if event.kind in ("task", "held") and running is not None:
            for trial_id in self._search.heard(running, event):
                self._prune(trial_id)
        if event.kind not in ENDS or event.trial_id not in self._running:
            return
        trial = self._running.pop(event.trial_id)
        if event.kind == "held" and self._waits:
            self._again.append((self._clock() + HELD_AGAIN_S, trial))
        elif event.kind in ("held", "withdrawn"):
            self._over(trial, event)
        elif event.kind == "failed":
            self._failed(trial, event)
        elif event.kind == "interrupted" and self._goes_on(trial.id, event):
            self._again.append((self._clock(), trial))
        elif event.kind != "fatal":
            self._same = ("", 0)
            self.tally.failed.pop(trial.id, None)
            getattr(self.tally, event.kind).append(trial.id)
            self._over(trial, event)

    def _wanted(self) -> Trial | SourceSignal:
        for place, (due, trial) in enumerate(self._again):
            if due <= self._clock():
                del self._again[place]
                return trial
        answer = self._search.ask()
        return SourceSignal.WAIT if answer is SourceSignal.DONE and (self._running or self._again) else answer

    def _goes_on(self, trial_id: str, event: Event) -> bool:
        """Whether an interrupted trial gets anywhere: an epoch finished starts the count anew."""
        before = 0 if event.facts.get("epochs") else self._interruptions.get(trial_id, 0)
        self._interruptions[trial_id] = before + 1
        return before < INTERRUPTIONS

    def _failed(self, trial: Trial, event: Event) -> None:
        self.tally.failed[trial.id] = event
        self._failures[trial.id] = self._failures.get(trial.id, 0) + 1
        if self._failures[trial.id] <= self._retries and event.facts.get("error_kind") not in HOPELESS:
            self._again.append((self._clock(), trial))
        else:
            self._over(trial, event)
        shape = failure_shape(event)
        self._same = (shape, self._same[1] + 1 if shape == self._same[0] else 1)
        if self._same[1] >= self._most_identical:
            error = event.facts.get("error")
            self.tally.stopped_by = (
                f"{self._same[1]} attempts in a row failed the same way ({error}); the other trials would too"
            )

    def _over(self, trial: Trial, event: Event) -> None:
        self.tally.over.add(trial.id)
        self._search.tell(trial, event)


def failure_shape(event: Event) -> str:
    """What makes two failures the same: the lines of code passed through and the kind of error, without numbers and addresses."""
    text = str(event.facts.get("traceback") or event.facts.get("error"))
    return re.sub(r"0x[0-9a-f]+|\d+(\.\d+)?(e[-+]?\d+)?", "#", text)
