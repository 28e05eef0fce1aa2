"""The expansion of a sweep: its variants, and the trials that they make.

It is a pure function: the same sweep gives the same trials in the same order.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from moleflow.errors import InvalidInput, counted
from moleflow.settings.config import TrialConfig, flatten_config
from orchestrator.sweep.baselines import find_baselines
from orchestrator.sweep.conditions import holds
from orchestrator.sweep.footing import FOOTING, YARDSTICK
from orchestrator.sweep.resolver import Resolver, copy_with
from orchestrator.sweep.sweep import Sweep
from orchestrator.sweep.trial import Identities, Inputs, Trial, label

LIMIT = 10_000
"""Trials above which a sweep needs `--yes`."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One combination of the axes' values.

    Attributes:
        factors: {knob: value} of the knobs that are varied here, in the order of the sweep's axes.
        config: the configuration, with seed 0.

    """

    factors: Mapping[str, Any]
    config: TrialConfig


@dataclass(frozen=True)
class Expansion:
    """The variants of a sweep, and the number of combinations that are none.

    Attributes:
        variants: the variants; no two have the same configuration. Memory banks come last.
        excluded: combinations that `exclude` leaves out.
        collapsed: combinations with the configuration of an earlier one, because of `when` or not.

    """

    variants: tuple[Variant, ...]
    excluded: int
    collapsed: int


def expand(sweep: Sweep, *, yes: bool = False) -> Expansion:
    """Expand a sweep to its variants; the last axis varies fastest. `yes` allows over LIMIT trials.

    Raises:
        InvalidInput: too many trials, no variant, an impossible variant, or no variant with the
            values of the baseline.

    """
    combinations = math.prod(len(axis) for axis in sweep.axes)
    most = combinations * len(sweep.seeds)
    if most > LIMIT and not yes:
        raise InvalidInput(
            f"{sweep.source}: up to {most:,} trials ({counted(combinations, 'combination')}, "
            f"{counted(len(sweep.seeds), 'seed')}), more than {LIMIT:,}; "
            "give the axes fewer values, or allow it with --yes"
        )
    with _without_garbage_collection():
        outcomes = list(_outcomes(sweep))
    variants = tuple(outcome for outcome in outcomes if isinstance(outcome, Variant))
    if not variants and "impossible" in outcomes:
        reason = "check when and exclude"
        try:
            Resolver(sweep).config(next(iter(sweep.axes[0])))
        except InvalidInput as error:
            reason = str(error)
        raise InvalidInput(
            f"{sweep.source}: search.space: none of {len(outcomes)} random configurations is possible; {reason}"
        )
    if not variants:
        raise InvalidInput(f"{sweep.source}: exclude leaves no variant; remove one of its entries")
    if sweep.baseline:
        _check_baseline(sweep, variants)
    if sweep.yardstick:
        variants += tuple(_memory_banks(variants, [path for axis in sweep.axes for path in axis.knobs]))
    return Expansion(variants, outcomes.count("excluded"), outcomes.count("collapsed"))


def _check_baseline(sweep: Sweep, variants: Sequence[Variant]) -> None:
    """Check that some variant has a baseline.

    Raises:
        InvalidInput: no variant has the values of `report.baseline`, or several have and none of
            them is the baseline of another one.
    """
    paths = dict.fromkeys([*sweep.baseline, *(path for variant in variants for path in variant.factors)])
    values = [[attrgetter(path)(variant.config) for path in paths] for variant in variants]
    found = find_baselines(values, dict(enumerate(sweep.baseline.values())))
    fitting = [variant for k, variant in enumerate(variants) if found[k] == k]
    have = label(sweep.baseline)
    if not fitting:
        raise InvalidInput(
            f"{sweep.source}: report.baseline: no variant has {have}; the first variants are: {_labels(variants)}"
        )
    if len(fitting) < len(variants) and all(of in (None, k) for k, of in enumerate(found)):
        raise InvalidInput(
            f"{sweep.source}: report.baseline: {len(fitting)} variants have {have}, and no other variant differs from "
            f"one of them by this alone; name more knobs of one: {_labels(fitting)}"
        )


def _labels(variants: Sequence[Variant]) -> str:
    """Return the names of the first five variants."""
    return "; ".join(label(variant.factors) for variant in variants[:5])


def trials_of(sweep: Sweep, variants: Sequence[Variant], inputs: Callable[[TrialConfig], Inputs]) -> list[Trial]:
    """Make the trials of variants, variant by variant and seed by seed; each id comes once.

    Args:
        sweep: the sweep.
        variants: its variants.
        inputs: returns the files that a configuration reads.

    Raises:
        InvalidInput: a task without images.

    """
    identities = Identities()
    inputs_of_groups: dict[tuple[int, int], Inputs] = {}
    by_id: dict[str, Trial] = {}
    with _without_garbage_collection():
        for variant in variants:
            config = variant.config
            # Data and backbone alone decide what is read. The variants keep both groups alive, so
            # that Python gives their id() to no other object.
            key = id(config.data), id(config.backbone)
            if key not in inputs_of_groups:
                inputs_of_groups[key] = inputs(config)
            read = inputs_of_groups[key]
            for seed in sweep.seeds:
                seeded = config if seed == config.seed else copy_with(config, seed=seed)
                trial = Trial(identities.of(seeded, read), seeded, variant.factors, read)
                by_id.setdefault(trial.id, trial)  # Two paths of equal weights make one trial.
    return list(by_id.values())


def configurations_reading_inputs(sweep: Sweep) -> list[TrialConfig]:
    """Configurations that together read every image and weight that a search may read.

    They are the base, and the base with each choice of model, weights and tasks.
    """
    resolver = Resolver(sweep)
    choices = [
        {path: value}
        for axis in sweep.axes
        for path in axis.knobs
        if path in ("backbone.model", "backbone.weights", "data.tasks")
        for value in axis.values(path) or ()
    ]
    configs = []
    for factors in ({}, *choices):
        # An impossible one may be possible with other choices; the search reports it if it is not.
        with contextlib.suppress(InvalidInput):
            configs.append(resolver.config(factors))
    return configs


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Pause the garbage collector, which takes a third of the time and finds no cycles here."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _memory_banks(variants: Sequence[Variant], varied: Sequence[str]) -> Iterator[Variant]:
    """Yield a memory bank for each footing of the variants.

    A footing is all that a bank and its scores depend on: images, backbone, scoring, router and the
    knobs of the bank. All other knobs of a bank's trial are defaults, so that equal footings give
    one trial, whichever versions stand on them.
    """
    seen = set()
    for variant in variants:
        config = variant.config
        # It has no likelihood, and one epoch stands for its cost in estimates.
        footing = {
            **{name: getattr(config, name) for name in FOOTING},
            "scoring": config.scoring.model_copy(update={"log_det": "per_patch"}),
            "bank": config.bank.model_copy(update={"enabled": True}),
        }
        if (key := tuple(footing.values())) in seen:
            continue
        seen.add(key)
        values = flatten_config(config)
        factors = {path: values[path] for path in varied if path.partition(".")[0] in footing}
        bank = TrialConfig.model_validate({"version": YARDSTICK, **footing, "training": {"epochs": 1}})
        yield Variant({"version": YARDSTICK, **factors}, bank)


def _outcomes(sweep: Sweep) -> Iterator[Variant | str]:
    """Yield for each combination a variant, or "excluded", "impossible" or "collapsed"."""
    resolver = Resolver(sweep)
    seen: set[tuple[object, ...]] = set()
    for rows in itertools.product(*sweep.axes):
        factors = {path: value for row in rows for path, value in row.items()}
        # `sweep.when` is sorted: each condition comes after those of the knobs that it looks at.
        for knob, condition in sweep.when.items():
            if knob in factors and not holds(condition, ChainMap(factors, resolver.base_values(factors))):
                del factors[knob]
        if any(holds(condition, ChainMap(factors, resolver.base_values(factors))) for condition in sweep.exclude):
            yield "excluded"
            continue
        try:
            config = resolver.config(factors)
        except InvalidInput:
            if sweep.search is None:
                raise
            yield "impossible"  # A search fails such a configuration and goes on.
            continue
        key = resolver.key(config)
        if key in seen:
            yield "collapsed"
            continue
        seen.add(key)
        yield Variant(factors, config)
