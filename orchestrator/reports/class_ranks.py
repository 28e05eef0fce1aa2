"""Variants compared over many classes: mean ranks with a critical difference, interquartile means.

Within each class, variants are ranked by their mean over the seeds in common; the best has rank 1.
Friedman's test asks whether the mean ranks differ at all, Nemenyi's which of them do.

Sources: J. Demšar, Statistical comparisons of classifiers over multiple data sets, JMLR 7 (2006)
1-30; R. Agarwal et al., Deep reinforcement learning at the edge of the statistical precipice,
NeurIPS 2021 (rliable).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.reports.bootstrap import LEVEL, RESAMPLES
from orchestrator.reports.differences import Comparison
from orchestrator.reports.final_metrics import MAIN
from orchestrator.reports.number_format import interval_text, metric_text
from orchestrator.reports.render import ABSENT, Cell, Table
from orchestrator.reports.statistics import ALPHA
from orchestrator.reports.variants import VariantColumn

LEAST_CLASSES = 11
"""Demšar's rule of thumb for Friedman's test is more than ten data sets (section 3.2.2)."""
PERMUTATIONS = 9999
"""Drawn permutations of the ranks within each class. Friedman's chi square is an approximation for
more than five variants, and there are often fewer."""
_SEED = 0
_AT_ONCE = 2000

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ClassRanks:
    """The variants of a comparison ranked within each class.

    Attributes:
        classes: number of classes.
        seeds: the seeds that all variants have.
        ranks: mean rank of each variant, 1 = always the best.
        statistic: Friedman's chi square.
        p: its p, from drawn permutations of the ranks within each class.
        critical: Nemenyi's critical difference of two mean ranks.
        groups: the variants of each largest group without any difference, in order of their ranks;
            groups of one are left out.
    """

    classes: int
    seeds: tuple[int, ...]
    ranks: tuple[float, ...]
    statistic: float
    p: float
    critical: float
    groups: tuple[tuple[int, ...], ...]


def rank_over_classes(
    variants: Sequence[VariantColumn], classes: Sequence[str], metric: str
) -> tuple[ClassRanks, Reals] | None:
    """Return the ranks, and the values (variants, classes, seeds) that they come from.

    None for fewer than two variants or `LEAST_CLASSES` classes, for no seed in common, and if a
    variant lacks the metric in a class.
    """
    values = _values(variants, classes, metric)
    if values is None or len(variants) < 2 or len(classes) < LEAST_CLASSES:
        return None
    seeds = tuple(sorted(set.intersection(*(set(variant.seeds) for variant in variants))))
    return _rank(values, seeds), values


def _values(variants: Sequence[VariantColumn], classes: Sequence[str], metric: str) -> Reals | None:
    if not variants:
        return None
    seeds = sorted(set.intersection(*(set(variant.seeds) for variant in variants)))
    found = [
        [
            [
                trial.values[name, metric] if name in trial.classes else None
                for trial in variant.trials
                if trial.seed in seeds
            ]
            for name in classes
        ]
        for variant in variants
    ]
    known = seeds and all(value is not None for of in found for row in of for value in row)
    return np.array(found, dtype=np.float64) if known else None


def _rank(values: Reals, seeds: tuple[int, ...]) -> ClassRanks:
    from scipy.stats import rankdata, studentized_range

    # Rounded as differences are: sums in another order must not break ties.
    means = np.round(values.mean(axis=2), 12)
    k, n = means.shape
    ranks: Reals = rankdata(-means, axis=0)
    mean_ranks = ranks.mean(axis=1)
    generator = np.random.default_rng(_SEED)
    drawn = generator.permuted(np.broadcast_to(ranks, (PERMUTATIONS, k, n)).copy(), axis=1)
    # Sums of squared mean ranks order permutations as Friedman's statistic does.
    spread = ((drawn.mean(axis=2) - (k + 1) / 2) ** 2).sum(axis=1)
    seen = float(((mean_ranks - (k + 1) / 2) ** 2).sum())
    p = (1 + int((spread >= seen - 1e-12).sum())) / (1 + PERMUTATIONS)
    critical = float(studentized_range.isf(ALPHA, k, np.inf)) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))
    groups = _groups(mean_ranks, _nemenyi(means), p)
    return ClassRanks(n, seeds, tuple(mean_ranks.tolist()), _friedman(ranks), p, critical, groups)


def _friedman(ranks: Reals) -> float:
    """Return Friedman's chi square with its correction for ties: (variants, classes) to a number.

    scipy's function refuses two variants, for which this is the sign test's statistic squared.
    """
    k, n = ranks.shape
    squares = float((ranks**2).sum()) - n * k * (k + 1) ** 2 / 4
    if squares == 0:  # Every class is a tie of all.
        return 0.0
    return float((k - 1) * ((ranks.sum(axis=1) - n * (k + 1) / 2) ** 2).sum() / squares)


def _nemenyi(means: Reals) -> Reals:
    """Return Nemenyi's p of each pair of variants: (variants, classes) to (variants, variants)."""
    from scikit_posthocs import posthoc_nemenyi_friedman

    found: Any = posthoc_nemenyi_friedman(-means.T)
    p: Reals = np.asarray(found, dtype=np.float64)
    return p


def _groups(ranks: Reals, p: Reals, friedman: float) -> tuple[tuple[int, ...], ...]:
    """Return the largest runs of neighbouring mean ranks in which no pair differs.

    Where Friedman's test finds no difference, all variants are one group.
    """
    order = np.argsort(ranks, kind="stable").tolist()
    if friedman > ALPHA:
        return (tuple(order),)
    found: list[tuple[int, ...]] = []
    last = 0
    for start in range(len(order)):
        end = start + 1
        while end < len(order) and p[order[start], order[end]] >= ALPHA:
            end += 1
        if end - start > 1 and end > last:
            found.append(tuple(order[start:end]))
            last = end
    return tuple(found)


@dataclass(frozen=True)
class InterquartileMean:
    """The interquartile mean of all values of a variant, with a 95 % interval if there is one."""

    mean: float
    low: float | None
    high: float | None


def interquartile_mean(values: Reals, resamples: int = RESAMPLES) -> InterquartileMean:
    """Return the mean of the middle half of one variant's values (classes, seeds).

    The interval is that of rliable: a stratified percentile bootstrap that draws seeds with
    replacement within each class, each class by itself. One seed has no interval.
    """
    from scipy.stats import trim_mean

    count, seeds = values.shape
    mean = float(trim_mean(values, 0.25, axis=None))
    if seeds < 2:
        return InterquartileMean(mean, None, None)
    generator = np.random.default_rng(_SEED)
    drawn = []
    for start in range(0, resamples, _AT_ONCE):
        size = min(_AT_ONCE, resamples - start)
        index = generator.integers(seeds, size=(size, count, seeds))
        resampled = np.take_along_axis(values[None], index, axis=2)
        drawn.append(trim_mean(resampled.reshape(size, -1), 0.25, axis=1))
    low, high = np.quantile(np.concatenate(drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return InterquartileMean(mean, float(low), float(high))


@dataclass(frozen=True)
class ClassRankTable:
    """The ranks in one metric as a table, and as rows of the CSV: (column, name, value, n)."""

    table: Table
    records: tuple[tuple[int, str, float | None, int], ...]


def class_rank_tables(comparison: Comparison, classes: Sequence[str], names: Sequence[str]) -> list[ClassRankTable]:
    """Return the ranks of all variants in each metric of the first table but routing accuracy."""
    found = []
    for metric, title in MAIN.items():
        ranked = None if metric == "routing_accuracy" else rank_over_classes(comparison.variants, classes, metric)
        if ranked is not None:
            found.append(_table(*ranked, names, metric, title))
    return found


def _table(of: ClassRanks, values: Reals, names: Sequence[str], metric: str, title: str) -> ClassRankTable:
    means = [interquartile_mean(own) for own in values]
    letters = {k: [chr(ord("a") + g) for g, group in enumerate(of.groups) if k in group] for k in range(len(names))}
    order = np.argsort(of.ranks, kind="stable").tolist()
    rows = []
    for k in order:
        cells = (
            f"{of.ranks[k]:.2f}",
            ", ".join(letters[k]) or ABSENT,
            metric_text(means[k].mean),
            interval_text(means[k].low, means[k].high).replace("+", ""),
        )
        rows.append((names[k], tuple(map(Cell, cells))))
    header = ("Variant", "Mean rank", "Group", "Interquartile mean", "95 % interval")
    records = []
    for k, mean in enumerate(means):
        numbers = {"mean_rank": of.ranks[k], "iqm": mean.mean, "iqm_low": mean.low, "iqm_high": mean.high}
        records += [(k, f"{metric}_{name}", value, len(of.seeds)) for name, value in numbers.items()]
    return ClassRankTable(Table(f"Over {of.classes} classes: {title}", header, tuple(rows), _notes(of)), tuple(records))


def _notes(of: ClassRanks) -> tuple[str, ...]:
    found = f"chi square {of.statistic:.2f}, p {of.p:.4f} from {PERMUTATIONS:,} drawn permutations of the ranks"
    notes = [
        f"Mean rank: variants are ranked within each class by their mean over seeds {', '.join(map(str, of.seeds))}; 1 is "
        "the best, equal values share a rank.",
        f"Friedman's test: {found}. Critical difference (Nemenyi, {ALPHA}): {of.critical:.3f}. Variants that share a letter "
        "do not differ by more than that." + " Friedman's test finds no difference, so all share one." * (of.p > ALPHA),
        f"This table is made from {LEAST_CLASSES} classes on (more than ten: Demšar, JMLR 7, 2006).",
    ]
    if len(of.seeds) > 1:
        notes.append(
            f"Interquartile mean: mean of the middle half of all values of a variant, over classes and seeds. Its interval "
            f"draws the seeds anew within each class, {RESAMPLES:,} times (stratified bootstrap, as rliable). The classes "
            "are fixed, so it says nothing of other classes."
        )
    else:
        notes.append("Interquartile mean: mean of the middle half of the values. One seed gives no interval.")
    return tuple(notes)
