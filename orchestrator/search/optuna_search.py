"""A search by Optuna, ask and tell: one of its trials is one configuration, with a trial of ours for each seed."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from moleflow.errors import InvalidInput
from orchestrator.execution.backend import SourceSignal
from orchestrator.records.events import Event
from orchestrator.search.drivers import DRIVER
from orchestrator.search.objective import Values, metric_values
from orchestrator.search.samplers import make_sampler, wilcoxon_steps
from orchestrator.search.space import Space
from orchestrator.sweep.file_schema import COSTS, SearchKeys
from orchestrator.sweep.trial import Trial

WHY, TRIALS, UNTRIED = "why", "trials", "untried"
MOST_IMPOSSIBLE = 100


@dataclass
class _Configuration:
    """A configuration that was asked for and not told yet.

    Attributes:
        optuna: Optuna's trial.
        trials: ours, one a seed, in the order of the seeds.
        waiting: those that nobody has yet.
        running: ids of those that were handed out.
        values: {trial id: values} of those that are finished.
        reports: {step: value} of task boundaries, some of which may wait for an earlier one.
        reported: how many steps Optuna knows.
        stopped: why it shall not go on, if so.
        untried: ids of those that were still waiting then.

    """

    optuna: optuna.Trial
    trials: tuple[Trial, ...]
    waiting: deque[Trial]
    running: set[str] = field(default_factory=set)
    values: dict[str, Values] = field(default_factory=dict)
    reports: dict[int, float] = field(default_factory=dict)
    reported: int = 0
    stopped: str | None = None
    untried: list[str] = field(default_factory=list)

    def stop(self, why: str) -> None:
        """Give out no more of it; the first reason counts."""
        self.stopped = self.stopped or why
        self.untried += [trial.id for trial in self.waiting]
        self.waiting.clear()


class OptunaSearch:
    """Gives out the trials of suggested configurations, and tells Optuna what became of them.

    Args:
        study: where Optuna keeps what it knows.
        space: what may be suggested, and what it means.
        stored: values of finished trials by id, from their rows.
        driver: this process's name among the drivers of the study.
        begun: told the trials of each configuration before the first is given out.
        most: trials in flight at most.
        before_waiting: called when nothing can be handed out; true = there may be more now.
        alone: a block in which no other driver of the study asks.
        clock: seconds, from anywhere.

    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        stored: Callable[[Collection[str]], Mapping[str, Values]],
        driver: str,
        begun: Callable[[Sequence[Trial]], None],
        most: float = math.inf,
        before_waiting: Callable[[], bool] = lambda: False,
        alone: Callable[[], AbstractContextManager[None]] = nullcontext,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert space.sweep.search is not None
        self._study, self._space, self._asked_for, self._driver = study, space, space.sweep.search, driver
        self._stored, self._begun, self._most, self._before_waiting = stored, begun, most, before_waiting
        self._alone, self._clock, self._start = alone, clock, clock()
        self._open: dict[int, _Configuration] = {}
        # A seed is worth its time once the one before was not stopped.
        self._in_order = self._asked_for.pruner != "none"

    def ask(self) -> Trial | SourceSignal:
        """The next trial: of a configuration that is open, else of a new one."""
        if len({trial_id for entry in self._open.values() for trial_id in entry.running}) >= self._most:
            return SourceSignal.WAIT
        while True:
            for entry in self._open.values():
                trial = self._next_of(entry)
                if trial is not None:
                    return trial
            if self._left() <= 0 or not self._begin():
                return self._at_the_end()

    def heard(self, trial: Trial, event: Event) -> Collection[str]:
        """Report a task's value to the pruner; the trials that shall stop."""
        found: set[str] = set()
        if self._asked_for.pruner == "none" or event.kind != "task":
            return found
        (metric,) = self._asked_for.objectives
        value = (event.facts.get("validation") or {}).get(metric)
        for entry in self._of(trial.id):
            seed = [one.id for one in entry.trials].index(trial.id)
            if value is not None:
                entry.reports[seed * event.facts["tasks"] + event.facts["task"] + 1] = value
            if self._seen_enough(entry):
                entry.stop("pruned")
                found |= entry.running
        return found

    def tell(self, trial: Trial, end: Event) -> None:
        """What became of a trial; when all of a configuration's are over, Optuna is told."""
        values = None
        if end.kind in ("finished", "elsewhere"):
            values = metric_values(end) or self._stored([trial.id]).get(trial.id)
        for entry in list(self._of(trial.id)):
            entry.running.discard(trial.id)
            if values is not None:
                entry.values[trial.id] = values
            else:
                # What is left is for the next driver, who finds that this one is gone.
                others = {"failed": f"failed: {end.facts.get('error')}", "pruned": "pruned"}
                entry.stop(others.get(end.kind, "left"))
            self._close_if_over(entry)

    @property
    def left(self) -> int:
        """How many configurations are still to be asked for, and trials of open ones to be given out, as trials."""
        waiting = sum(len(entry.waiting) for entry in self._open.values())
        return waiting + max(0, self._left()) * len(self._space.sweep.seeds)

    @property
    def others_are_at_it(self) -> bool:
        """Whether configurations of the study are in the hands of other drivers."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return any(trial.user_attrs.get(DRIVER) != self._driver for trial in running)

    def _of(self, trial_id: str) -> list[_Configuration]:
        return [entry for entry in self._open.values() if any(trial.id == trial_id for trial in entry.trials)]

    def _next_of(self, entry: _Configuration) -> Trial | None:
        if not entry.waiting or (self._in_order and entry.running):
            return None
        at_it = {trial_id for other in self._open.values() for trial_id in other.running}
        trial = entry.waiting[0]
        if trial.id in at_it and trial.id not in entry.running:
            # The same configuration was suggested twice: one run serves both.
            entry.running.add(entry.waiting.popleft().id)
            return self._next_of(entry)
        entry.running.add(entry.waiting.popleft().id)
        return trial

    def _left(self) -> int:
        if self._asked_for.hours is not None and self._clock() - self._start > 3600 * self._asked_for.hours:
            return 0
        begun = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        counted = self._study.get_trials(deepcopy=False, states=begun)
        return self._asked_for.trials - sum(_counts(trial) for trial in counted)

    def _at_the_end(self) -> SourceSignal:
        if self._open:
            return SourceSignal.WAIT
        if self._before_waiting():
            return SourceSignal.WAIT
        return SourceSignal.WAIT if self.others_are_at_it else SourceSignal.DONE

    def _begin(self) -> bool:
        """Ask Optuna for a configuration, and open it or tell at once what is known of it; false when there are no more."""
        why = ""
        for _ in range(MOST_IMPOSSIBLE):
            trial = self._suggestion()
            if trial is None:
                return False
            factors = self._space.suggested(trial)
            try:
                ours = self._space.trials(factors) if self._space.wanted(factors) else []
                why = "excluded"
            except InvalidInput as error:
                ours, why = [], f"impossible: {error}"
            if ours:
                self._open_up(trial, tuple(ours))
                return True
            self._over(trial, TrialState.FAIL, why=why)
        raise InvalidInput(
            f"{self._space.sweep.source}: search.space: {MOST_IMPOSSIBLE} suggestions in a row came to nothing, the last one: {why}"
        )

    def _suggestion(self) -> optuna.Trial | None:
        """A suggestion that bears this driver's name; None when another one took the last.

        Drivers ask one after another: at the same time they would draw the same numbers, and more than the budget.
        """
        with self._alone():
            if self._left() <= 0:
                return None
            asked = len(self._study.get_trials(deepcopy=False))
            self._study.sampler = make_sampler(self._asked_for.sampler, self._asked_for.seed, asked)
            trial = self._study.ask()
            trial.set_user_attr(DRIVER, self._driver)
            return trial

    def _open_up(self, trial: optuna.Trial, ours: tuple[Trial, ...]) -> None:
        ids = [one.id for one in ours]
        trial.set_user_attr(TRIALS, ids)
        self._begun(ours)
        entry = _Configuration(trial, ours, deque())
        entry.values = dict(self._stored(ids))
        entry.waiting.extend(one for one in ours if one.id not in entry.values)
        self._open[trial.number] = entry
        self._close_if_over(entry)

    def _seen_enough(self, entry: _Configuration) -> bool:
        while entry.reported + 1 in entry.reports:
            entry.reported += 1
            with suppress(UpdateFinishedTrialError):  # As in `_over`.
                entry.optuna.report(entry.reports[entry.reported], entry.reported)
        if entry.stopped or not entry.reported:
            return False
        frozen = self._study.get_trials(deepcopy=False)[entry.optuna.number]
        if frozen.state.is_finished():
            return False
        return self._study.pruner.prune(self._study, wilcoxon_steps(self._asked_for.pruner, frozen))

    def _close_if_over(self, entry: _Configuration) -> None:
        if entry.running or (entry.waiting and entry.stopped is None):
            return
        del self._open[entry.optuna.number]
        if len(entry.values) == len(entry.trials):  # Also where it was stopped when there was nothing left to save.
            self._tell_values(entry)
        elif entry.stopped == "pruned":
            self._over(entry.optuna, TrialState.PRUNED, untried=entry.untried)
        elif entry.stopped is not None and entry.stopped != "left":
            self._over(entry.optuna, TrialState.FAIL, why=entry.stopped, untried=entry.untried)

    def _tell_values(self, entry: _Configuration) -> None:
        wanted = {*self._asked_for.objectives, *self._asked_for.constraints}
        means = {
            name: sum(values[name] for values in entry.values.values()) / len(entry.values)
            for name in wanted
            if all(name in values for values in entry.values.values())
        }
        missing = wanted - means.keys()
        if missing:
            why = f"failed: {', '.join(sorted(missing))} is not defined on the validation images"
            self._over(entry.optuna, TrialState.FAIL, why=why)
        else:
            self._over(entry.optuna, TrialState.COMPLETE, means)

    def _over(
        self,
        trial: optuna.Trial,
        state: TrialState,
        means: Values | None = None,
        why: str | None = None,
        untried: Sequence[str] = (),
    ) -> None:
        """Tell Optuna how a configuration ended. If another driver took this one for dead and gave it up, that stands."""
        with suppress(UpdateFinishedTrialError):
            for name, fact in ((WHY, why), (UNTRIED, list(untried))):
                if fact:
                    trial.set_user_attr(name, fact)
            for name, excess in (excesses(self._asked_for, means) if means else {}).items():
                trial.set_constraint(name, excess)
        values = [means[name] for name in self._asked_for.objectives] if means else None
        self._study.tell(trial, values, state, skip_if_finished=True)


def excesses(search: SearchKeys, means: Values) -> dict[str, float]:
    """By how much each constraint is broken; zero or less where it holds. Costs have an upper bound, metrics a lower one."""
    return {
        name: (means[name] - bound) if name in COSTS else (bound - means[name])
        for name, bound in search.constraints.items()
    }


def _counts(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a suggestion takes a place of the budget: not if it came to nothing, or was put in the queue again."""
    if trial.state is not TrialState.FAIL:
        return True
    return str(trial.user_attrs.get(WHY, "")).startswith("failed")
