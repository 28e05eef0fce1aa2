"""The data of a report page: the report, the comparison in its tables, and all planned trials."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from orchestrator.reports.differences import Comparison, compare_variants, no_effect_notes
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
"""Trials above which a page shows curves and maps of the best and the worst trial only."""
QUALITY = "image_auroc"
"""The metric that ranks variants and trials, as mean over the classes."""
NO_EFFECT = "no effect"


@dataclass(frozen=True)
class UnfinishedTrial:
    """A planned trial without metrics.

    Attributes:
        trial_id: its id.
        status: the status of its last attempt, or `not run`.
        seed: its seed, and so on; None and empty before its first attempt.
        factors: {knob: value} of the varied knobs.
        settings: {dotted path: value} of its configuration, without the seed.
        error: the last attempt's error in one line; may be empty.
        traceback: the last attempt's traceback; may be empty.

    """

    trial_id: str
    status: str
    seed: int | None
    factors: Mapping[str, object]
    settings: Mapping[str, object]
    error: str
    traceback: str


@dataclass(frozen=True)
class PageData:
    """A report over stored trials, and the data that it was made from.

    Variants are known by their numbers: their positions in `variants`.

    Attributes:
        report: the report.
        lock: its lock.
        comparison: the variants, in the order of the tables' columns.
        store: the results.
        unfinished: the planned trials that are not compared.

    """

    report: Report
    lock: Lock
    comparison: Comparison
    store: ResultStore
    unfinished: tuple[UnfinishedTrial, ...]

    @property
    def variants(self) -> tuple[VariantColumn, ...]:
        """The variants, in the order of the tables' columns."""
        return self.comparison.variants

    @property
    def trials(self) -> tuple[FinishedTrial, ...]:
        """The finished trials, variant by variant."""
        return tuple(trial for variant in self.variants for trial in variant.trials)

    @property
    def is_large(self) -> bool:
        """True if there are more than MANY_TRIALS trials."""
        return len(self.trials) + len(self.unfinished) > MANY_TRIALS

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes with metrics, in the order of the report."""
        return tuple(
            dict.fromkeys(name for trial in sorted(self.trials, key=lambda t: t.trial_id) for name in trial.classes)
        )

    @cached_property
    def variant_numbers(self) -> dict[str, int]:
        """{name of a variant's column or row in the tables: the variant's number}."""
        if not self.report.tables:
            return {}
        first, count = self.report.tables[0], len(self.variants)
        # Tables with many variants have them as rows.
        names = [name for name, _ in first.rows] if count > WIDEST else list(first.header[1 : 1 + count])
        return {name: k for k, name in enumerate(names)}

    @cached_property
    def caveats(self) -> tuple[tuple[str, ...], ...]:
        """For each variant the texts of its confounds (†) and of settings without effect."""
        by_variant: list[list[str]] = [[] for _ in self.variants]
        for confound in self.comparison.confounds:
            for k in confound.affected:
                by_variant[k].append(f"† {confound.name}: {confound.values[k]}")
        # Each note names its variants in backquotes, then a colon and the effect that is missing.
        for line in no_effect_notes(self.variants):
            named = line.partition(f"`: {NO_EFFECT}")[0] + "`"
            for k, variant in enumerate(self.variants):
                if f"`{variant.label}`" in named:
                    by_variant[k].append(NO_EFFECT + line.partition(f"`: {NO_EFFECT}")[2].removesuffix("."))
        return tuple(map(tuple, by_variant))

    @property
    def variant_names(self) -> tuple[str, ...]:
        """The variants' names in the tables, with ∅ for those with a setting without effect."""
        without = [any(caveat.startswith(NO_EFFECT) for caveat in caveats) for caveats in self.caveats]
        return tuple(f"{name} ∅" if without[k] else name for name, k in self.variant_numbers.items())

    @property
    def hollow_points_note(self) -> str:
        """A sentence that explains hollow points; empty if no variant has a caveat."""
        return " Hollow points: confounded, or a setting without effect (see the tables)." * any(self.caveats)

    @cached_property
    def ranking(self) -> tuple[int, ...]:
        """The variants' numbers by mean image AUROC, the best first; those without it last."""
        means = [variant.values(MEAN, QUALITY) for variant in self.variants]
        quality = [sum(values) / len(values) if values else -1.0 for values in means]  # An AUROC is above -1.
        return tuple(sorted(range(len(quality)), key=lambda k: (-quality[k], k)))

    def baselines_and_extremes(self, limit: int) -> tuple[int, ...]:
        """Choose at most `limit` variants: baselines, then the best and the worst in turn.

        Returns:
            Their numbers, in the order of the tables.

        """
        if len(self.variants) <= limit:
            return tuple(range(len(self.variants)))
        baselines = list(dict.fromkeys(k for k in self.comparison.baselines if k is not None))
        turns = (k for pair in zip(self.ranking, reversed(self.ranking), strict=True) for k in pair)
        return tuple(sorted(list(dict.fromkeys([*baselines[: limit // 2], *turns]))[:limit]))

    def spread_over_ranking(self, limit: int) -> tuple[int, ...]:
        """Choose at most `limit` variants evenly over the ranking, the best and the worst included.

        Returns:
            Their numbers, in the order of the tables.

        """
        count = len(self.ranking)
        if count <= limit:
            return tuple(range(count))
        return tuple(sorted(self.ranking[round(k * (count - 1) / (limit - 1))] for k in range(limit)))


def gather_page_data(
    report: Report,
    store: ResultStore,
    version_settings: Mapping[str, Mapping[str, object]],
) -> PageData:
    """Gather the data of a report's page, by the recipe of the report's lock.

    Args:
        report: a report over stored trials.
        store: the results that it was made from.
        version_settings: {version: {setting: value}} that the report was built with.

    Raises:
        InvalidInput: there is no store in the folder.

    """
    assert report.lock is not None, "a report over a store has a lock"
    recipe = report.lock.recipe
    selection = None if recipe.selection is None else set(recipe.selection)
    trials = comparable_means(finished_trials(store, selection, recipe.split))
    comparison = compare_variants(group_variants(trials), recipe.baseline, version_settings)
    unfinished = _unfinished(store, selection, {trial.trial_id for trial in trials}, recipe.split)
    return PageData(report, report.lock, comparison, store, unfinished)


def _unfinished(
    store: ResultStore, selection: set[str] | None, compared: set[str], split: str
) -> tuple[UnfinishedTrial, ...]:
    columns = ["trial_id", "attempt", "started_at", "status", "error_kind", "error", "traceback"]
    columns += ["factors", "seed", "config"]
    last: dict[str, Mapping[str, Any]] = {}
    for row in sorted(rows_of(store.read("attempts", columns)), key=lambda row: (row["started_at"], row["attempt"])):
        last[row["trial_id"]] = row
    planned = last.keys() if selection is None else selection
    return tuple(_unfinished_trial(trial_id, last.get(trial_id), split) for trial_id in sorted(planned - compared))


def _unfinished_trial(trial_id: str, attempt: Mapping[str, Any] | None, split: str) -> UnfinishedTrial:
    if attempt is None:
        return UnfinishedTrial(trial_id, "not run", None, {}, {}, "", "")
    status = f"finished without {split} rows" if attempt["status"] == FINISHED else attempt["status"]
    settings = flatten_settings(json.loads(attempt["config"]))
    settings.pop("seed", None)
    error = error_line(attempt["error_kind"], attempt["error"])
    factors, traceback = json.loads(attempt["factors"]), attempt["traceback"] or ""
    return UnfinishedTrial(trial_id, status, attempt["seed"], factors, settings, error, traceback)


def factors_text(factors: Mapping[str, object]) -> str:
    """Return factors as one line, such as `focal_gamma=2, rank=4`."""
    return ", ".join(f"{key}={setting_text(value)}" for key, value in factors.items())
