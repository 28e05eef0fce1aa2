"""The data of a report page: the report, the comparison in its tables, and all planned trials."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from orchestrator.reports.differences import Comparison, compare_variants
from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.finished_trials import FinishedTrial, finished_trials, flatten_settings
from orchestrator.reports.identical_variants import identity_notes
from orchestrator.reports.lock import Lock
from orchestrator.reports.notes import error_line, last_attempts
from orchestrator.reports.number_format import setting_text
from orchestrator.reports.tables import Report
from orchestrator.reports.variants import VariantColumn, comparable_means, group_variants
from orchestrator.reports.verdicts import Outcome
from orchestrator.reports.yardstick import set_apart
from orchestrator.results.schema import FINISHED
from orchestrator.results.store import ResultStore

MANY_TRIALS = 100
"""Trials above which a page shows curves and maps of the best and the worst trial only."""
QUALITY = "image_auroc"
"""The metric that ranks variants and trials, as mean over the classes."""
IDENTICAL = Outcome.IDENTICAL.value
T = TypeVar("T")


@dataclass(frozen=True)
class UnfinishedTrial:
    """A planned trial without metrics, as its last attempt left it.

    Attributes:
        status: the status of that attempt, or `not run`.
        factors: {knob: value} of the varied knobs.
        settings: {dotted path: value} of its configuration, without the seed.
        error: the error in one line; may be empty, as may the traceback.

    """

    trial_id: str
    status: str
    seed: int | None = None
    factors: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    error: str = ""
    traceback: str = ""


@dataclass(frozen=True)
class PageData:
    """A report over stored trials, and the data that it was made from.

    Variants are known by their numbers: their positions in `variants`, which has the order of the
    tables' columns. `unfinished` are the planned trials that are not compared.
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
        return {name: k for k, name in enumerate(self.report.names)}

    @cached_property
    def caveats(self) -> tuple[tuple[str, ...], ...]:
        """For each variant the texts of its confounds (†) and of identical variants."""
        by_variant: list[list[str]] = [[] for _ in self.variants]
        for confound in self.comparison.confounds:
            for k in confound.affected:
                by_variant[k].append(f"† {confound.name}: {confound.values[k]}")
        # Each note names its variants in backquotes, then a colon and what is identical.
        for line in identity_notes(self.variants):
            named = line.partition(f"`: {IDENTICAL}")[0] + "`"
            for k, variant in enumerate(self.variants):
                if f"`{variant.label}`" in named:
                    by_variant[k].append(IDENTICAL + line.partition(f"`: {IDENTICAL}")[2].removesuffix("."))
        return tuple(map(tuple, by_variant))

    @property
    def variant_names(self) -> tuple[str, ...]:
        """The variants' names in the tables, with ∅ for those identical to another one."""
        without = [any(caveat.startswith(IDENTICAL) for caveat in caveats) for caveats in self.caveats]
        return tuple(f"{name} ∅" if without[k] else name for name, k in self.variant_numbers.items())

    @property
    def hollow_points_note(self) -> str:
        """A sentence that explains hollow points; empty if no variant has a caveat."""
        return " Hollow points: confounded, or identical to another variant (see the tables)." * any(self.caveats)

    @property
    def split_note(self) -> str:
        """A sentence that names the images of a page that is not about test images, or nothing."""
        split = self.lock.recipe.split
        return "" if split == "test" else f" All figures are of {split} images, not of test images."

    @cached_property
    def ranking(self) -> tuple[int, ...]:
        """The variants' numbers by mean image AUROC, the best first; those without it last."""
        means = [variant.values(MEAN, QUALITY) for variant in self.variants]
        quality = [sum(values) / len(values) if values else -1.0 for values in means]  # An AUROC is above -1.
        return tuple(sorted(range(len(quality)), key=lambda k: (-quality[k], k)))

    def baselines_and_extremes(self, limit: int) -> tuple[int, ...]:
        """Choose at most `limit` variants: baselines, then the best and the worst in turn."""
        if len(self.variants) <= limit:
            return tuple(range(len(self.variants)))
        baselines = list(dict.fromkeys(k for k in self.comparison.baselines if k is not None))
        turns = (k for pair in zip(self.ranking, reversed(self.ranking), strict=True) for k in pair)
        return tuple(sorted(list(dict.fromkeys([*baselines[: limit // 2], *turns]))[:limit]))

    def spread_over_ranking(self, limit: int) -> tuple[int, ...]:
        """Choose at most `limit` variants evenly over the ranking, in the order of the tables."""
        return tuple(sorted(evenly_spread(self.ranking, limit)))


def evenly_spread(ranked: Sequence[T], limit: int) -> Sequence[T]:
    """Choose at most `limit` items evenly, the first and the last included."""
    last = len(ranked) - 1
    return ranked if last < limit else [ranked[round(k * last / (limit - 1))] for k in range(limit)]


def gather_page_data(
    report: Report,
    store: ResultStore,
    version_settings: Mapping[str, Mapping[str, object]],
) -> PageData:
    """Gather the data of a report's page, by the recipe of the report's lock.

    Raises:
        InvalidInput: there is no store in the folder.

    """
    assert report.lock is not None, "a report over a store has a lock"
    recipe = report.lock.recipe
    selection = None if recipe.selection is None else set(recipe.selection)
    stored, banks = set_apart(finished_trials(store, selection, recipe.split))
    trials = comparable_means(stored)
    variants = group_variants(trials)
    comparison = compare_variants(variants, recipe.baseline, version_settings, recipe.others, recipe.names)
    last = last_attempts(store, ["traceback", "factors", "seed", "config"])
    planned = last.keys() if selection is None else selection
    left = sorted(planned - {trial.trial_id for trial in (*trials, *banks)})
    unfinished = tuple(_unfinished_trial(trial_id, last.get(trial_id), recipe.split) for trial_id in left)
    return PageData(report, report.lock, comparison, store, unfinished)


def _unfinished_trial(trial_id: str, attempt: Mapping[str, Any] | None, split: str) -> UnfinishedTrial:
    if attempt is None:
        return UnfinishedTrial(trial_id, "not run")
    status = f"finished without {split} rows" if attempt["status"] == FINISHED else attempt["status"]
    settings = flatten_settings(json.loads(attempt["config"]))
    settings.pop("seed", None)
    error = error_line(attempt["error_kind"], attempt["error"])
    factors, traceback = json.loads(attempt["factors"]), attempt["traceback"] or ""
    return UnfinishedTrial(trial_id, status, attempt["seed"], factors, settings, error, traceback)


def factors_text(factors: Mapping[str, object]) -> str:
    """Return factors as one line, such as `focal_gamma=2, rank=4`."""
    return ", ".join(f"{key}={setting_text(value)}" for key, value in factors.items())
