"""Test, floor, Holm, effect size and t interval against brute force and textbook."""

from __future__ import annotations

import itertools
import math
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, rankdata, ttest_rel

from orchestrator.reports.statistics import (
    ENUMERATED,
    SIGN_PATTERNS,
    effect_size,
    holm,
    is_exact,
    percentile_coverage,
    seed_noise,
    signed_rank,
    smallest_p,
    t_interval,
)


@pytest.mark.parametrize(
    ("differences", "p", "least"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5], 0.0625, 0.0625),
        ([-0.1, -0.2, -0.3, -0.4, -0.5], 0.0625, 0.0625),
        ([0.1, 0.2, 0.3], 0.25, 0.25),
        ([0.1, 0.0, 0.2], 0.5, 0.5),  # a difference of zero is left out, and raises the floor
        ([0.0, 0.0], 1.0, 1.0),
        ([0.3], None, None),
    ],
)
def test_the_test_and_its_floor(differences, p, least):
    assert signed_rank(differences) == p
    assert smallest_p(differences) == least


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=2, max_size=7))
def test_the_test_is_exact_with_ties_and_zeros(whole):
    differences = [0.01 * k for k in whole]
    nonzero = [k for k in whole if k]
    if not nonzero:
        assert signed_rank(differences) == 1
        return
    ranks = rankdata([abs(k) for k in nonzero])
    sums = [
        sum(r for r, up in zip(ranks, ups, strict=True) if up) for ups in itertools.product((0, 1), repeat=len(ranks))
    ]
    seen = sum(r for r, k in zip(ranks, nonzero, strict=True) if k > 0)
    tails = [sum(s >= seen for s in sums), sum(s <= seen for s in sums)]
    assert signed_rank(differences) == pytest.approx(min(1.0, 2 * min(tails) / len(sums)))
    assert signed_rank(differences) >= smallest_p(differences)


def by_counting(differences):
    """The exact two-sided p, by counting the sign patterns of each sum of doubled ranks."""
    sizes = [abs(d) for d in differences if d]
    doubled = [int(2 * rank) for rank in rankdata(sizes)]
    ways = np.zeros(sum(doubled) + 1)
    ways[0] = 1
    for rank in doubled:
        shifted = np.roll(ways, rank)
        shifted[:rank] = 0
        ways = ways + shifted
    seen = sum(rank for rank, d in zip(doubled, (d for d in differences if d), strict=True) if d > 0)
    return min(1.0, 2 * min(ways[: seen + 1].sum(), ways[seen:].sum()) / ways.sum())


@pytest.mark.parametrize(("n", "whole"), [(ENUMERATED, True), (ENUMERATED + 1, False)])
def test_many_ties_are_gone_through_up_to_a_number_and_drawn_beyond_it(n, whole):
    differences = [0.01 * (1 + k % 3) * (-1 if k % 4 == 0 else 1) for k in range(n)]
    assert is_exact(differences) == whole
    p = signed_rank([*differences, 0.0])
    assert p == pytest.approx(by_counting(differences), abs=1e-12 if whole else 0.02)
    one_sided = [abs(d) for d in differences]
    assert smallest_p(one_sided) == (2 / 2**n if whole else 2 / (SIGN_PATTERNS + 1))
    if not whole:
        assert p == signed_rank([0.0, *differences])  # The patterns are drawn from a fixed seed.
        assert signed_rank(one_sided) >= smallest_p(one_sided)


def test_without_ties_the_test_is_exact_however_many_seeds():
    differences = [0.01 * k for k in range(1, 41)]
    assert is_exact(differences)
    assert signed_rank(differences) == smallest_p(differences) == 2 / 2**40


@pytest.mark.parametrize("n", [5, 10])
def test_percentile_intervals_over_few_seeds_cover_as_much_less_as_their_cause_says(n):
    rng, repeats = np.random.default_rng(0), 1500
    drawn = rng.normal(size=(repeats, n))
    options = {"n_resamples": 500, "confidence_level": 0.95, "method": "percentile", "rng": rng}
    bounds = bootstrap((drawn,), np.mean, axis=-1, vectorized=True, **options).confidence_interval
    covered = ((bounds.low <= 0) & (bounds.high >= 0)).mean()
    by_t = fmean(low <= 0 <= high for low, high in map(t_interval, drawn.tolist()))
    spread = math.sqrt(0.16 / repeats)  # p (1 - p) is at most that from 0.8 on
    assert covered == pytest.approx(percentile_coverage(n), abs=4 * spread)
    assert by_t == pytest.approx(0.95, abs=4 * spread)
    assert percentile_coverage(n) < 0.91


def test_the_coverage_of_many_seeds_is_what_the_interval_says():
    assert percentile_coverage(1000) == pytest.approx(0.95, abs=1e-3)
    # With two seeds t has one degree of freedom: 2 atan(1.959964 / sqrt(2)) / pi.
    assert percentile_coverage(2) == pytest.approx(0.6021, abs=1e-4)


def test_holm_on_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_its_definition(p):
    ordered = sorted(p)
    for value, corrected in zip(p, holm(p), strict=True):
        last = len(p) - ordered[::-1].index(value)
        steps = [min(1.0, (len(p) - k) * ordered[k]) for k in range(last)]
        assert corrected == pytest.approx(max(steps))
        assert value <= corrected <= 1


def test_t_interval_effect_size_and_noise_are_the_textbook_ones():
    a, b = [0.80, 0.82, 0.85], [0.83, 0.83, 0.91]
    differences = [y - x for x, y in zip(a, b, strict=True)]
    test = ttest_rel(b, a)
    assert t_interval(differences) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert effect_size(differences) == pytest.approx(test.statistic / math.sqrt(3))  # d_z = t / sqrt(n)
    assert seed_noise(a, b) == pytest.approx(2 * math.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / 2))
    assert t_interval([1.0, 2.0, 3.0]) == pytest.approx((-0.4841377, 4.4841377))  # 2 -+ 4.302653 / sqrt(3)
    assert effect_size([1.0, 2.0, 3.0]) == pytest.approx(2.0)
    assert effect_size([-1.0, -2.0, -3.0]) == pytest.approx(-2.0)
    assert seed_noise([0.80, 0.82], [0.90, 0.96]) == pytest.approx(0.0632456)  # Variances 0.0002 and 0.0018.
    assert t_interval([0.1, 0.2]) is None
    assert t_interval([0.1, 0.1, 0.1]) == (0.1, 0.1)
    assert (effect_size([0.1]), effect_size([0.1, 0.1]), seed_noise([0.9], [0.8])) == (None, None, None)
