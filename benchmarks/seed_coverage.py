"""The share of intervals over n seeds that contain the true mean difference: percentile bootstrap
and t, at 95 % by name.

    python benchmarks/seed_coverage.py

Differences are drawn from a normal distribution, so seed noise is all there is. Beside the counts
stands what the cause gives: `percentile_coverage` of orchestrator/reports/statistics.py.
docs/statistics.md quotes this output.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.stats import bootstrap

from orchestrator.reports.bootstrap import LEVEL
from orchestrator.reports.statistics import percentile_coverage, t_interval

SEEDS = (3, 5, 10, 20)
REPEATS = 4000
RESAMPLES = 1000
"""Fewer than a report draws: over 4,000 repeats, their Monte Carlo errors average out."""
_AT_ONCE = 400


def covered(n: int, repeats: int, rng: np.random.Generator) -> tuple[float, float]:
    """Shares of `repeats` in which the percentile and the t interval of n standard normal
    differences hold 0.
    """
    drawn = rng.normal(size=(repeats, n))
    options = {"n_resamples": RESAMPLES, "confidence_level": LEVEL, "method": "percentile", "rng": rng}
    held = 0
    for rows in np.split(drawn, range(_AT_ONCE, repeats, _AT_ONCE)):
        bounds = bootstrap((rows,), np.mean, axis=-1, vectorized=True, **options).confidence_interval
        held += int(((bounds.low <= 0) & (bounds.high >= 0)).sum())
    by_t = [t_interval(row.tolist()) for row in drawn]
    return held / repeats, sum(of is not None and of[0] <= 0 <= of[1] for of in by_t) / repeats


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(f"{REPEATS:,} repeats, {RESAMPLES:,} resamples, {LEVEL:.0%} by name")
    print("seeds  percentile  its cause  t interval")
    for n in SEEDS:
        percentile, by_t = covered(n, REPEATS, np.random.default_rng(n))
        print(f"{n:5d}  {percentile:10.3f}  {percentile_coverage(n):9.3f}  {by_t:10.3f}")
