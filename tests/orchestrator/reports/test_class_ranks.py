"""Ranks over many classes against scipy, brute force and rliable's definition."""

from __future__ import annotations

import csv
import io
import itertools
import math

import numpy as np
import pytest
from scipy.stats import binomtest, friedmanchisquare, rankdata

from orchestrator.reports import class_ranks
from orchestrator.reports.class_ranks import (
    LEAST_CLASSES,
    InterquartileMean,
    class_rank_tables,
    interquartile_mean,
    rank_over_classes,
)
from orchestrator.reports.differences import compare_variants
from orchestrator.reports.finished_trials import finished_trials
from orchestrator.reports.lock import Recipe
from orchestrator.reports.tables import build_report
from orchestrator.reports.variants import group_variants

GAMMA = "loss.focal_gamma"
CLASSES = tuple(f"class{k:02d}" for k in range(15))


@pytest.fixture
def many_classes(add, stored):
    """Adds a variant's values, (classes,) for each seed, and returns the variants in the end."""

    def add_variant(gamma, by_seed):
        for seed, values in enumerate(by_seed):
            names = CLASSES[: len(values)]
            same = {"classes": names, "routing": (1.0,) * len(names), "pixel": (0.9,) * len(names)}
            add({GAMMA: gamma}, seed, image=tuple(values), **same)
        return group_variants(finished_trials(stored(), None, "test"))

    return add_variant


def values(rng, k, n, step):
    return np.round(0.7 + step * np.arange(k)[:, None] + 0.02 * rng.normal(size=(k, n)), 6)


@pytest.mark.parametrize(("k", "step"), [(3, 0.0), (5, 0.01), (8, 0.02)])
def test_the_statistic_is_scipys_and_p_is_near_its_chi_square(many_classes, k, step):
    drawn = values(np.random.default_rng(k), k, 15, step)
    drawn[0, :3] = drawn[1, :3]  # Ties.
    for gamma, row in enumerate(drawn):
        variants = many_classes(float(gamma), [row])
    found, stacked = rank_over_classes(variants, CLASSES, "image_auroc")
    want = friedmanchisquare(*drawn)
    assert stacked[:, :, 0] == pytest.approx(drawn)
    assert found.statistic == pytest.approx(want.statistic)
    assert found.p == pytest.approx(want.pvalue, abs=0.03)
    assert found.ranks == pytest.approx(rankdata(-drawn, axis=0).mean(axis=1))
    # Table 5 of Demšar (2006): q of Nemenyi's test at 0.05.
    q = {3: 2.343, 5: 2.728, 8: 3.031}[k]
    assert found.critical == pytest.approx(q * math.sqrt(k * (k + 1) / (6 * 15)), abs=1e-3)


@pytest.mark.parametrize("wins", [8, 12, 14])
def test_with_two_variants_p_is_that_of_the_sign_test(many_classes, wins):
    many_classes(0.0, [[0.8] * 15])
    variants = many_classes(1.0, [[0.9 if c < wins else 0.7 for c in range(15)]])
    found, _ = rank_over_classes(variants, CLASSES, "image_auroc")
    assert found.p == pytest.approx(binomtest(wins, 15).pvalue, abs=0.02)
    assert found.groups == (() if wins > 11 else ((1, 0),))


def test_groups_are_the_largest_runs_that_do_not_differ(many_classes):
    drawn = values(np.random.default_rng(1), 6, 15, 0.012)
    for gamma, row in enumerate(drawn):
        variants = many_classes(float(gamma), [row])
    found, _ = rank_over_classes(variants, CLASSES, "image_auroc")
    ranks, critical = found.ranks, found.critical
    assert len(found.groups) > 1
    alike = [
        set(of)
        for size in range(2, 7)
        for of in itertools.combinations(range(6), size)
        if max(ranks[k] for k in of) - min(ranks[k] for k in of) <= critical
    ]
    largest = [of for of in alike if not any(of < other for other in alike)]
    assert sorted(map(sorted, found.groups)) == sorted(map(sorted, largest))


def test_equal_variants_are_one_group(many_classes):
    many_classes(0.0, [[0.8] * 15])
    variants = many_classes(1.0, [[0.8] * 15])
    found, _ = rank_over_classes(variants, CLASSES, "image_auroc")
    assert (found.statistic, found.p, found.ranks, found.groups) == (0.0, 1.0, (1.5, 1.5), ((0, 1),))


def test_few_classes_one_variant_and_a_missing_value_have_no_ranks(many_classes, add, stored):
    few = LEAST_CLASSES - 1
    variants = many_classes(0.0, [[0.8] * few])
    assert rank_over_classes(variants, CLASSES[:few], "image_auroc") is None
    variants = many_classes(1.0, [[0.8] * few])
    assert rank_over_classes(variants, CLASSES[:few], "image_auroc") is None
    assert "Over 1" not in build_report(stored(), Recipe("t", baseline={GAMMA: 0.0})).markdown()
    one = many_classes(2.0, [[0.8] * 15])[2:]
    assert rank_over_classes(one, CLASSES, "image_auroc") is None
    same = {"classes": CLASSES, "routing": (1.0,) * 15, "image": (0.8,) * 15}
    add({GAMMA: 3.0}, pixel=(0.9,) * 14 + (None,), **same)
    both = many_classes(3.0, [])[2:]
    assert [rank_over_classes(both, CLASSES, metric) is None for metric in ("image_auroc", "pixel_auroc")] == [
        False,
        True,
    ]


def test_the_interquartile_mean_is_rliables():
    drawn = np.random.default_rng(0).normal(0.8, 0.05, size=(15, 5))
    found = interquartile_mean(drawn)
    ordered = np.sort(drawn, axis=None)
    cut = int(0.25 * ordered.size)
    assert found.mean == pytest.approx(ordered[cut:-cut].mean())
    # rliable's StratifiedBootstrap: for each resample, seeds drawn within each class by itself.
    rng = np.random.default_rng(1)
    slowly = []
    for _ in range(4000):
        resample = np.sort(np.concatenate([row[rng.integers(5, size=5)] for row in drawn]))
        slowly.append(resample[cut:-cut].mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(slowly, [0.025, 0.975])), abs=1e-3)
    assert interquartile_mean(drawn[:, :1]) == InterquartileMean(
        pytest.approx(np.sort(drawn[:, 0])[3:-3].mean()), None, None
    )


def test_the_report_and_the_csv_have_the_ranks(many_classes, stored):
    rng = np.random.default_rng(2)
    for gamma in range(3):
        variants = many_classes(float(gamma), 0.7 + 0.1 * gamma + 0.01 * rng.normal(size=(3, 15)))
    report = build_report(stored(), Recipe("t", baseline={GAMMA: 0.0}))
    text = report.markdown().split("## Over 15 classes: Image AUROC")[1]
    rows = [line.split(" | ")[:3] for line in text.splitlines() if line.startswith("| focal")][:3]
    assert [row[1] for row in rows] == ["1.00", "2.00", "3.00"]
    assert "Critical difference (Nemenyi, 0.05): 0.856." in text
    records = {(r["variant"], r["metric"]): r["mean"] for r in csv.DictReader(io.StringIO(report.csv()))}
    assert float(records["focal_gamma=2", "image_auroc_mean_rank"]) == 1.0
    low, mean, high = (float(records["focal_gamma=2", f"image_auroc_iqm{of}"]) for of in ("_low", "", "_high"))
    assert low < mean < high
    comparison = compare_variants(variants, None)
    assert len(class_rank_tables(comparison, CLASSES, ["a", "b", "c"])) == 2


def test_the_threshold_is_that_of_the_literature():
    assert class_ranks.LEAST_CLASSES == 11  # N > 10
