"""The ask-and-tell search by Optuna.

A trial of Optuna is a configuration here; it has one trial for each seed.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from moleflow.errors import InvalidInput
from orchestrator.execution.backend import SourceSignal
from orchestrator.records.events import Event
from orchestrator.search.drivers import DRIVER
from orchestrator.search.objective import Values, metric_values, violation
from orchestrator.search.samplers import make_sampler, with_last_step_only
from orchestrator.search.space import Space, key_of
from orchestrator.search.tried_configurations import REASON, REPEATED, TRIALS, UNTRIED, TriedConfigurations
from orchestrator.sweep.trial import Trial

MOST_IMPOSSIBLE = 100
"""Excluded, impossible or repeated suggestions in a row after which a search gives up."""


@dataclass
class _Configuration:
    """A configuration that Optuna suggested and has not been told the values of.

    Attributes:
        suggestion: the trial of Optuna.
        trials: our trials, one for each seed, in the order of the seeds.
        waiting: the trials that were not handed out yet.
        running: ids of the trials that were handed out and have not ended.
        values: {trial id: values} of the finished trials.
        step_values: {step: value} after each task; a later task may arrive before an earlier one.
        reported_steps: how many steps Optuna has.
        stop_reason: why no more of its trials are handed out; None = they are.
        untried: ids of the trials that were waiting when it was stopped.

    """

    suggestion: optuna.Trial
    trials: Sequence[Trial]
    waiting: deque[Trial]
    running: set[str] = field(default_factory=set)
    values: dict[str, Values] = field(default_factory=dict)
    step_values: dict[int, float] = field(default_factory=dict)
    reported_steps: int = 0
    stop_reason: str | None = None
    untried: list[str] = field(default_factory=list)

    def stop(self, reason: str) -> None:
        """Hand out no more of its trials; the first reason stays, as later ends follow from it."""
        self.stop_reason = self.stop_reason or reason
        self.untried += [trial.id for trial in self.waiting]
        self.waiting.clear()


class OptunaSearch:
    """Hands out the trials of suggested configurations, and tells Optuna their values.

    Args:
        study: the study; it holds the whole state of the search, and several drivers may share it.
        space: the space of the search.
        stored: returns {trial id: values} of those trials whose results are stored.
        driver: the name of this process among the study's drivers.
        on_start: called with the trials of each configuration before the first is handed out.
        max_running: how many trials run at once at most.
        recover: called when nothing can be handed out; it requeues the configurations of dead
            drivers, and returns true if there were any.
        lock: returns a lock that one driver of the study at a time can hold.
        clock: seconds, from any origin.

    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        stored: Callable[[Collection[str]], Mapping[str, Values]],
        driver: str,
        on_start: Callable[[Sequence[Trial]], None],
        max_running: float = math.inf,
        recover: Callable[[], bool] = lambda: False,
        lock: Callable[[], AbstractContextManager[None]] = nullcontext,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._study, self._space, self._settings, self._driver = study, space, space.search, driver
        self._stored, self._on_start, self._max_running, self._recover = stored, on_start, max_running, recover
        self._lock, self._clock, self._start = lock, clock, clock()
        self._open: dict[int, _Configuration] = {}
        self._tried = TriedConfigurations(study, space)
        self._exhausted = False
        # With a pruner, a configuration's next seed starts once the seed before was not pruned.
        self._seeds_in_order = self._settings.pruner != "none"

    def ask(self) -> Trial | SourceSignal:
        """Return the next trial, of an open configuration if there is one, else of a new one."""
        if len(self._running_ids()) >= self._max_running:
            return SourceSignal.WAIT
        while True:
            for entry in self._open.values():
                trial = self._next_trial(entry)
                if trial is not None:
                    return trial
            if self._budget_left() <= 0 or not self._start_configuration():
                wait = self._open or self._recover() or self.other_drivers_run
                return SourceSignal.WAIT if wait else SourceSignal.DONE

    def on_event(self, trial: Trial, event: Event) -> Collection[str]:
        """Report the value after a task to the pruner, and return the ids of the trials to stop."""
        to_stop: set[str] = set()
        if self._settings.pruner == "none" or event.kind != "task":
            return to_stop
        (metric,) = self._settings.objectives
        value = (event.facts.get("validation") or {}).get(metric)
        for entry in self._with_trial(trial.id):
            seed = [one.id for one in entry.trials].index(trial.id)
            if value is not None:
                # Step numbers count the tasks of the first seed, then those of the second, from 1.
                entry.step_values[seed * event.facts["tasks"] + event.facts["task"] + 1] = value
            if self._should_prune(entry):
                entry.stop("pruned")
                to_stop |= entry.running
        return to_stop

    def tell(self, trial: Trial, end: Event) -> None:
        """Record how a trial ended, and tell Optuna when all trials of its configuration have."""
        values = None
        if end.kind in ("finished", "elsewhere"):
            values = metric_values(end) or self._stored([trial.id]).get(trial.id)
        for entry in self._with_trial(trial.id):
            entry.running.discard(trial.id)
            if values is not None:
                entry.values[trial.id] = values
            else:
                # An interrupted configuration stays RUNNING in the study: the next driver finds
                # that this one is dead, and queues it again.
                reasons = {"failed": f"failed: {end.facts.get('error')}", "pruned": "pruned"}
                entry.stop(reasons.get(end.kind, "interrupted"))
            self._close_if_over(entry)

    @property
    def trials_left(self) -> int:
        """The number of trials still to be handed out, with those of future configurations."""
        waiting = sum(len(entry.waiting) for entry in self._open.values())
        configurations = max(0, self._budget_left())
        left = self._tried.left()
        if left is not None:
            configurations = min(configurations, left)
        return waiting + configurations * len(self._space.sweep.seeds)

    @property
    def other_drivers_run(self) -> bool:
        """True if other drivers run configurations of the study."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return any(trial.user_attrs.get(DRIVER) != self._driver for trial in running)

    def _running_ids(self) -> set[str]:
        return {trial_id for entry in self._open.values() for trial_id in entry.running}

    def _with_trial(self, trial_id: str) -> list[_Configuration]:
        """Return the open configurations with a trial; equal suggestions share their trials."""
        return [entry for entry in self._open.values() if any(trial.id == trial_id for trial in entry.trials)]

    def _next_trial(self, entry: _Configuration) -> Trial | None:
        """Take the next waiting trial of a configuration; None if none may run now."""
        while entry.waiting and not (self._seeds_in_order and entry.running):
            running_elsewhere = entry.waiting[0].id in self._running_ids() - entry.running
            trial = entry.waiting.popleft()
            entry.running.add(trial.id)
            if not running_elsewhere:
                return trial
            # An equal configuration runs this trial; its end counts for both.
        return None

    def _budget_left(self) -> int:
        """Return how many configurations are still to be suggested."""
        if self._settings.hours is not None and self._clock() - self._start > 3600 * self._settings.hours:
            return 0
        states = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        suggested = self._study.get_trials(deepcopy=False, states=states)
        return self._settings.trials - sum(_counts(trial) for trial in suggested)

    def _start_configuration(self) -> bool:
        """Open a suggested configuration, and return false if no more may be suggested."""
        reason = ""
        for _ in range(MOST_IMPOSSIBLE):
            answer = self._suggest_untried()
            if answer is None:
                self._refuse_impossible_space()
                return False
            suggestion, problem = answer
            if isinstance(problem, Mapping):
                trials, problem = self._trials(problem)
                if trials:
                    self._open_configuration(suggestion, trials)
                    return True
            reason = problem
            self._tell_optuna(suggestion, TrialState.FAIL, reason=reason)
        if reason == REPEATED:
            self._exhausted = True
            return False
        raise InvalidInput(
            f"{self._space.sweep.source}: search.space: {MOST_IMPOSSIBLE} suggestions in a row were excluded or impossible; "
            f"the last one: {reason}"
        )

    def _trials(self, factors: Mapping[str, Any]) -> tuple[Sequence[Trial], str]:
        """Return the trials of a configuration, or none and the reason."""
        if self._space.is_excluded(factors):
            return [], "excluded"
        try:
            return self._space.trials(factors), ""
        except InvalidInput as error:
            return [], f"impossible: {error}"

    def _suggest_untried(self) -> tuple[optuna.Trial, Mapping[str, Any] | str] | None:
        """Ask for a suggestion in this driver's name.

        A suggestion that repeats an earlier one queues a configuration that was not tried.

        Returns:
            The suggestion with its factors, or with the reason why it cannot run. None if no more
            may be suggested.

        """
        # The lock keeps two drivers from seeding their samplers alike, from suggesting one
        # configuration, and from asking for more configurations than the budget has.
        with self._lock():
            queued = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            if self._budget_left() <= 0 or (self._exhausted and not queued):
                return None
            suggestions = len(self._study.get_trials(deepcopy=False))
            self._study.sampler = make_sampler(self._settings.sampler, self._settings.seed, suggestions)
            suggestion = self._study.ask()
            suggestion.set_user_attr(DRIVER, self._driver)
            try:
                factors = self._space.suggest(suggestion)
            except InvalidInput as error:
                return suggestion, f"impossible: {error}"
            tried = self._tried.keys(without=suggestion.number)
            if key_of(factors) not in tried:
                return suggestion, factors
            other = self._tried.another(factors, tried, f"{self._settings.seed} {suggestions}")
            if other is not None:
                self._study.enqueue_trial(self._space.parameters(other))
            elif self._space.listed is not None:
                self._exhausted = True
            return suggestion, REPEATED

    def _refuse_impossible_space(self) -> None:
        """Refuse a space that is exhausted without a configuration that could run.

        Raises:
            InvalidInput: every configuration is excluded or impossible.

        """
        trials = self._study.get_trials(deepcopy=False)
        if self._exhausted and not any(TRIALS in trial.user_attrs for trial in trials):
            reasons = [r for t in trials if (r := t.user_attrs.get(REASON)) not in (None, REPEATED)]
            raise InvalidInput(
                f"{self._space.sweep.source}: search.space: every configuration is excluded or impossible; "
                f"the last one: {reasons[-1] if reasons else 'excluded'}"
            )

    def _open_configuration(self, suggestion: optuna.Trial, trials: Sequence[Trial]) -> None:
        ids = [trial.id for trial in trials]
        suggestion.set_user_attr(TRIALS, ids)
        self._on_start(trials)
        values = dict(self._stored(ids))
        waiting = deque(trial for trial in trials if trial.id not in values)
        entry = self._open[suggestion.number] = _Configuration(suggestion, trials, waiting, values=values)
        self._close_if_over(entry)

    def _should_prune(self, entry: _Configuration) -> bool:
        while entry.reported_steps + 1 in entry.step_values:
            entry.reported_steps += 1
            with suppress(UpdateFinishedTrialError):  # As in `_tell_optuna`.
                entry.suggestion.report(entry.step_values[entry.reported_steps], entry.reported_steps)
        if entry.stop_reason or not entry.reported_steps:
            return False
        frozen = self._study.get_trials(deepcopy=False)[entry.suggestion.number]
        if frozen.state.is_finished():
            return False
        # Asha, hyperband and wilcoxon compare step by step already.
        seen = with_last_step_only(frozen) if self._settings.pruner == "median" else frozen
        return self._study.pruner.prune(self._study, seen)

    def _close_if_over(self, entry: _Configuration) -> None:
        if entry.running or (entry.waiting and entry.stop_reason is None):
            return
        del self._open[entry.suggestion.number]
        # A configuration that was pruned at its very last task has all values, and is complete.
        if len(entry.values) == len(entry.trials):
            self._tell_values(entry)
        elif entry.stop_reason == "pruned":
            self._tell_optuna(entry.suggestion, TrialState.PRUNED, untried=entry.untried)
        elif entry.stop_reason is not None and entry.stop_reason != "interrupted":
            self._tell_optuna(entry.suggestion, TrialState.FAIL, reason=entry.stop_reason, untried=entry.untried)

    def _tell_values(self, entry: _Configuration) -> None:
        wanted = {*self._settings.objectives, *self._settings.constraints}
        means = {
            name: sum(values[name] for values in entry.values.values()) / len(entry.values)
            for name in wanted
            if all(name in values for values in entry.values.values())
        }
        missing = wanted - means.keys()
        if missing:
            reason = f"failed: {', '.join(sorted(missing))} is not defined on the validation images"
            self._tell_optuna(entry.suggestion, TrialState.FAIL, reason=reason)
        else:
            self._tell_optuna(entry.suggestion, TrialState.COMPLETE, means)

    def _tell_optuna(
        self,
        suggestion: optuna.Trial,
        state: TrialState,
        means: Values | None = None,
        reason: str | None = None,
        untried: Sequence[str] = (),
    ) -> None:
        # Another driver may have taken this one for dead and failed the configuration. That stands:
        # the configuration is queued again, and its finished trials do not run twice.
        with suppress(UpdateFinishedTrialError):
            for name, fact in ((REASON, reason), (UNTRIED, list(untried))):
                if fact:
                    suggestion.set_user_attr(name, fact)
            if means:
                for name, bound in self._settings.constraints.items():
                    suggestion.set_constraint(name, violation(name, means[name], bound))
        values = [means[name] for name in self._settings.objectives] if means else None
        self._study.tell(suggestion, values, state, skip_if_finished=True)


def _counts(trial: optuna.trial.FrozenTrial) -> bool:
    """Return true if a suggestion takes a place of the budget.

    Excluded, impossible and requeued suggestions take none; a failed configuration does.
    """
    return trial.state is not TrialState.FAIL or str(trial.user_attrs.get(REASON, "")).startswith("failed")
