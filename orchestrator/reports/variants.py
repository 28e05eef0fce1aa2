"""From stored rows to what a table compares: finished trials, grouped into variants that differ in more than a seed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from moleflow.added import before
from orchestrator.reports.cells import Summary, summarise
from orchestrator.reports.final import (
    MEAN,
    METRICS,
    Final,
    FinalStack,
    finals,
    partial_metrics,
    stack,
    undefined,
)
from orchestrator.reports.render import ABSENT
from orchestrator.results.schema import FINISHED, holding, marks, rows_of
from orchestrator.results.store import ResultStore

# What has to be equal for two trials to give the same digits, beside their configuration.
_ENVIRONMENT = (
    "dataset",
    "code_digest",
    "device",
    "device_model",
    "torch",
    "cuda",
    "tf32",
    "dtype",
    "threads",
)
# What a finished trial has of its attempt as it is stored, and what the rest of it is made of.
_OWN = (
    *("trial_id", "seed", "version", "dataset", "code_digest", "data_digest", "state_digest", "scores_digest"),
    *("lora_scaling", "parameters_total", "seconds_spent", "seconds_reused"),
)
_TOLD = (
    "attempt",
    "status",
    "config",
    "factors",
    "flags",
    "git_commit",
    "git_dirty",
    "parameters_per_task",
    "packages",
)


@dataclass(frozen=True)
class FinishedTrial:
    """One finished trial: its settings, where it ran, its metrics after the final task, and what it cost.

    Attributes:
        seconds_spent: of the attempt that finished.
        seconds_reused: what had the stages cost that this attempt took from the store.
        seconds_saved: the part of that which other trials had surely paid: what the trial's own earlier attempts spent is left out, as
            they may have trained what it took.
        seconds_lost: of its attempts that did not finish.
        unfinished: how those ended, one word each.

    """

    trial_id: str
    seed: int
    version: str
    dataset: str
    factors: Mapping[str, object]
    settings: Mapping[str, object]
    environment: Mapping[str, str]
    values: Final
    flags: tuple[str, ...]
    code_digest: str
    git: str
    data_digest: str | None
    state_digest: str | None
    scores_digest: str | None
    lora_scaling: float | None
    parameters_total: int | None
    parameters_per_task: tuple[int, ...] | None
    seconds_spent: float
    seconds_reused: float
    seconds_saved: float = 0.0
    seconds_lost: float = 0.0
    unfinished: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in task order."""
        return self.values.classes

    @property
    def images(self) -> tuple[tuple[int, int], ...]:
        """Of each class how many images the metrics were taken on, and how many of them are defective."""
        return self.values.images


@dataclass(frozen=True)
class Variant:
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
    def _finals(self) -> FinalStack:
        return stack([trial.values for trial in self.trials])


def text(value: object) -> str:
    """A setting's value as tables show it: 2.0 and 2 are both `2`."""
    value = plain(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def plain(value: object) -> object:
    """A JSON value in which whole reals are integers, so that values that are equal look equal."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


def patch_grid(settings: Mapping[str, object]) -> str:
    """The patches of a measured column, as `14x14`, or what is known of them."""
    grid, patch = settings.get("backbone.grid"), re.search(r"patch(\d+)", str(settings.get("backbone.model")))
    size = settings.get("data.image_size")
    if grid is None and patch and isinstance(size, int):
        grid = size // int(patch[1])
    return "of the coarsest layer" if grid is None else f"{grid}x{grid}"


def finished_trials(store: ResultStore, selection: set[str] | None, split: str) -> list[FinishedTrial]:
    """The finished trials of `selection` (all when None), by trial id."""
    # A trial that finishes between the two reads has an attempt and no metrics yet, and is left for the next report.
    attempts = store.read("attempts", sorted({*_OWN, *_TOLD, *_ENVIRONMENT}))
    finished = holding(attempts["status"], FINISHED)
    others: dict[str, list[dict[str, Any]]] = {}
    for row in rows_of(attempts.filter(marks(~finished))):
        others.setdefault(row["trial_id"], []).append(row)
    metrics, told = finals(store, split), _Told()
    found = [
        told.trial(row, metrics[key], others.get(row["trial_id"], ()))
        for row in rows_of(attempts.filter(marks(finished)))
        if (key := (row["trial_id"], row["attempt"])) in metrics and (selection is None or row["trial_id"] in selection)
    ]
    return sorted(found, key=lambda trial: trial.trial_id)


class _Told:
    """What rows of attempts tell of their trials. Trials of one configuration share one object of settings, read once."""

    def __init__(self) -> None:
        self._settings: dict[str, dict[str, object]] = {}
        self._environments: dict[tuple[object, ...], dict[str, str]] = {}
        self._factors: dict[str, dict[str, object]] = {}

    def trial(self, row: Mapping[str, Any], values: Final, others: Sequence[Mapping[str, Any]] = ()) -> FinishedTrial:
        if (factors := self._factors.get(row["factors"])) is None:
            factors = self._factors[row["factors"]] = json.loads(row["factors"])
        dirty = ", uncommitted changes" if row["git_dirty"] else ""
        code, attempt = row["code_digest"], row["attempt"]
        earlier = sum(of["seconds_spent"] for of in others if of["attempt"] < attempt and of["code_digest"] == code)
        return FinishedTrial(
            factors=factors,
            settings=self._settings_of(row),
            environment=self._environment_of(row),
            values=values,
            flags=tuple(json.loads(row["flags"])),
            git=f"git {row['git_commit'][:12]}{dirty}" if row["git_commit"] else "no git commit",
            seconds_saved=max(0.0, row["seconds_reused"] - earlier),
            seconds_lost=sum(of["seconds_spent"] for of in others),
            unfinished=tuple(of["status"] for of in others),
            parameters_per_task=None if row["parameters_per_task"] is None else tuple(row["parameters_per_task"]),
            **{name: row[name] for name in _OWN},
        )

    def _settings_of(self, row: Mapping[str, Any]) -> dict[str, object]:
        before_seed, seed, after = row["config"].rpartition('"seed":')
        text_without = row["config"] if seed in before_seed else before_seed + after.lstrip("-0123456789")
        if text_without not in self._settings:
            config = json.loads(row["config"])
            # Images are compared class by class: another order of the tasks is no other data set.
            if isinstance(digests := config.get("data_digests"), list):
                config["data_digests"] = dict(zip(config["data"]["tasks"], digests, strict=True))
            settings = before() | flatten(config)
            settings.pop("seed", None)
            self._settings[text_without] = settings
        return self._settings[text_without]

    def _environment_of(self, row: Mapping[str, Any]) -> dict[str, str]:
        key = tuple(row[name] for name in (*_ENVIRONMENT, "packages"))
        if key not in self._environments:
            packages = {f"package {name}": str(version) for name, version in json.loads(row["packages"]).items()}
            own = {name: "none" if row[name] is None else text(row[name]) for name in _ENVIRONMENT}
            self._environments[key] = own | packages
        return self._environments[key]


def flatten(config: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings as {dotted path: value}."""
    flat: dict[str, object] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat


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


def lacking(variants: Sequence[Variant], metric: str) -> tuple[list[str], list[str]]:
    """The classes without the metric in some trial, and the other classes."""
    without = {name for v in variants for name, undefined in v.undefined if undefined == metric}
    names = list(dict.fromkeys(name for v in variants for name in v.classes))
    return [c for c in names if c in without], [c for c in names if c not in without]


def mean_name(variants: Sequence[Variant], metric: str, name: str) -> str:
    """The name of a row of means, marked ‡ where they are over some of the classes only."""
    partial = metric in METRICS and bool(lacking(variants, metric)[0])
    return f"{name} ‡" if partial and any(v.values(MEAN, metric) for v in variants) else name


def group(trials: Sequence[FinishedTrial]) -> list[Variant]:
    """The trials as variants, in natural order of their factors (v4 < v4.1 < v5, 2 < 10), labelled by what differs.

    Trials of one configuration belong together whatever factors they were planned under: an axis that was added to a
    sweep later, at its old value, changes nothing about them.
    """
    groups: dict[str, list[FinishedTrial]] = {}
    texts: dict[int, str] = {}  # Trials mostly share their object of settings.
    for trial in trials:
        if (own := texts.get(id(trial.settings))) is None:
            own = texts[id(trial.settings)] = json.dumps(plain(trial.settings), sort_keys=True)
        groups.setdefault(own, []).append(trial)
    keys = sorted({key for trial in trials for key in trial.factors})
    found = [
        ({key: _factor(key, members) for key in keys}, tuple(sorted(members, key=lambda t: (t.seed, t.trial_id))))
        for _, members in sorted(groups.items())
    ]
    found.sort(key=lambda item: [_natural(text(item[0][key])) for key in keys])
    labels = _labels([factors for factors, _ in found], [members[0].version for _, members in found])
    return [Variant(label, factors, members) for label, (factors, members) in zip(labels, found, strict=True)]


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
    return [key for key in keys if len({text(factors.get(key, ABSENT)) for factors in variants}) > 1]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted path, or all of it where two would be alike."""
    last = [key.split(".")[-1] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def _labels(factors: Sequence[Mapping[str, object]], versions: Sequence[str]) -> list[str]:
    # One column, or columns that differ in no factor, are named by all their factors.
    differing = varying(factors) or sorted({key for of in factors for key in of})
    names = short_names(differing)
    labels = [", ".join(f"{names[key]}={text(of[key])}" for key in differing) for of in factors]
    labels = [label or version for label, version in zip(labels, versions, strict=True)]
    # The same factors under another configuration: a column of its own, which the confounds tell apart.
    total, seen = Counter(labels), Counter[str]()
    named = []
    for name in labels:
        seen[name] += 1
        named.append(f"{name} #{seen[name]}" if total[name] > 1 else name)
    return named
