"""The space of a search: what Optuna is asked for, knob by knob, and the trials that its answer means."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

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
from orchestrator.sweep.resolver import Resolver, copy_with
from orchestrator.sweep.sweep import Sweep
from orchestrator.sweep.trial import Identities, Inputs, Trial, spell


@dataclass(frozen=True)
class Space:
    """The space of one sweep.

    Args:
        sweep: a sweep with a search.
        inputs: what a configuration reads.

    """

    sweep: Sweep
    inputs: Callable[[TrialConfig], Inputs]
    _resolver: Resolver = field(init=False)
    _identities: Identities = field(default_factory=Identities)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_resolver", Resolver(self.sweep))

    @property
    def distributions(self) -> Mapping[str, Distribution]:
        """Where each knob's values come from."""
        (part,) = self.sweep.parts
        assert isinstance(part, RandomAxis)
        return part.distributions

    def suggested(self, trial: optuna.Trial) -> dict[str, Any]:
        """Ask for the knobs that apply, those with a condition after those that it looks at.

        Returns:
            {dotted path: value}, in the order of the space.

        """
        order = [*(path for path in self.distributions if path not in self.sweep.when), *self.sweep.when]
        found: dict[str, Any] = {}
        for path in order:
            condition = self.sweep.when.get(path)
            if condition is None or holds(condition, ChainMap(found, self._resolver.ground(found))):
                found |= self.factors({path: _suggest(trial, path, self.distributions[path])})
        return {path: found[path] for path in self.distributions if path in found}

    def wanted(self, factors: Mapping[str, Any]) -> bool:
        """Whether `exclude` leaves these factors in."""
        values = ChainMap(dict(factors), self._resolver.ground(factors))
        return not any(holds(condition, values) for condition in self.sweep.exclude)

    def tests(self, factors: Mapping[str, Any]) -> list[Trial]:
        """The trials that test a configuration once the search is over.

        Raises:
            InvalidInput: as `trials`.

        """
        return self.trials(factors, "all", self.sweep.final_seeds)

    def trials(
        self,
        factors: Mapping[str, Any],
        evaluate: Literal["validation", "all"] = "validation",
        seeds: Sequence[int] | None = None,
    ) -> list[Trial]:
        """One trial a seed.

        Args:
            factors: {dotted path: value} of the knobs that apply.
            evaluate: validation while it searches; all for those that are then tested.
            seeds: None = the sweep's.

        Raises:
            InvalidInput: they make no possible configuration.

        """
        config = self._resolver.config({**factors, "data.evaluate": evaluate})
        if config.data.validation_anomalies == "none":
            raise InvalidInput(
                f"{self.sweep.source}: search: selects on validation images, but data.validation_anomalies is none; "
                "allowed: synthetic | real"
            )
        reads = self.inputs(config)
        seeded = [copy_with(config, seed=seed) for seed in (self.sweep.seeds if seeds is None else seeds)]
        return [Trial(self._identities.of(one, reads), one, dict(factors), reads) for one in seeded]

    def base(self) -> dict[str, Any]:
        """The knobs of the space where nothing is searched: what version and base say, as far as they apply."""
        ground = self._resolver.ground({})
        return {
            path: ground[path]
            for path in self.distributions
            if path not in self.sweep.when or holds(self.sweep.when[path], ground)
        }

    def fits(self, known: Mapping[str, BaseDistribution]) -> bool:
        """Whether a configuration of a study was asked for as it would be here: the same knobs have the same choices and scales."""
        try:
            for path, distribution in known.items():
                check_distribution_compatibility(distribution, _as_optuna(self.distributions[path]))
        except (KeyError, ValueError):
            return False
        return True

    def parameters(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The part of some settings that lies in the space, as Optuna spells it; what lies outside is left to the sampler."""
        return {
            path: spell(settings[path]) if distribution.kind == "choice" else settings[path]
            for path, distribution in self.distributions.items()
            if path in settings and _holds(distribution, settings[path])
        }

    def factors(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """What Optuna's parameters of a configuration mean: {dotted path: value}, in the order of the space."""
        return {
            path: check_value(path, _meant(distribution, parameters[path]), "search.space")
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


def _meant(distribution: Distribution, parameter: Any) -> Any:
    if distribution.kind == "choice":
        return {spell(value): value for value in distribution.bounds}[parameter]
    if distribution.kind == "integer":
        return parameter
    low, high = distribution.bounds
    # Six significant digits, as random draws have: a table shows the value in full, and `--set` repeats it.
    return min(max(float(f"{parameter:.6g}"), low), high)


def _holds(distribution: Distribution, value: Any) -> bool:
    if distribution.kind == "choice":
        return value in distribution.bounds
    low, high = distribution.bounds
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
