"""The space of a search: the knobs that Optuna suggests, and the trials of a suggestion."""

from __future__ import annotations

import math
import random
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from moleflow.errors import InvalidInput
from moleflow.settings.config import TrialConfig
from orchestrator.sweep.axes import Distribution, RandomAxis, check_value
from orchestrator.sweep.conditions import holds
from orchestrator.sweep.file_schema import SearchKeys
from orchestrator.sweep.resolver import Resolver, copy_with
from orchestrator.sweep.sweep import Sweep
from orchestrator.sweep.trial import Identities, Inputs, Trial, spell

MOST_LISTED = 10_000
"""Combinations up to which all configurations of a space are listed."""
Key = frozenset[tuple[str, Any]]
"""The factors of a configuration, to compare configurations by."""


def key_of(factors: Mapping[str, Any]) -> Key:
    """Return the key of a configuration."""
    return frozenset(factors.items())


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
        factors: dict[str, Any] = {}
        for path in self._order:
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

    def optuna_distributions(self, parameters: Iterable[str]) -> dict[str, BaseDistribution]:
        """Return {dotted path: distribution} of some knobs of the space, as Optuna stores them."""
        return {path: _as_optuna(self.distributions[path]) for path in parameters}

    def settings(self, factors: Mapping[str, Any]) -> dict[str, Any]:
        """Return every knob's value in a configuration, as {dotted path: value}."""
        return {**self._resolver.base_values(factors), **factors}

    def configuration_of(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the factors of the configuration with these settings; None if it is outside.

        Args:
            settings: every knob's value, as {dotted path: value}.

        """
        varied = [path for path in self.distributions if path not in self.sweep.when]
        varied += [path for path, condition in self.sweep.when.items() if holds(condition, settings)]
        inside = self.parameters({path: settings[path] for path in varied if path in settings})
        if len(inside) < len(varied):
            return None
        factors = self.factors(inside)
        return None if self.is_excluded(factors) else factors

    @cached_property
    def listed(self) -> Mapping[Key, Mapping[str, Any]] | None:
        """{key: factors} of all configurations that are not excluded.

        None if the space has a range of floats, or more than MOST_LISTED combinations.
        """
        sizes = [distribution.size for distribution in self.distributions.values()]
        if any(size is None for size in sizes) or math.prod(size or 0 for size in sizes) > MOST_LISTED:
            return None
        return {key_of(factors): factors for factors in self._combinations(self._order, {})}

    def _combinations(self, order: Sequence[str], chosen: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the configurations that extend the chosen knobs by those in `order`."""
        if not order:
            factors = {path: chosen[path] for path in self.distributions if path in chosen}
            if not self.is_excluded(factors):
                yield factors
            return
        path, *rest = order
        condition = self.sweep.when.get(path)
        if condition is not None and not holds(condition, ChainMap(dict(chosen), self._resolver.base_values(chosen))):
            yield from self._combinations(rest, chosen)
            return
        for value in self.distributions[path].values:
            # A whole number between two bounds may be one that the knob does not allow.
            with suppress(InvalidInput):
                yield from self._combinations(rest, {**chosen, path: check_value(path, value, "search.space")})

    def drawn(self, stream: random.Random) -> dict[str, Any]:
        """Draw a configuration at random; it may be one that `exclude` leaves out."""
        factors: dict[str, Any] = {}
        for path in self._order:
            condition = self.sweep.when.get(path)
            value = self.distributions[path].draw(stream)
            if condition is None or holds(condition, ChainMap(factors, self._resolver.base_values(factors))):
                factors[path] = check_value(path, value, "search.space")
        return {path: factors[path] for path in self.distributions if path in factors}

    @property
    def _order(self) -> list[str]:
        """The knobs, each after those that its condition looks at."""
        return [*(path for path in self.distributions if path not in self.sweep.when), *self.sweep.when]

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
