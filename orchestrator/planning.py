"""Trials and what is stored -> what is done, what is stale and what to run. Pure: no files, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from orchestrator.trial import Trial

State = Literal["done", "stale", "to run"]


class Stored(Protocol):
    """What a plan has to know of a finished trial."""

    @property
    def code_digest(self) -> str:
        """Digest of the code that made the result."""


@dataclass(frozen=True)
class Planned:
    """A trial and what the plan makes of it."""

    trial: Trial
    state: State


@dataclass(frozen=True)
class Plan:
    """Every trial of a sweep with its state, in the order of the sweep file."""

    trials: tuple[Planned, ...]

    def of(self, state: State) -> tuple[Trial, ...]:
        """The trials in one state."""
        return tuple(planned.trial for planned in self.trials if planned.state == state)


def make_plan(trials: Sequence[Trial], finished: Mapping[str, Stored], code: str, rerun_stale: bool = False) -> Plan:
    """What to run.

    A finished trial is never run again, unless other code made its result (it is stale) and the user asks for that.
    """

    def state(trial: Trial) -> State:
        known = finished.get(trial.id)
        if known is None:
            return "to run"
        if known.code_digest == code:
            return "done"
        return "to run" if rerun_stale else "stale"

    return Plan(tuple(Planned(trial, state(trial)) for trial in trials))
