"""What a list of paired differences says, one for each seed: exact test with its floor, effect size, t interval.

scipy gives the signed-rank test and the t interval. It has no Holm correction (its `false_discovery_control` is
Benjamini-Hochberg's and Benjamini-Yekutieli's, which control something else), so `holm` is written here.
docs/statistics.md says what each means.
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
"""Differences up to which all sign patterns are gone through where sizes tie: 2^13 patterns take under a second."""
SIGN_PATTERNS = 9999
"""Sign patterns that are drawn where sizes tie among more differences than that."""
_SEED = 0


def exact(differences: Sequence[float]) -> bool:
    """Whether `signed_rank` is exact: no two differences beside 0 tie in size, or they are few enough to go through."""
    sizes = [abs(d) for d in differences if d != 0]
    return len(set(sizes)) == len(sizes) or len(sizes) <= ENUMERATED


def signed_rank(differences: Sequence[float]) -> float | None:
    """The two-sided p of the Wilcoxon signed-rank test, zeros left out, ties included; None for one seed.

    scipy's `exact` supposes that no two differences are equal in size. Where some are, all sign patterns are gone through,
    which is as exact; where these are too many, `SIGN_PATTERNS` of them are drawn from a fixed seed.
    """
    import numpy as np
    from scipy.stats import PermutationMethod, wilcoxon

    if len(differences) < 2:
        return None
    sizes = [abs(d) for d in differences if d != 0]
    if not sizes:
        return 1.0
    if len(set(sizes)) == len(sizes):
        method = "exact"
    elif exact(differences):
        method = PermutationMethod(n_resamples=math.inf)
    else:
        method = PermutationMethod(n_resamples=SIGN_PATTERNS, rng=np.random.default_rng(_SEED))
    return float(wilcoxon([d for d in differences if d != 0], method=method).pvalue)


def floor(differences: Sequence[float]) -> float | None:
    """The smallest p that the test can give: 2 / 2^n for n differences that are not zero; None for one seed.

    Where sign patterns are drawn it is 2 / (`SIGN_PATTERNS` + 1), if that is larger: no p is below what one pattern counts.
    """
    if len(differences) < 2:
        return None
    least = 2.0 / 2.0 ** sum(d != 0 for d in differences)
    return min(1.0, least if exact(differences) else max(least, 2.0 / (SIGN_PATTERNS + 1)))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the k-th smallest of m is multiplied by m - k + 1, and never falls below the last.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statistics 6 (1979) 65-70.
    """
    corrected, least = [0.0] * len(p), 0.0
    for rank, k in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
        least = max(least, min(1.0, (len(p) - rank) * p[k]))
        corrected[k] = least
    return corrected


def effect_size(differences: Sequence[float]) -> float | None:
    """Cohen's d_z: mean over standard deviation (ddof 1) of the paired differences; None where that is 0 or unknown."""
    if len(differences) < 2 or len(set(differences)) == 1:
        return None
    return fmean(differences) / stdev(differences)


def seed_noise(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two standard deviations of our own seeds (ddof 1), pooled over both variants; None for one seed."""
    if len(a) < 2:
        return None
    return 2 * math.sqrt((stdev(a) ** 2 + stdev(b) ** 2) / 2)


def t_interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % t interval of the mean paired difference over seeds; None for fewer than three."""
    from scipy.stats import ttest_1samp

    if len(differences) < 3:
        return None
    if len(set(differences)) == 1:  # no spread at all, which scipy warns of
        return differences[0], differences[0]
    bounds = ttest_1samp(differences, 0.0).confidence_interval(LEVEL)
    return float(bounds.low), float(bounds.high)


def percentile_coverage(n: int) -> float:
    """How often the 95 % percentile bootstrap over n seeds holds the true mean, where the seeds' noise is normal.

    Resampled means spread by s sqrt((n - 1) / n) / sqrt(n) with s the standard deviation (ddof 1), and the bounds stand at the
    normal quantile z of that spread: the interval is t's with z sqrt((n - 1) / n) in place of t's own, larger quantile.
    """
    from scipy.stats import norm, t

    reached = norm.ppf((1 + LEVEL) / 2) * math.sqrt((n - 1) / n)
    return float(2 * t.cdf(reached, n - 1) - 1)
