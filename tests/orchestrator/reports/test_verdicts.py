"""The decision table line by line, its Monte Carlo rule, and the number of further seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import nct
from scipy.stats import t as student

from orchestrator.reports.statistics import t_interval
from orchestrator.reports.verdicts import (
    DISAGREE,
    FEW_SEEDS,
    MONTE_CARLO,
    MOST_MORE_SEEDS,
    NO_DIFFERENCE,
    NO_INTERVAL,
    NO_SPREAD,
    OPEN,
    POWER,
    Bounds,
    Evidence,
    Outcome,
    decide,
    more_seeds,
    more_seeds_text,
    power_of_t,
)

THREE = (0.1, 0.2, 0.3)


def evidence(*bounds, differences=THREE, **more):
    return Evidence(differences, tuple(Bounds(*of) for of in bounds), **({"zone": 0.02} | more))


@pytest.mark.parametrize(
    ("given", "outcome", "reason"),
    [
        # Each line of the table, and every line that it comes before.
        (evidence((0.1, 0.2), identical=True, saturated=True, differences=()), Outcome.IDENTICAL, ""),
        (evidence((0.1, 0.2), saturated=True, differences=(0.0,)), Outcome.SATURATED, ""),
        (evidence((0.1, 0.2), differences=()), Outcome.UNDECIDED, NO_DIFFERENCE),
        (evidence((0.1, 0.2), differences=(0.1, 0.2)), Outcome.UNDECIDED, FEW_SEEDS),
        (evidence(), Outcome.UNDECIDED, NO_INTERVAL),
        (evidence((0.1, 0.1), differences=(0.1,) * 5), Outcome.UNDECIDED, NO_SPREAD),
        (evidence((0.1, 0.1), differences=(0.1,) * 6), Outcome.ABOVE, ""),
        (evidence((0.1, 0.1), differences=(0.1,) * 6, family=2), Outcome.UNDECIDED, NO_SPREAD),
        (evidence((0.001, 0.002)), Outcome.ABOVE, ""),
        (evidence((-0.002, -0.001)), Outcome.BELOW, ""),
        (evidence((-0.002, 0.02)), Outcome.WITHIN, ""),
        (evidence((0.0, 0.0), differences=(0.0,) * 3), Outcome.WITHIN, ""),
        (evidence((-0.002, 0.021)), Outcome.UNDECIDED, OPEN),
        # With a margin, an interval has to lie beyond it.
        (evidence((0.001, 0.03), margin=0.02), Outcome.UNDECIDED, OPEN),
        (evidence((0.021, 0.03), margin=0.02), Outcome.ABOVE, ""),
        (evidence((-0.03, -0.021), margin=0.02), Outcome.BELOW, ""),
        (evidence((0.001, 0.02), margin=0.02), Outcome.WITHIN, ""),
        # Several intervals have to agree.
        (evidence((0.1, 0.2), (-0.1, 0.5)), Outcome.UNDECIDED, DISAGREE),
        (evidence((0.1, 0.2), (0.01, 0.5)), Outcome.ABOVE, ""),
        # A bound has to clear its threshold by two Monte Carlo errors.
        (evidence((0.001, 0.2, 0.0006, 0.0)), Outcome.UNDECIDED, MONTE_CARLO),
        (evidence((0.001, 0.2, 0.0004, 1.0)), Outcome.ABOVE, ""),
        (evidence((-0.2, -0.001, 0.0, 0.0006)), Outcome.UNDECIDED, MONTE_CARLO),
        (evidence((-0.019, 0.01, 0.0006, 0.0)), Outcome.UNDECIDED, MONTE_CARLO),
        (evidence((0.001, 0.015, 0.0006, 0.0)), Outcome.UNDECIDED, MONTE_CARLO),  # Between two verdicts.
    ],
)
def test_the_first_line_that_fits_decides(given, outcome, reason):
    assert decide(given) == (outcome, reason)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_an_error(number):
    for given in (
        evidence((0.1, number)),
        evidence((0.1, 0.2), differences=(0.1, 0.2, number)),
        evidence((0.1, 0.2), zone=number),
        evidence((0.1, 0.2, number, 0.0), identical=True),
    ):
        with pytest.raises(ValueError, match="not finite"):
            decide(given)


@pytest.mark.parametrize(("n", "d", "family"), [(5, 1.0, 1), (20, 0.8, 1), (12, 0.5, 7), (30, -0.6, 1)])
def test_the_power_to_exclude_zero_is_that_of_the_noncentral_t(n, d, family):
    critical = student.isf(0.025 / family, n - 1)
    want = nct.sf(critical, n - 1, d * n**0.5) + nct.cdf(-critical, n - 1, d * n**0.5)
    got = power_of_t(np.array([n]), d, 1.0, evidence(zone=0.0, family=family))[0]
    assert got == pytest.approx(want, abs=2e-3)


def test_the_power_to_fit_into_the_zone_is_that_of_drawn_experiments():
    rng, n, zone = np.random.default_rng(0), 8, 1.0
    drawn = rng.normal(0.2, 1.0, size=(4000, n))
    intervals = [t_interval(row.tolist()) for row in drawn]
    share = np.mean([-zone <= low and high <= zone for low, high in intervals])
    # A margin beyond reach leaves the zone alone.
    got = power_of_t(np.array([n]), 0.2, 1.0, evidence(zone=zone, margin=100.0))[0]
    assert got == pytest.approx(share, abs=0.03)


def test_further_seeds_are_the_fewest_with_enough_power_of_either_kind():
    spread = (0.01, 0.03, -0.01, 0.02)
    mean, sd = np.mean(spread), np.std(spread, ddof=1)
    more = more_seeds(evidence(differences=spread, zone=0.0))
    powers = power_of_t(np.arange(4, 80), mean, sd, evidence(zone=0.0))
    assert 4 + more == int(np.argmax(powers >= POWER)) + 4
    assert powers[more - 1] < POWER <= powers[more]
    # A wide zone of no interest is reached with fewer seeds than the exclusion of zero.
    assert more_seeds(evidence(differences=spread, zone=0.08)) < more


@pytest.mark.parametrize(
    ("differences", "more", "words"),
    [
        ((0.1,), None, "at least 2 more seeds are needed"),
        ((0.1, 0.1), 4, "4 more seeds would tell"),
        ((0.0, 0.0), 1, "1 more seed would tell"),
        ((0.1, 0.1001), 1, "1 more seed would tell"),
        ((0.1, -0.1001, 0.1, -0.1), MOST_MORE_SEEDS + 1, "over 100 more seeds would tell"),
    ],
)
def test_further_seeds_in_words(differences, more, words):
    given = evidence(differences=differences, zone=0.001)
    assert more_seeds(given) == more
    assert more_seeds_text(given) == words
