"""Statistics of paired differences, one for each seed: exact test, effect size, t interval, Holm.

scipy gives the signed-rank test and the t interval. Its `false_discovery_control` corrects by
Benjamini-Hochberg or Benjamini-Yekutieli, which control the false discovery rate. Holm's method
controls the family-wise error rate and is written here. docs/statistics.md explains each number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from orchestrator.reports.bootstrap import LEVEL
from orchestrator.reports.number_format import stdev

EFFECT_NAME = "d_z"
"""Cohen's d_z: the mean of the paired differences over their standard deviation."""
ENUMERATED = 13
"""Most differences whose sign patterns are all enumerated if sizes tie: 2^13 patterns."""
SIGN_PATTERNS = 9999
"""Random sign patterns that are drawn if sizes tie among more differences than that."""
_SEED = 0
ALPHA = 0.05
"""Share of tables, at most, in which a simultaneous interval misses its difference."""


def is_exact(differences: Sequence[float]) -> bool:
    """Say whether `signed_rank` is exact: no sizes tie, or all sign patterns can be enumerated."""
    sizes = [abs(d) for d in differences if d != 0]
    return len(set(sizes)) == len(sizes) or len(sizes) <= ENUMERATED


def signed_rank(differences: Sequence[float]) -> float | None:
    """Return the two-sided p of the Wilcoxon signed-rank test without zeros; None for one seed."""
    import numpy as np
    from scipy.stats import PermutationMethod, wilcoxon

    if len(differences) < 2:
        return None
    sizes = [abs(d) for d in differences if d != 0]
    if not sizes:
        return 1.0
    # scipy's "exact" assumes that no two sizes are equal. Enumerating all sign patterns is as exact
    # with ties; beyond ENUMERATED differences, patterns are drawn from a fixed seed.
    if len(set(sizes)) == len(sizes):
        method = "exact"
    elif is_exact(differences):
        method = PermutationMethod(n_resamples=math.inf)
    else:
        method = PermutationMethod(n_resamples=SIGN_PATTERNS, rng=np.random.default_rng(_SEED))
    return float(wilcoxon([d for d in differences if d != 0], method=method).pvalue)


def smallest_p(differences: Sequence[float]) -> float | None:
    """Return the smallest p that the test can give, its floor; None for one seed.

    It is 2 / 2^n for n differences that are not zero. Where sign patterns are drawn, p is never
    below 2 / (`SIGN_PATTERNS` + 1), since the observed pattern counts as one of them.
    """
    if len(differences) < 2:
        return None
    least = 2.0 / 2.0 ** sum(d != 0 for d in differences)
    return min(1.0, least if is_exact(differences) else max(least, 2.0 / (SIGN_PATTERNS + 1)))


def holm(p: Sequence[float]) -> list[float]:
    """Return p corrected by Holm's step-down method, in the given order.

    The k-th smallest of m is multiplied by m - k + 1, and is at least as large as the one before.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statistics
    6 (1979) 65-70.
    """
    corrected, least = [0.0] * len(p), 0.0
    for rank, k in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
        least = max(least, min(1.0, (len(p) - rank) * p[k]))
        corrected[k] = least
    return corrected


def effect_size(differences: Sequence[float]) -> float | None:
    """Return Cohen's d_z, mean over standard deviation (ddof 1); None if that is 0 or unknown."""
    if len(differences) < 2 or len(set(differences)) == 1:
        return None
    return fmean(differences) / stdev(differences)


def seed_noise(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return two standard deviations (ddof 1) of the seeds, pooled over a and b; None for one."""
    if len(a) < 2:
        return None
    return 2 * math.sqrt((stdev(a) ** 2 + stdev(b) ** 2) / 2)


def t_interval(differences: Sequence[float], family: int = 1) -> tuple[float, float] | None:
    """Return the 95 % t interval of the mean difference over seeds; None for fewer than three.

    With a `family` of m comparisons, its level is 1 - 0.05 / m (Bonferroni). Then all m intervals
    hold at the same time in at least 95 % of tables, however the comparisons depend on each other.
    """
    from scipy.stats import ttest_1samp

    if len(differences) < 3:
        return None
    if len(set(differences)) == 1:  # scipy warns where there is no spread.
        return differences[0], differences[0]
    bounds = ttest_1samp(differences, 0.0).confidence_interval(LEVEL if family == 1 else 1 - ALPHA / family)
    return float(bounds.low), float(bounds.high)


def widening(family: int) -> float:
    """Return how much wider a normal interval is at level 1 - 0.05 / m than at 95 %, for m >= 1."""
    from scipy.stats import norm

    return float(norm.ppf(1 - ALPHA / (2 * family)) / norm.ppf(1 - ALPHA / 2))


def percentile_coverage(n: int) -> float:
    """Return how often the 95 % percentile bootstrap over n seeds covers the true mean.

    This supposes that seed noise is normal. With s the standard deviation (ddof 1), resampled means
    spread by s sqrt((n - 1) / n) / sqrt(n). The bounds lie at the normal quantile z of that spread.
    So the interval is the t interval with z sqrt((n - 1) / n) in place of t's larger quantile.
    """
    from scipy.stats import norm, t

    reached = norm.ppf((1 + LEVEL) / 2) * math.sqrt((n - 1) / n)
    return float(2 * t.cdf(reached, n - 1) - 1)
