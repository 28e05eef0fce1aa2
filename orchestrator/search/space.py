"""The space of a search: the knobs that Optuna suggests, and the trials of a suggestion."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)

from moleflow.errors import InvalidInput
from moleflow.settings.config import TrialConfig
from orchestrator.sweep.axes import Distribution, RandomAxis, check_value
from orchestrator.sweep.conditions import holds
from orchestrator.sweep.file_schema import SearchKeys
from orchestrator.sweep.resolver import Resolver, copy_with
from orchestrator.sweep.sweep import Sweep
from orchestrator.sweep.trial import Identities, Inputs, Trial, spell


@dataclass(frozen=True)
class Space:
    """The space of one sweep.

    A configuration is written in two ways. Factors are {dotted path: value} as knobs hold them.
    Parameters are the same for Optuna, where each choice is a text: Optuna stores no tuples.

    Args:
        sweep: a sweep with a search.
        inputs: returns the files that a configuration reads.

    """

    sweep: Sweep
    inputs: Callable[[TrialConfig], Inputs]
    _resolver: Resolver = field(init=False)
    _identities: Identities = field(default_factory=Identities)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_resolver", Resolver(self.sweep))

    @property
    def search(self) -> SearchKeys:
        """The `search` block of the sweep file."""
        assert self.sweep.search is not None
        return self.sweep.search

    @property
    def distributions(self) -> Mapping[str, Distribution]:
        """{dotted path: distribution} of the knobs in the space."""
        (axis,) = self.sweep.axes
        assert isinstance(axis, RandomAxis)
        return axis.distributions

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Ask Optuna for the knobs of one configuration, and return its factors.

        A knob with a condition comes after the knobs of its condition, and only if that holds.
        """
        order = [*(path for path in self.distributions if path not in self.sweep.when), *self.sweep.when]
        factors: dict[str, Any] = {}
        for path in order:
            condition = self.sweep.when.get(path)
            if condition is None or holds(condition, ChainMap(factors, self._resolver.base_values(factors))):
                factors |= self.factors({path: _suggest(trial, path, self.distributions[path])})
        return {path: factors[path] for path in self.distributions if path in factors}

    def is_excluded(self, factors: Mapping[str, Any]) -> bool:
        """Return true if `exclude` leaves the configuration out."""
        values = ChainMap(dict(factors), self._resolver.base_values(factors))
        return any(holds(condition, values) for condition in self.sweep.exclude)

    def test_trials(self, factors: Mapping[str, Any]) -> list[Trial]:
        """Make the trials that test a configuration after the search, with the final seeds.

        Raises:
            InvalidInput: as `trials`.

        """
        return self.trials(factors, test=True)

    def trials(self, factors: Mapping[str, Any], test: bool = False) -> list[Trial]:
        """Make the trials of a configuration, one for each seed.

        Raises:
            InvalidInput: an impossible configuration, or one without validation images.

        """
        config = self._resolver.config({**factors, "data.evaluate": "all" if test else "validation"})
        if config.data.validation_anomalies == "none":
            raise InvalidInput(
                f"{self.sweep.source}: search: selects on validation images, but data.validation_anomalies is none; "
                "allowed: synthetic | real"
            )
        inputs = self.inputs(config)
        seeded = [copy_with(config, seed=seed) for seed in (self.sweep.final_seeds if test else self.sweep.seeds)]
        return [Trial(self._identities.of(one, inputs), one, dict(factors), inputs) for one in seeded]

    def base(self) -> dict[str, Any]:
        """Return the factors of the base, for the knobs of the space that apply to it."""
        values = self._resolver.base_values({})
        return {
            path: values[path]
            for path in self.distributions
            if path not in self.sweep.when or holds(self.sweep.when[path], values)
        }

    def is_compatible(self, distributions: Mapping[str, BaseDistribution]) -> bool:
        """Return true if a stored configuration has the choices and scales of the space."""
        try:
            for path, distribution in distributions.items():
                check_distribution_compatibility(distribution, _as_optuna(self.distributions[path]))
        except (KeyError, ValueError):
            return False
        return True

    def parameters(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings that lie in the space as parameters, and leave out the others."""
        return {
            path: spell(settings[path]) if distribution.kind == "choice" else settings[path]
            for path, distribution in self.distributions.items()
            if path in settings and distribution.contains(settings[path])
        }

    def factors(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return parameters as factors, in the order of the space."""
        return {
            path: check_value(path, _knob_value(distribution, parameters[path]), "search.space")
            for path, distribution in self.distributions.items()
            if path in parameters
        }


def _suggest(trial: optuna.Trial, path: str, distribution: Distribution) -> object:
    asked = _as_optuna(distribution)
    if isinstance(asked, CategoricalDistribution):
        return trial.suggest_categorical(path, asked.choices)
    if isinstance(asked, IntDistribution):
        return trial.suggest_int(path, asked.low, asked.high)
    return trial.suggest_float(path, asked.low, asked.high, log=asked.log)


def _as_optuna(distribution: Distribution) -> CategoricalDistribution | IntDistribution | FloatDistribution:
    if distribution.kind == "choice":
        return CategoricalDistribution([spell(value) for value in distribution.bounds])
    low, high = distribution.bounds
    if distribution.kind == "integer":
        return IntDistribution(low, high)
    return FloatDistribution(low, high, log=distribution.kind == "loguniform")


def _knob_value(distribution: Distribution, parameter: Any) -> Any:
    if distribution.kind == "choice":
        return {spell(value): value for value in distribution.bounds}[parameter]
    return parameter if distribution.kind == "integer" else distribution.rounded(parameter)
