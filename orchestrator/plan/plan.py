"""The state of each trial of a sweep, and the settings that differ between trials.

Pure: no files, no clock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal

from pydantic import BaseModel

from orchestrator.results.store import FinishedAttempt
from orchestrator.sweep.trial import Trial

State = Literal["done", "pruned", "stale", "to run"]


@dataclass(frozen=True)
class PlannedTrial:
    """A trial and its state."""

    trial: Trial
    state: State


@dataclass(frozen=True)
class Plan:
    """Every trial of a sweep with its state, in the order of the sweep file.

    Attributes:
        trials: the trials.
        no_longer: ids of stored finished trials that are not among them, as the sweep was edited.
    """

    trials: tuple[PlannedTrial, ...]
    no_longer: tuple[str, ...] = ()

    def of(self, state: State) -> tuple[Trial, ...]:
        """The trials in one state."""
        return tuple(planned.trial for planned in self.trials if planned.state == state)


def make_plan(
    trials: Sequence[Trial],
    finished: Mapping[str, FinishedAttempt],
    code: str,
    rerun_stale: bool = False,
    pruned: Collection[str] = (),
) -> Plan:
    """Give each trial its state.

    A finished trial never runs again, nor does a pruned one. The exception: other code made the
    result (it is stale) and `rerun_stale` is set.

    Args:
        trials: in the order of the sweep file.
        finished: the finished trials by id.
        code: the code digest.
        rerun_stale: whether stale trials run again.
        pruned: ids of trials that were stopped early, for good.

    """

    def state(trial: Trial) -> State:
        known = finished.get(trial.id)
        if known is None:
            return "pruned" if trial.id in pruned else "to run"
        if known.code_digest == code:
            return "done"
        return "to run" if rerun_stale else "stale"

    no_longer = tuple(sorted(finished.keys() - {trial.id for trial in trials}))
    return Plan(tuple(PlannedTrial(trial, state(trial)) for trial in trials), no_longer)


@dataclass(frozen=True)
class Spread:
    """The settings that differ between trials and those that they share.

    Attributes:
        compared: {dotted path: values in order} of the sweep's axes.
        following: {dotted path: values in order} of other settings that differ. A version sets
            them, or a base sets them for one version only.
        shared: {dotted path: value} of everything else, without the seed.
        seeds: all seeds.

    """

    compared: Mapping[str, tuple[Any, ...]]
    following: Mapping[str, tuple[Any, ...]]
    shared: Mapping[str, Any]
    seeds: tuple[int, ...]


def spread(trials: Sequence[Trial]) -> Spread:
    """Find the settings that differ between trials."""
    compared: dict[str, dict[Any, None]] = {}
    for trial in trials:
        for path, value in trial.factors.items():
            compared.setdefault(path, {})[value] = None
    configs = [vars(trial.config) for trial in trials]
    values: dict[str, dict[Any, None]] = {}
    for name in configs[0] if configs else ():
        groups = list(map(itemgetter(name), configs))
        if isinstance(groups[0], BaseModel):
            # Trials share their knob groups; each group is looked at once.
            distinct = list(map(vars, dict(zip(map(id, groups), groups, strict=True)).values()))
            values |= {f"{name}.{knob}": dict.fromkeys(map(itemgetter(knob), distinct)) for knob in distinct[0]}
        elif name != "seed":
            values[name] = dict.fromkeys(groups)
    differing = {path: tuple(found) for path, found in values.items() if len(found) > 1}
    return Spread(
        compared={path: tuple(found) for path, found in compared.items()},
        following={path: found for path, found in differing.items() if path not in compared},
        shared={
            path: next(iter(found)) for path, found in values.items() if path not in differing and path not in compared
        },
        seeds=tuple(dict.fromkeys(trial.config.seed for trial in trials)),
    )
