"""From stored rows to what a table compares: finished trials, grouped into variants that differ in more than a seed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from orchestrator.reports.final_metrics import (
    MEAN,
    METRICS,
    FinalMetricsStack,
    partial_metrics,
    stack_metrics,
    undefined,
)
from orchestrator.reports.finished_trials import FinishedTrial
from orchestrator.reports.number_format import Summary, plain_value, setting_text, summarise
from orchestrator.reports.render import ABSENT


@dataclass(frozen=True)
class VariantColumn:
    """One column of a table: the finished trials of one configuration, one for each seed, in order of the seeds.

    `factors` holds a value for every knob that any variant of the comparison names as a factor.
    """

    label: str
    factors: Mapping[str, object]
    trials: tuple[FinishedTrial, ...]

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that finished."""
        return tuple(trial.seed for trial in self.trials)

    @property
    def settings(self) -> Mapping[str, object]:
        """The resolved configuration as {dotted path: value}, without the seed."""
        return self.trials[0].settings

    def values(self, class_name: str, metric: str) -> list[float]:
        """The metric of each seed that has it."""
        values: list[float] = self._finals.values(class_name, metric).tolist()
        return values

    def summary(self, class_name: str, metric: str) -> Summary:
        """The summary of that."""
        return summarise(self._finals.values(class_name, metric))

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The classes of all trials."""
        return tuple(
            dict.fromkeys(name for classes in dict.fromkeys(t.classes for t in self.trials) for name in classes)
        )

    @cached_property
    def undefined(self) -> frozenset[tuple[str, str]]:
        """(class, metric) of what some trial lacks."""
        return frozenset(undefined([trial.values for trial in self.trials]))

    @cached_property
    def _finals(self) -> FinalMetricsStack:
        return stack_metrics([trial.values for trial in self.trials])


def patch_grid(settings: Mapping[str, object]) -> str:
    """The patches of a measured column, as `14x14`, or what is known of them."""
    grid, patch = settings.get("backbone.grid"), re.search(r"patch(\d+)", str(settings.get("backbone.model")))
    size = settings.get("data.image_size")
    if grid is None and patch and isinstance(size, int):
        grid = size // int(patch[1])
    return "of the coarsest layer" if grid is None else f"{grid}x{grid}"


def comparable_means(trials: Sequence[FinishedTrial]) -> list[FinishedTrial]:
    """The trials without the means over classes of which one has the metric in some trials and lacks it in others.

    Such means would be over other classes from trial to trial, and look alike.
    """
    partial = partial_metrics([trial.values for trial in trials])
    found = []
    for trial in trials:
        metrics = [metric for metric, names in partial.items() if names.intersection(trial.classes)]
        found.append(replace(trial, values=trial.values.without_means(metrics)) if metrics else trial)
    return found


def lacking(variants: Sequence[VariantColumn], metric: str) -> tuple[list[str], list[str]]:
    """The classes without the metric in some trial, and the other classes."""
    without = {name for v in variants for name, undefined in v.undefined if undefined == metric}
    names = list(dict.fromkeys(name for v in variants for name in v.classes))
    return [c for c in names if c in without], [c for c in names if c not in without]


def mean_name(variants: Sequence[VariantColumn], metric: str, name: str) -> str:
    """The name of a row of means, marked ‡ where they are over some of the classes only."""
    partial = metric in METRICS and bool(lacking(variants, metric)[0])
    return f"{name} ‡" if partial and any(v.values(MEAN, metric) for v in variants) else name


def group_variants(trials: Sequence[FinishedTrial]) -> list[VariantColumn]:
    """The trials as variants, in natural order of their factors (v4 < v4.1 < v5, 2 < 10), labelled by what differs.

    Trials of one configuration belong together whatever factors they were planned under: an axis that was added to a
    sweep later, at its old value, changes nothing about them.
    """
    groups: dict[str, list[FinishedTrial]] = {}
    texts: dict[int, str] = {}  # Trials mostly share their object of settings.
    for trial in trials:
        if (own := texts.get(id(trial.settings))) is None:
            own = texts[id(trial.settings)] = json.dumps(plain_value(trial.settings), sort_keys=True)
        groups.setdefault(own, []).append(trial)
    keys = sorted({key for trial in trials for key in trial.factors})
    found = [
        ({key: _factor(key, members) for key in keys}, tuple(sorted(members, key=lambda t: (t.seed, t.trial_id))))
        for _, members in sorted(groups.items())
    ]
    found.sort(key=lambda item: [_natural(setting_text(item[0][key])) for key in keys])
    labels = _labels([factors for factors, _ in found], [members[0].version for _, members in found])
    return [VariantColumn(label, factors, members) for label, (factors, members) in zip(labels, found, strict=True)]


def _factor(key: str, members: Sequence[FinishedTrial]) -> object:
    for trial in members:
        if key in trial.factors:
            return trial.factors[key]
    return members[0].settings.get(key, ABSENT)


def _natural(value: str) -> list[tuple[int, float, str]]:
    numbers = r"(\d+(?:\.\d+)?(?:e-?\d+)?)"
    return [(0, float(p), "") if re.fullmatch(numbers, p) else (1, 0.0, p) for p in re.split(numbers, value) if p]


def varying(variants: Sequence[Mapping[str, object]]) -> list[str]:
    """The factors whose values differ: what the comparison is about. `version` comes first."""
    keys = sorted({key for factors in variants for key in factors}, key=lambda key: (key != "version", key))
    return [key for key in keys if len({setting_text(factors.get(key, ABSENT)) for factors in variants}) > 1]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted path, or all of it where two would be alike."""
    last = [key.split(".")[-1] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def _labels(factors: Sequence[Mapping[str, object]], versions: Sequence[str]) -> list[str]:
    # One column, or columns that differ in no factor, are named by all their factors.
    differing = varying(factors) or sorted({key for of in factors for key in of})
    names = short_names(differing)
    labels = [", ".join(f"{names[key]}={setting_text(of[key])}" for key in differing) for of in factors]
    labels = [label or version for label, version in zip(labels, versions, strict=True)]
    # The same factors under another configuration: a column of its own, which the confounds tell apart.
    total, seen = Counter(labels), Counter[str]()
    named = []
    for name in labels:
        seen[name] += 1
        named.append(f"{name} #{seen[name]}" if total[name] > 1 else name)
    return named
