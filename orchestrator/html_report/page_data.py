"""What a page is about: the report, the comparison behind its tables, and every trial asked for, however it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from orchestrator.reports.differences import Comparison, compare_variants, no_effects
from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.finished_trials import FinishedTrial, finished_trials, flatten_settings
from orchestrator.reports.lock import Lock
from orchestrator.reports.notes import error_line
from orchestrator.reports.number_format import setting_text
from orchestrator.reports.tables import WIDEST, Report
from orchestrator.reports.variants import VariantColumn, comparable_means, group_variants
from orchestrator.results.schema import FINISHED, rows_of
from orchestrator.results.store import ResultStore

MANY_TRIALS = 100
"""With more trials than this a page holds numbers alone of each, and curves and pictures of the best and the worst."""
QUALITY = "image_auroc"
"""The metric by which variants and trials are ranked, as mean over the classes."""
NO_EFFECT = "no effect"


@dataclass(frozen=True)
class UnfinishedTrial:
    """A trial without metrics: how its last attempt ended, or that it never began."""

    trial_id: str
    status: str
    seed: int | None
    factors: Mapping[str, object]
    settings: Mapping[str, object]
    error: str
    traceback: str


@dataclass(frozen=True)
class PageData:
    """The report of a sweep and what it was made from.

    Args:
        report: the report; it has a lock, as it is of stored trials.
        lock: its lock.
        comparison: the variants in the order of the tables' columns.
        store: the results.
        unfinished: the trials that are asked for and not compared.

    """

    report: Report
    lock: Lock
    comparison: Comparison
    store: ResultStore
    unfinished: tuple[UnfinishedTrial, ...]

    @property
    def variants(self) -> tuple[VariantColumn, ...]:
        """The variants, as the tables' columns stand."""
        return self.comparison.variants

    @property
    def trials(self) -> tuple[FinishedTrial, ...]:
        """The finished trials, variant by variant."""
        return tuple(trial for variant in self.variants for trial in variant.trials)

    @property
    def many(self) -> bool:
        """Whether there are too many trials for more than numbers of each."""
        return len(self.trials) + len(self.unfinished) > MANY_TRIALS

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that were measured, in the order in which the report names them."""
        return tuple(
            dict.fromkeys(name for trial in sorted(self.trials, key=lambda t: t.trial_id) for name in trial.classes)
        )

    @cached_property
    def places(self) -> dict[str, int]:
        """The place of each variant by the name that its column or row has in the tables."""
        if not self.report.tables:
            return {}
        first, count = self.report.tables[0], len(self.variants)
        names = [name for name, _ in first.rows] if count > WIDEST else list(first.header[1 : 1 + count])
        return {name: k for k, name in enumerate(names)}

    @cached_property
    def marks(self) -> tuple[tuple[str, ...], ...]:
        """For each variant what a reader must know of it: each confound that affects it, and settings without effect."""
        found: list[list[str]] = [[] for _ in self.variants]
        for confound in self.comparison.confounds:
            for k in confound.affected:
                found[k].append(f"† {confound.name}: {confound.values[k]}")
        for line in no_effects(self.variants):
            named = line.partition(f"`: {NO_EFFECT}")[0] + "`"
            for k, variant in enumerate(self.variants):
                if f"`{variant.label}`" in named:
                    found[k].append(NO_EFFECT + line.partition(f"`: {NO_EFFECT}")[2].removesuffix("."))
        return tuple(tuple(marks) for marks in found)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the variants as the tables have them, and ∅ where a setting had no effect; the page refers to them by place."""
        without = [any(mark.startswith(NO_EFFECT) for mark in marks) for marks in self.marks]
        return tuple(f"{name} ∅" if without[k] else name for name, k in self.places.items())

    @property
    def hollow(self) -> str:
        """What hollow points in charts mean, where there are any."""
        return " Hollow points: confounded, or a setting without effect (see the tables)." * any(self.marks)

    @cached_property
    def ranking(self) -> tuple[int, ...]:
        """The places of the variants by mean image AUROC, the best first; those without it last."""
        means = [variant.values(MEAN, QUALITY) for variant in self.variants]
        worth = [sum(values) / len(values) if values else -1.0 for values in means]
        return tuple(sorted(range(len(worth)), key=lambda k: (-worth[k], k)))

    def chosen(self, most: int) -> tuple[int, ...]:
        """At most so many variants: all, or else the baselines and then the best and the worst in turns; as the tables stand."""
        if len(self.variants) <= most:
            return tuple(range(len(self.variants)))
        baselines = dict.fromkeys(of for of in self.comparison.baselines if of is not None)
        turns = (k for pair in zip(self.ranking, reversed(self.ranking), strict=True) for k in pair)
        return tuple(sorted(list(dict.fromkeys([*list(baselines)[: most // 2], *turns]))[:most]))

    def spread(self, most: int) -> tuple[int, ...]:
        """At most so many variants, evenly over the ranking, the best and the worst among them."""
        ranked, count = self.ranking, len(self.ranking)
        if count <= most:
            return tuple(range(count))
        return tuple(sorted(ranked[round(k * (count - 1) / (most - 1))] for k in range(most)))


def gather_page_data(
    report: Report,
    store: ResultStore,
    covers: Mapping[str, Sequence[str]],
    bundles: Mapping[str, Mapping[str, Mapping[str, object]]],
) -> PageData:
    """The evidence of a report, by the recipe of its lock.

    Args:
        report: a report over stored trials.
        store: the results that it was made from.
        covers: {factor: settings that it sets by itself}, as the report was built with.
        bundles: {factor: {its value: {setting: value}}}, likewise.

    Raises:
        InvalidInput: there is no store in the folder.

    """
    if report.lock is None:
        raise AssertionError("a report over a store carries a lock")
    recipe = report.lock.recipe
    selection = None if recipe.selection is None else set(recipe.selection)
    trials = comparable_means(finished_trials(store, selection, recipe.split))
    comparison = compare_variants(group_variants(trials), recipe.baseline, covers, bundles)
    rest = _unfinished(store, selection, {trial.trial_id for trial in trials}, recipe.split)
    return PageData(report, report.lock, comparison, store, rest)


def _unfinished(
    store: ResultStore, selection: set[str] | None, known: set[str], split: str
) -> tuple[UnfinishedTrial, ...]:
    columns = [
        "trial_id",
        "attempt",
        "started_at",
        "status",
        "error_kind",
        "error",
        "traceback",
        "factors",
        "seed",
        "config",
    ]
    last: dict[str, Mapping[str, Any]] = {}
    for row in sorted(rows_of(store.read("attempts", columns)), key=lambda row: (row["started_at"], row["attempt"])):
        last[row["trial_id"]] = row
    wanted = sorted((last.keys() if selection is None else selection) - known)
    return tuple(_ended(trial, last.get(trial), split) for trial in wanted)


def _ended(trial_id: str, row: Mapping[str, Any] | None, split: str) -> UnfinishedTrial:
    if row is None:
        return UnfinishedTrial(trial_id, "not run", None, {}, {}, "", "")
    status = f"finished without {split} rows" if row["status"] == FINISHED else row["status"]
    settings = flatten_settings(json.loads(row["config"]))
    settings.pop("seed", None)
    error = error_line(row["error_kind"], row["error"])
    return UnfinishedTrial(
        trial_id, status, row["seed"], json.loads(row["factors"]), settings, error, row["traceback"] or ""
    )


def variant_name(factors: Mapping[str, object]) -> str:
    """Factors as one line."""
    return ", ".join(f"{key}={setting_text(value)}" for key, value in factors.items())
