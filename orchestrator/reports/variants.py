"""The columns of a table: finished trials grouped by configuration, one trial for each seed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from moleflow.settings.task_list import Task, classes_in_order, classes_of_task, sequence_text
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

_MOST_NAMED = 6
"""Classes up to which a label names each of a sequence with joint tasks."""


@dataclass(frozen=True)
class VariantColumn:
    """The finished trials of one configuration: one column of a table.

    Attributes:
        label: its name in tables.
        factors: {knob: value} for every knob that is a factor of any compared variant.
        trials: one for each seed, ordered by seed.
        configuration: its long name if `label` is a short one; else empty.
    """

    label: str
    factors: Mapping[str, object]
    trials: tuple[FinishedTrial, ...]
    configuration: str = ""

    @property
    def long_label(self) -> str:
        """The name with all factors that differ, as the CSV has it."""
        return self.configuration or self.label

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that finished."""
        return tuple(trial.seed for trial in self.trials)

    @property
    def settings(self) -> Mapping[str, object]:
        """The configuration as {dotted path: value}, without the seed."""
        return self.trials[0].settings

    def values(self, class_name: str, metric: str) -> list[float]:
        """Return the metric of each seed that has it."""
        values: list[float] = self._stack.values(class_name, metric).tolist()
        return values

    def summary(self, class_name: str, metric: str) -> Summary:
        """Return mean and standard deviation of `values`."""
        return summarise(self._stack.values(class_name, metric))

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The classes of all trials."""
        sequences = dict.fromkeys(trial.classes for trial in self.trials)
        return tuple(dict.fromkeys(name for classes in sequences for name in classes))

    @cached_property
    def undefined(self) -> frozenset[tuple[str, str]]:
        """(class, metric) of every metric that some trial lacks."""
        return frozenset(undefined([trial.values for trial in self.trials]))

    @cached_property
    def _stack(self) -> FinalMetricsStack:
        return stack_metrics([trial.values for trial in self.trials])


def patch_grid(settings: Mapping[str, object]) -> str:
    """Return the patch grid that settings lead to, such as `14x14`.

    Without `backbone.grid` it follows from image and patch size for vision transformers. A
    convolutional backbone takes the grid of its coarsest layer, and with `backbone.pooled_width`
    that of the first layer of the configuration.
    """
    grid, patch = settings.get("backbone.grid"), re.search(r"patch(\d+)", str(settings.get("backbone.model")))
    size = settings.get("data.image_size")
    if grid is None and patch and isinstance(size, int):
        grid = size // int(patch[1])
    if grid is None:
        return "of the first layer" if settings.get("backbone.pooled_width") else "of the coarsest layer"
    return f"{grid}x{grid}"


def comparable_means(trials: Sequence[FinishedTrial]) -> list[FinishedTrial]:
    """Remove the means over classes that are not comparable between trials.

    If a class has a metric in some trials and lacks it in others, their means would be over
    different classes and yet look alike.
    """
    partial = partial_metrics([trial.values for trial in trials])
    comparable = []
    for trial in trials:
        metrics = [metric for metric, names in partial.items() if names.intersection(trial.classes)]
        comparable.append(replace(trial, values=trial.values.without_means(metrics)) if metrics else trial)
    return comparable


def classes_without_and_with(variants: Sequence[VariantColumn], metric: str) -> tuple[list[str], list[str]]:
    """Return the classes that lack the metric in some trial, and the other classes."""
    lacking = {name for v in variants for name, undefined in v.undefined if undefined == metric}
    names = list(dict.fromkeys(name for v in variants for name in v.classes))
    return [name for name in names if name in lacking], [name for name in names if name not in lacking]


def mean_name(variants: Sequence[VariantColumn], metric: str, name: str) -> str:
    """Return the name of a row of means, marked ‡ if the means leave out some classes."""
    partial = metric in METRICS and bool(classes_without_and_with(variants, metric)[0])
    return f"{name} ‡" if partial and any(v.values(MEAN, metric) for v in variants) else name


def group_variants(trials: Sequence[FinishedTrial]) -> list[VariantColumn]:
    """Group trials by configuration, in natural order of their factors (v4 < v4.1 < v5, 2 < 10).

    Trials of one configuration belong together even if they were planned under different factors:
    an axis that was added to a sweep later, at its old value, changes no configuration.
    """
    groups: dict[str, list[FinishedTrial]] = {}
    texts: dict[int, str] = {}  # By id(): trials of one configuration mostly share their settings.
    for trial in trials:
        if (text := texts.get(id(trial.settings))) is None:
            text = texts[id(trial.settings)] = json.dumps(plain_value(trial.settings), sort_keys=True)
        groups.setdefault(text, []).append(trial)
    keys = sorted({key for trial in trials for key in trial.factors})
    grouped = [
        ({key: _factor(key, members) for key in keys}, tuple(sorted(members, key=lambda t: (t.seed, t.trial_id))))
        for _, members in sorted(groups.items())
    ]
    grouped.sort(key=lambda item: [_natural_order(setting_text(item[0][key])) for key in keys])
    labels = number_duplicates(factor_labels([(factors, members[0].version) for factors, members in grouped]))
    return [VariantColumn(label, factors, members) for label, (factors, members) in zip(labels, grouped, strict=True)]


def _factor(key: str, members: Sequence[FinishedTrial]) -> object:
    held = (trial.factors[key] for trial in members if key in trial.factors)
    return next(held, members[0].settings.get(key, ABSENT))


def _natural_order(value: str) -> list[tuple[int, float, str]]:
    """Return a sort key in which numbers within a text compare as numbers, and before words."""
    numbers = r"(\d+(?:\.\d+)?(?:e-?\d+)?)"
    return [(0, float(p), "") if re.fullmatch(numbers, p) else (1, 0.0, p) for p in re.split(numbers, value) if p]


def varying_factors(variants: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the factors whose values differ, which is what is compared; `version` comes first."""
    keys = sorted({key for factors in variants for key in factors}, key=lambda key: (key != "version", key))
    return [key for key in keys if len({setting_text(factors.get(key, ABSENT)) for factors in variants}) > 1]


def short_factor_names(keys: Sequence[str]) -> dict[str, str]:
    """Return the last part of each dotted path, or the whole path where two would be equal."""
    last = [key.split(".")[-1] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def factor_labels(variants: Sequence[tuple[Mapping[str, object], str]]) -> list[str]:
    """Return a name for each (factors, version): the factors that differ, else the version.

    One variant, or variants that differ in no factor, are named by all their factors.
    """
    factors = [of for of, _ in variants]
    named = varying_factors(factors) or sorted({key for of in factors for key in of})
    short = short_factor_names(named)
    texts = {key: _label_texts([of[key] for of in factors]) for key in named}
    labels = [", ".join(f"{short[key]}={texts[key][k]}" for key in named) for k in range(len(factors))]
    return [label or version for label, (_, version) in zip(labels, variants, strict=True)]


def _label_texts(values: Sequence[object]) -> list[str]:
    """Return each value of one factor as labels show it.

    Tasks of which some have several classes are sequences, `bolt+nut -> seal`. Long ones are named
    by their numbers of classes, `14-1` or `5x3`, where these tell them apart.
    """
    sequences = [value for value in values if isinstance(value, list | tuple)]
    if not any(isinstance(task, list | tuple) for of in sequences for task in of):
        return [setting_text(value) for value in values]
    texts = [sequence_text(v) if isinstance(v, list | tuple) else setting_text(v) for v in values]
    sizes = [_sizes_text(v) if isinstance(v, list | tuple) else setting_text(v) for v in values]
    is_long = max(len(classes_in_order(of)) for of in sequences) > _MOST_NAMED
    return sizes if is_long and len(set(sizes)) == len(set(texts)) else texts


def _sizes_text(tasks: Sequence[Task]) -> str:
    """Return the numbers of classes of the tasks: `14-1`, or `5x3` for five tasks of three."""
    sizes = [len(classes_of_task(task)) for task in tasks]
    return f"{len(sizes)}x{sizes[0]}" if len(sizes) > 1 and len(set(sizes)) == 1 else "-".join(map(str, sizes))


def number_duplicates(labels: Sequence[str]) -> list[str]:
    """Return the labels, with `#1`, `#2`, … behind those that occur more than once.

    Configurations that agree in all factors stay columns of their own; the notes list in which
    settings they differ.
    """
    total, seen = Counter(labels), Counter[str]()
    numbered = []
    for label in labels:
        seen[label] += 1
        numbered.append(f"{label} #{seen[label]}" if total[label] > 1 else label)
    return numbered
