"""The source of trials: hands them to a backend, retries failed ones and decides when to stop."""

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

IDENTICAL_FAILURES = 10  # Failures of one shape in a row, after which no more trials are handed out.
HELD_PAUSE_S = 4.0
"""Seconds between two offers of trials that other processes are running. There may be hundreds, and
each offer costs a file server some calls."""
INTERRUPTIONS = 3  # Further attempts of a trial that is interrupted before it finishes an epoch.
NOT_RETRIED = ("InvalidInput", "WeightsUnavailable", "Diverged", NO_PROGRESS, OUT_OF_MEMORY)
"""Kinds of failure that every further attempt would repeat: digits and inputs stay the same.
`CodeChanged` is none of them, as the next attempt may run in a new process."""


@dataclass
class RunOutcome:
    """The outcome of a run, by trial.

    Attributes:
        finished: trials that this run finished.
        elsewhere: trials that another driver finished meanwhile.
        failed: trials whose last attempt failed, each with its last event.
        interrupted: trials that were interrupted too often; the next run continues them.
        cancelled: trials that a user cancelled; the next run continues them.
        pruned: trials that were stopped early, for good.
        over: all trials that this run has ended, and those that it left to others.
        stopped_by: why the run stopped early; None if it did not.

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
    """Hands the trials of a search to a backend and takes the backend's events.

    Args:
        search: proposes the trials.
        resources: what each trial needs.
        retries: further attempts of a failed trial.
        most_identical: after so many identical failures in a row no more trials are handed out.
        cancelled: whether a user has cancelled a trial.
        prune: stops a running trial early, wherever it runs.
        waits_for_others: whether a trial that another process is running is offered again later.
            If not, it is left to that process.
        after: the trials that a trial must follow, for backends that queue all trials at once.
            For the others the search itself holds such trials back.
        clock: seconds since an arbitrary start.

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
        self._waits_for_others, self._after = waits_for_others, after
        self._running: dict[str, Trial] = {}
        self._retried: list[Trial] = []
        self._held: list[Trial] = []  # by other processes
        self._offers_held_from = 0.0
        self._failures: dict[str, int] = {}
        self._interruptions: dict[str, int] = {}
        self._last_failure: tuple[str, int] = ("", 0)  # its shape, and how often it came in a row
        self._fatal = False

    def next(self) -> WorkItem | SourceSignal:
        """The next trial to run, or why there is none."""
        if self.tally.stopped_by is not None:
            return SourceSignal.STOP if self._running and not self._fatal else SourceSignal.DONE
        while True:
            answer = self._next_trial()
            if not isinstance(answer, Trial):
                return answer
            self._running[answer.id] = answer
            if not self._cancelled(answer.id):
                return WorkItem(answer, self._after(answer.id), self._resources)
            self.events(Event("cancelled", answer.id))

    def events(self, event: Event) -> None:
        """Take note of an event of a trial."""
        if event.kind == "fatal":
            self.tally.stopped_by = str(event.facts["error"])
            self._fatal = True  # No result can be stored: running trials need not end.
        running = self._running.get(event.trial_id)
        if event.kind in ("task", "held") and running is not None:
            for trial_id in self._search.on_event(running, event):
                self._prune(trial_id)
        if event.kind not in ENDS or event.trial_id not in self._running:
            return
        trial = self._running.pop(event.trial_id)
        if event.kind == "held" and self._waits_for_others:
            self._held.append(trial)
            self._offers_held_from = self._clock() + HELD_PAUSE_S
        elif event.kind in ("held", "withdrawn"):
            self._end(trial, event)
        elif event.kind == "failed":
            self._failed(trial, event)
        # An interruption costs no retry: preemption and time limits are no fault of the trial.
        elif event.kind == "interrupted" and self._continues(trial.id, event):
            self._retried.append(trial)
        elif event.kind != "fatal":
            self._last_failure = ("", 0)
            self.tally.failed.pop(trial.id, None)
            getattr(self.tally, event.kind).append(trial.id)
            self._end(trial, event)

    def _next_trial(self) -> Trial | SourceSignal:
        if self._retried:
            return self._retried.pop(0)
        if self._held and self._offers_held_from <= self._clock():
            return self._held.pop(0)
        answer = self._search.ask()
        return SourceSignal.WAIT if answer is SourceSignal.DONE and (self._running or self._held) else answer

    def _continues(self, trial_id: str, event: Event) -> bool:
        """True if an interrupted trial runs again; a finished epoch resets the count."""
        before = 0 if event.facts.get("epochs") else self._interruptions.get(trial_id, 0)
        self._interruptions[trial_id] = before + 1
        return before < INTERRUPTIONS

    def _failed(self, trial: Trial, event: Event) -> None:
        self.tally.failed[trial.id] = event
        self._failures[trial.id] = self._failures.get(trial.id, 0) + 1
        if self._failures[trial.id] <= self._retries and event.facts.get("error_kind") not in NOT_RETRIED:
            self._retried.append(trial)
        else:
            self._end(trial, event)
        # A sweep of 10,000 trials with a typo must not fail 10,000 times.
        shape = failure_shape(event)
        self._last_failure = (shape, self._last_failure[1] + 1 if shape == self._last_failure[0] else 1)
        if self._last_failure[1] >= self._most_identical:
            error = event.facts.get("error")
            self.tally.stopped_by = (
                f"{self._last_failure[1]} attempts in a row failed the same way ({error}); the other trials would too"
            )

    def _end(self, trial: Trial, event: Event) -> None:
        self.tally.over.add(trial.id)
        self._search.tell(trial, event)


def failure_shape(event: Event) -> str:
    """The traceback or error of a failure without numbers and addresses.

    Identical failures have equal shapes.
    """
    text = str(event.facts.get("traceback") or event.facts.get("error"))
    return re.sub(r"0x[0-9a-f]+|\d+(\.\d+)?(e[-+]?\d+)?", "#", text)
