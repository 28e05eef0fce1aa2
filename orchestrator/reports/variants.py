"""From stored rows to what a table compares: finished trials, grouped into variants that differ in more than a seed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from moleflow.added import before
from orchestrator.reports.render import ABSENT
from orchestrator.results.schema import DETECTION, FINISHED
from orchestrator.results.store import ResultStore

METRICS = ("routing_accuracy", *DETECTION, *(f"oracle_{name}" for name in DETECTION), "normal_latent_norm")
CONTINUAL = ("image_auroc", "pixel_auroc")
MEAN = "Mean"
"""The name of the row over all classes, beside class names."""

# What has to be equal for two trials to give the same digits, beside their configuration.
_ENVIRONMENT = ("dataset", "code_digest", "device", "device_model", "torch", "cuda", "tf32", "dtype", "threads")


@dataclass(frozen=True)
class FinishedTrial:
    """One finished trial: its settings, where it ran, and its metrics after the final task.

    `values` maps (class name, metric) to a number or None. The class name `MEAN` holds means over the classes that have
    the metric, and ACC, FM and BWT of image and pixel AUROC, None where one class lacks it. `images` are, for each of
    `classes`, how many images the metrics were taken on, and how many of them are defective.
    """

    trial_id: str
    seed: int
    version: str
    dataset: str
    factors: Mapping[str, object]
    settings: Mapping[str, object]
    environment: Mapping[str, str]
    classes: tuple[str, ...]
    images: tuple[tuple[int, int], ...]
    values: Mapping[tuple[str, str], float | None]
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

    @cached_property
    def undefined(self) -> frozenset[tuple[str, str]]:
        """(class, metric) of what single classes lack."""
        lacks = (place for place, value in self.values.items() if value is None)
        return frozenset(place for place in lacks if place[0] != MEAN and place[0] in self.classes)


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
        values = [trial.values.get((class_name, metric)) for trial in self.trials]
        return [value for value in values if value is not None]


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
    attempts = [row for row in store.read("attempts").to_pylist() if row["status"] == FINISHED]
    wanted = ["trial_id", "attempt", "split", "after_task", "task", "task_name", "n_images", "n_anomalous", *METRICS]
    stored = store.read("metrics", wanted)
    metrics = _by_trial(stored.filter(pc.equal(stored["split"], split)))
    chosen = [row for row in attempts if selection is None or row["trial_id"] in selection]
    found = [_trial(row, metrics[key]) for row in chosen if (key := (row["trial_id"], row["attempt"])) in metrics]
    return sorted(found, key=lambda trial: trial.trial_id)


@dataclass(frozen=True)
class _Metrics:
    """What is stored of one attempt: its rows after the final task, in task order, and R of each of CONTINUAL, (T, T) with NaN."""

    final: Sequence[Mapping[str, Any]]
    r: Mapping[str, npt.NDArray[np.float64]]


def _by_trial(stored: pa.Table) -> dict[tuple[str, int], _Metrics]:
    """The metrics of each attempt, by trial id and number; of the many rows before the final task only what R needs is looked at."""
    if not stored.num_rows:
        return {}
    trial = stored["trial_id"].combine_chunks().dictionary_encode()
    number = stored["attempt"].to_numpy().astype(np.int64)
    most = int(number.max()) + 1
    keys, place = np.unique(trial.indices.to_numpy() * most + number, return_inverse=True)
    names = [(trial.dictionary[key // most].as_py(), key % most) for key in keys.tolist()]
    after, task = stored["after_task"].to_numpy(), stored["task"].to_numpy()
    last = np.zeros(len(names), dtype=after.dtype)
    np.maximum.at(last, place, after)
    is_final = after == last[place]
    final: list[list[Mapping[str, Any]]] = [[] for _ in names]
    for n, row in zip(place[is_final].tolist(), stored.filter(pa.array(is_final)).to_pylist(), strict=True):
        final[n].append(row)
    tasks = int(last.max()) + 1
    r = {metric: np.full((len(names), tasks, tasks), np.nan) for metric in CONTINUAL}
    for metric, of in r.items():
        of[place, after, task] = stored[metric].to_numpy(zero_copy_only=False)
    return {
        name: _Metrics(
            sorted(final[n], key=lambda row: row["task"]),
            {metric: of[n, : last[n] + 1, : last[n] + 1] for metric, of in r.items()},
        )
        for n, name in enumerate(names)
    }


def _trial(row: Mapping[str, Any], metrics: _Metrics) -> FinishedTrial:
    config = json.loads(row["config"])
    # Images are compared class by class: another order of the tasks is no other data set.
    if isinstance(digests := config.get("data_digests"), list):
        config["data_digests"] = dict(zip(config["data"]["tasks"], digests, strict=True))
    settings = before() | flatten(config)
    settings.pop("seed", None)
    packages = {f"package {name}": str(version) for name, version in json.loads(row["packages"]).items()}
    environment = {name: "none" if row[name] is None else text(row[name]) for name in _ENVIRONMENT}
    dirty = ", uncommitted changes" if row["git_dirty"] else ""
    own = ("trial_id", "seed", "version", "dataset", "code_digest", "data_digest", "state_digest", "scores_digest")
    return FinishedTrial(
        factors=json.loads(row["factors"]),
        settings=settings,
        environment=environment | packages,
        classes=tuple(r["task_name"] for r in metrics.final),
        images=tuple((r["n_images"], r["n_anomalous"]) for r in metrics.final),
        values=_values(metrics.final) | _continual(metrics.r),
        flags=tuple(json.loads(row["flags"])),
        git=f"git {row['git_commit'][:12]}{dirty}" if row["git_commit"] else "no git commit",
        parameters_per_task=None if row["parameters_per_task"] is None else tuple(row["parameters_per_task"]),
        **{name: row[name] for name in (*own, "lora_scaling", "parameters_total", "seconds_spent", "seconds_reused")},
    )


def flatten(config: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings as {dotted path: value}."""
    flat: dict[str, object] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat


def _values(final: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], float | None]:
    values: dict[tuple[str, str], float | None] = {}
    for metric in METRICS:
        of_classes = [row[metric] for row in final]
        values |= {(row["task_name"], metric): value for row, value in zip(final, of_classes, strict=True)}
        known = [value for value in of_classes if value is not None]
        values[MEAN, metric] = fmean(known) if known else None
    return values


def _continual(r: Mapping[str, npt.NDArray[np.float64]]) -> dict[tuple[str, str], float | None]:
    from moleflow.metrics.continual import continual

    values: dict[tuple[str, str], float | None] = {}
    for metric, of_metric in r.items():
        of = continual(of_metric)
        # FM and BWT do not need the last task. Without ACC they are left out: the three are read together.
        fm, bwt = (None, None) if of.acc is None else (of.fm, of.bwt)
        values |= {(MEAN, f"acc_{metric}"): of.acc, (MEAN, f"fm_{metric}"): fm, (MEAN, f"bwt_{metric}"): bwt}
    return values


def comparable_means(trials: Sequence[FinishedTrial]) -> list[FinishedTrial]:
    """The trials without the means over classes of which one has the metric in some trials and lacks it in others.

    Such means would be over other classes from trial to trial, and look alike.
    """
    partial: dict[str, set[str]] = {}
    for metric in METRICS:
        lacks = _without(trials, metric)
        partial[metric] = {c for t in trials for c in lacks.intersection(t.classes) if (c, metric) not in t.undefined}
    found = [dict(trial.values) for trial in trials]
    for metric in (metric for metric in METRICS if partial[metric]):
        for trial, values in zip(trials, found, strict=True):
            if partial[metric].intersection(trial.classes):
                values[MEAN, metric] = None
    return [replace(trial, values=values) for trial, values in zip(trials, found, strict=True)]


def lacking(variants: Sequence[Variant], metric: str) -> tuple[list[str], list[str]]:
    """The classes without the metric in some trial, and the other classes."""
    trials = [trial for v in variants for trial in v.trials]
    without = _without(trials, metric)
    names = list(dict.fromkeys(c for classes in dict.fromkeys(t.classes for t in trials) for c in classes))
    return [c for c in names if c in without], [c for c in names if c not in without]


def _without(trials: Sequence[FinishedTrial], metric: str) -> set[str]:
    return {c for t in trials for c, undefined in t.undefined if undefined == metric}


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
    for trial in trials:
        groups.setdefault(json.dumps(plain(trial.settings), sort_keys=True), []).append(trial)
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
