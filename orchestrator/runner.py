"""The source of work: ask the search, hand out, retry what failed, stop when going on makes no sense."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.events import ENDS, Event
from orchestrator.search import Search
from orchestrator.sweep_file import Resources
from orchestrator.trial import Trial
from orchestrator.work import Pause, WorkItem

IDENTICAL_FAILURES = 10
HELD_AGAIN_S = 2.0
INTERRUPTIONS = 3


@dataclass
class Tally:
    """What became of the trials that a run handed out.

    Attributes:
        finished: trials that this run finished.
        elsewhere: trials that another driver finished meanwhile.
        failed: trials whose last attempt failed, with its end.
        interrupted: trials that somebody stopped from outside again and again; they are left to the next run.
        over: trials that this run has done with.
        stopped_by: why it hands out no more.

    """

    finished: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    failed: dict[str, Event] = field(default_factory=dict)
    interrupted: list[str] = field(default_factory=list)
    over: set[str] = field(default_factory=set)
    stopped_by: str | None = None


class TrialSource:
    """Hands a search's trials to a backend and takes the events back.

    Args:
        search: where the trials come from.
        resources: what each of them needs.
        retries: further attempts that a failed trial gets.
        most_identical: after so many identical failures in a row it hands out no more.
        clock: seconds, from anywhere.

    """

    def __init__(
        self,
        search: Search,
        resources: Resources,
        retries: int,
        most_identical: float = IDENTICAL_FAILURES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tally = Tally()
        self._search, self._resources, self._retries, self._clock = search, resources, retries, clock
        self._most_identical = most_identical
        self._running: dict[str, Trial] = {}
        self._again: list[tuple[float, Trial]] = []
        self._failures: dict[str, int] = {}
        self._interruptions: dict[str, int] = {}
        self._same: tuple[str, int] = ("", 0)
        self._at_once = False

    def next(self) -> WorkItem | Pause:
        """The next item to run."""
        if self.tally.stopped_by is not None:
            return Pause.WAIT if self._running and not self._at_once else Pause.DONE
        for place, (due, trial) in enumerate(self._again):
            if due <= self._clock():
                del self._again[place]
                return self._hand_out(trial)
        answer = self._search.ask()
        if isinstance(answer, Trial):
            return self._hand_out(answer)
        return Pause.WAIT if answer is Pause.WAIT or self._running or self._again else Pause.DONE

    def events(self, event: Event) -> None:
        """Take note of what happened to a trial."""
        if event.kind == "fatal":
            self.tally.stopped_by = str(event.facts["error"])
            self._at_once = True
        if event.kind not in ENDS or event.trial_id not in self._running:
            return
        trial = self._running.pop(event.trial_id)
        if event.kind == "held":
            self._again.append((self._clock() + HELD_AGAIN_S, trial))
        elif event.kind == "failed":
            self._failed(trial, event)
        elif event.kind == "interrupted" and self._interruptions.get(trial.id, 0) < INTERRUPTIONS:
            self._interruptions[trial.id] = self._interruptions.get(trial.id, 0) + 1
            self._again.append((self._clock(), trial))
        elif event.kind != "fatal":
            self._same = ("", 0)
            self.tally.failed.pop(trial.id, None)
            getattr(self.tally, event.kind).append(trial.id)
            self._over(trial, event)

    def _hand_out(self, trial: Trial) -> WorkItem:
        self._running[trial.id] = trial
        return WorkItem((trial,), (), self._resources)

    def _failed(self, trial: Trial, event: Event) -> None:
        self.tally.failed[trial.id] = event
        self._failures[trial.id] = self._failures.get(trial.id, 0) + 1
        # Images and settings that do not fit together will not fit the next time either.
        if self._failures[trial.id] <= self._retries and event.facts.get("error_kind") != "InvalidInput":
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
