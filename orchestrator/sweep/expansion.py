"""From a Sweep to its variants and trials. Pure: the same sweep gives the same trials in the same order."""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moleflow.errors import InvalidInput
from moleflow.settings.config import TrialConfig, flatten_config
from orchestrator.sweep.conditions import holds
from orchestrator.sweep.resolver import Resolver, _groups, copy_with
from orchestrator.sweep.sweep import Sweep
from orchestrator.sweep.trial import Identities, Inputs, Trial, counted, label

LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class Variant:
    """One point of the space.

    Attributes:
        factors: {knob: value} of the axes that apply here, in the order of the sweep's axes.
        config: the configuration, with seed 0.

    """

    factors: Mapping[str, Any]
    config: TrialConfig


@dataclass(frozen=True)
class Expansion:
    """All variants of a sweep, and what became of the rest of its combinations.

    Attributes:
        variants: each configuration once.
        excluded: combinations that `exclude` left out.
        collapsed: combinations whose configuration an earlier one had already, by `when` or otherwise.

    """

    variants: tuple[Variant, ...]
    excluded: int
    collapsed: int


def combinations(sweep: Sweep) -> int:
    """How many combinations the parts have, before `when` and `exclude`. Expands nothing."""
    return math.prod(len(part) for part in sweep.parts)


def count(sweep: Sweep) -> int:
    """The most trials that the sweep can have: combinations times seeds. Expands nothing."""
    return combinations(sweep) * len(sweep.seeds)


def variants(sweep: Sweep) -> Iterator[Variant]:
    """The sweep's variants, one by one; the last part's axes move fastest, and each configuration comes once.

    Raises:
        InvalidInput: a variant that cannot be; the message names its factors.

    """
    return (variant for variant in _outcomes(sweep) if isinstance(variant, Variant))


def expand(sweep: Sweep, *, yes: bool = False) -> Expansion:
    """All variants of the sweep.

    Args:
        sweep: the sweep.
        yes: go on although it may have more than LIMIT trials.

    Raises:
        InvalidInput: too many trials, no variant at all, a variant that cannot be, or none that the baseline describes.

    """
    most = count(sweep)
    if most > LIMIT and not yes:
        raise InvalidInput(
            f"{sweep.source}: up to {most:,} trials ({counted(combinations(sweep), 'combination')}, {counted(len(sweep.seeds), 'seed')}) "
            f"are more than {LIMIT:,}; thin out the axes, or go on with --yes"
        )
    with _uncollected():
        outcomes = list(_outcomes(sweep))
    found = tuple(outcome for outcome in outcomes if isinstance(outcome, Variant))
    if not found and "impossible" in outcomes:
        raise InvalidInput(
            f"{sweep.source}: search.space: none of {len(outcomes)} random configurations is possible; {_why_not(sweep)}"
        )
    if not found:
        raise InvalidInput(f"{sweep.source}: exclude leaves no variant; take one of its entries away")
    if sweep.baseline and not any(is_baseline(variant.config, sweep.baseline) for variant in found):
        raise InvalidInput(
            f"{sweep.source}: report.baseline: no variant has {label(sweep.baseline)}; "
            f"the first ones are: {'; '.join(label(variant.factors) for variant in found[:5])}"
        )
    return Expansion(found, outcomes.count("excluded"), outcomes.count("collapsed"))


def is_baseline(config: TrialConfig, baseline: Mapping[str, Any]) -> bool:
    """Whether a configuration has every value that the baseline names."""
    flat = flatten_config(config)
    return all(flat[path] == value for path, value in baseline.items())


def trials(sweep: Sweep, inputs: Inputs | Callable[[TrialConfig], Inputs], *, yes: bool = False) -> list[Trial]:
    """The sweep's trials, variant by variant and seed by seed, each id once.

    Args:
        sweep: the sweep.
        inputs: what the trials read; a function of the configuration where the variants read different weights.
        yes: go on although there may be more than LIMIT trials.

    Raises:
        InvalidInput: as `expand`, or a task without a digest.
        ValueError: one set of inputs for variants of different weights.

    """
    return trials_of(sweep, expand(sweep, yes=yes).variants, inputs)


def trials_of(sweep: Sweep, found: Sequence[Variant], inputs: Inputs | Callable[[TrialConfig], Inputs]) -> list[Trial]:
    """The trials of variants that the sweep was expanded to; otherwise as `trials`."""
    if isinstance(inputs, Inputs) and len({(v.config.backbone.model, v.config.backbone.weights) for v in found}) > 1:
        raise ValueError("the variants read different weights: give a function from configuration to inputs")
    identities = Identities()
    read: dict[tuple[int, int], Inputs] = {}
    by_id: dict[str, Trial] = {}
    with _uncollected():
        for variant in found:
            config = variant.config
            # Tasks and weights alone say what is read. The variants hold both groups, so that no other one gets their id().
            place = id(config.data), id(config.backbone)
            if place not in read:
                read[place] = inputs if isinstance(inputs, Inputs) else inputs(config)
            for seed in sweep.seeds:
                seeded = config if seed == config.seed else copy_with(config, seed=seed)
                trial = Trial(identities.of(seeded, read[place]), seeded, variant.factors, read[place])
                by_id.setdefault(trial.id, trial)  # two paths of one weights file are one trial
    return list(by_id.values())


def configurations_reading_inputs(sweep: Sweep) -> list[TrialConfig]:
    """Configurations that together read all that a search's may: its base, and that with each choice of model, weights and tasks."""
    resolver, found = Resolver(sweep), []
    reading = {"backbone.model", "backbone.weights", "data.tasks"}
    choices = [
        {path: value} for part in sweep.parts for path in reading & {*part.knobs} for value in part.values(path) or ()
    ]
    for factors in ({}, *choices):
        # What is impossible may be possible together with other choices; whoever meets it says so.
        with contextlib.suppress(InvalidInput):
            found.append(resolver.config(factors))
    return found


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the search for cycles of references: variants make none, and looking through ever more of them is a third of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _why_not(sweep: Sweep) -> str:
    """Why the first configuration of a sample is impossible."""
    try:
        Resolver(sweep).config(next(iter(sweep.parts[0])))
    except InvalidInput as error:
        return str(error)
    return "look at when and exclude"


def _outcomes(sweep: Sweep) -> Iterator[Variant | str]:
    """What becomes of each combination: a variant, "excluded", or "collapsed"."""
    resolver = Resolver(sweep)
    seen: set[tuple[Any, ...]] = set()
    for rows in itertools.product(*sweep.parts):
        factors = {path: value for row in rows for path, value in row.items()}
        for axis, condition in sweep.when.items():
            if axis in factors and not holds(condition, ChainMap(factors, resolver.ground(factors))):
                del factors[axis]
        if any(holds(condition, ChainMap(factors, resolver.ground(factors))) for condition in sweep.exclude):
            yield "excluded"
            continue
        try:
            config = resolver.config(factors)
        except InvalidInput:
            if sweep.search is None:
                raise
            yield "impossible"  # A search that meets it goes on; so does its sample.
            continue
        key = config.version, *map(id, _groups()(vars(config)))
        if key in seen:
            yield "collapsed"
            continue
        seen.add(key)
        yield Variant(factors, config)
