"""The verdict on a measured difference: one decision table, of which the first line that fits wins.

docs/statistics.md has the same table in the same order. The tables of a report, its CSV, LaTeX and
HTML, the ledger of claims and the published steps all take their verdicts from `decide`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache

import numpy as np
import numpy.typing as npt

from moleflow.errors import counted
from orchestrator.reports.statistics import ALPHA

LEAST_SEEDS = 3
"""Seeds in common below which nothing is better or worse."""
POWER = 0.8
"""The power for which further seeds are counted."""
MOST_MORE_SEEDS = 100
"""Further seeds above which their number is not given."""
ERRORS = 2.0
"""Monte Carlo standard errors by which a bound has to clear a threshold."""

Reals = npt.NDArray[np.float64]


class Outcome(Enum):
    """The verdicts, with the words of a comparison in which higher is better."""

    IDENTICAL = "identical"
    SATURATED = "saturated"
    ABOVE = "better"
    BELOW = "worse"
    WITHIN = "smaller than seed noise"
    UNDECIDED = "undecided"


NO_DIFFERENCE = "nothing to compare"
NO_INTERVAL = "no interval"
FEW_SEEDS = "fewer than three seeds"
NO_SPREAD = "no spread between the seeds"
MONTE_CARLO = "a bound is nearer to its threshold than its Monte Carlo error"
DISAGREE = "the intervals disagree"
OPEN = "the interval is too wide"


@dataclass(frozen=True)
class Bounds:
    """An interval of a difference, and the Monte Carlo standard error of each bound."""

    low: float
    high: float
    low_error: float = 0.0
    high_error: float = 0.0


@dataclass(frozen=True)
class Evidence:
    """All that a verdict depends on.

    Attributes:
        differences: b - a, one for each seed in common.
        intervals: the intervals of their mean; every one has to say the same.
        zone: half the width of the zone around zero in which a difference is of no interest.
        margin: the distance from zero beyond which an interval has to lie: 0, or the zone.
        family: comparisons whose intervals hold at the same time.
        identical: true if both have equal scores, bit by bit.
        saturated: true if both are at the metric's limit in every class and seed.
        least_seeds: seeds in common below which nothing is decided.
    """

    differences: tuple[float, ...]
    intervals: tuple[Bounds, ...]
    zone: float
    margin: float = 0.0
    family: int = 1
    identical: bool = False
    saturated: bool = False
    least_seeds: int = LEAST_SEEDS


def decide(evidence: Evidence) -> tuple[Outcome, str]:
    """Return the verdict, and the reason if it is undecided.

    Raises:
        ValueError: a difference or a bound is NaN or infinite.
    """
    check_finite(evidence)
    if evidence.identical:
        return Outcome.IDENTICAL, ""
    if evidence.saturated:
        return Outcome.SATURATED, ""
    if not evidence.differences:
        return Outcome.UNDECIDED, NO_DIFFERENCE
    if len(evidence.differences) < evidence.least_seeds:
        return Outcome.UNDECIDED, FEW_SEEDS
    if not evidence.intervals:
        return Outcome.UNDECIDED, NO_INTERVAL
    # Equal differences give a t interval of width 0, which no number of seeds justifies. That they
    # share a sign is all that they say: p = 2 / 2^n by the exact sign test.
    if has_no_spread(evidence.differences) and _sign_p(evidence) > ALPHA:
        return Outcome.UNDECIDED, NO_SPREAD
    plain = {place(bounds, evidence) for bounds in evidence.intervals}
    if len(plain) > 1:
        return Outcome.UNDECIDED, DISAGREE
    if {place(bounds, evidence, ERRORS) for bounds in evidence.intervals} != plain:
        return Outcome.UNDECIDED, MONTE_CARLO
    (outcome,) = plain
    return outcome, OPEN if outcome is Outcome.UNDECIDED else ""


def place(bounds: Bounds, evidence: Evidence, errors: float = 0.0) -> Outcome:
    """Say on which side of zero an interval lies, widened by so many Monte Carlo errors."""
    low, high = bounds.low - errors * bounds.low_error, bounds.high + errors * bounds.high_error
    if low > evidence.margin:
        return Outcome.ABOVE
    if high < -evidence.margin:
        return Outcome.BELOW
    return Outcome.WITHIN if -evidence.zone <= low and high <= evidence.zone else Outcome.UNDECIDED


def check_finite(evidence: Evidence) -> None:
    """Raise ValueError if a number of the evidence is NaN or infinite."""
    numbers = [*evidence.differences, evidence.zone, evidence.margin]
    numbers += [of for bounds in evidence.intervals for of in vars(bounds).values()]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(
            f"no verdict on numbers that are not finite: differences {list(evidence.differences)}, intervals "
            f"{list(evidence.intervals)}, zone {evidence.zone}; a NaN belongs to a failed attempt, not into a table"
        )


def has_no_spread(differences: Sequence[float]) -> bool:
    """Say whether there are two differences or more, all equal and not zero."""
    return len(differences) > 1 and len(set(differences)) == 1 and differences[0] != 0


def _sign_p(evidence: Evidence) -> float:
    return evidence.family * 2.0 ** (1 - len(evidence.differences))


def more_seeds(evidence: Evidence) -> int | None:
    """Return how many more seeds would decide with a power of `POWER`, from the spread seen.

    The t interval of so many seeds has to lie beyond the margin, or to fit into the zone, whichever
    needs fewer. Mean and standard deviation of the differences are taken for the true ones.

    Returns:
        The number; `MOST_MORE_SEEDS` + 1 stands for any larger one. None for fewer than two seeds,
        which show no spread.
    """
    n = len(evidence.differences)
    if n < 2:
        return None
    first = max(n + 1, evidence.least_seeds)
    counts = np.arange(first, n + MOST_MORE_SEEDS + 1)
    mean = math.fsum(evidence.differences) / n
    spread = float(np.std(evidence.differences, ddof=1))
    if has_no_spread(evidence.differences):
        enough = evidence.family * 2.0 ** (1.0 - counts) <= ALPHA
        enough &= abs(mean) > evidence.margin or abs(mean) <= evidence.zone
    elif spread == 0.0:  # Every difference is 0.
        enough = counts >= evidence.least_seeds
    else:
        enough = power_of_t(counts, mean, spread, evidence) >= POWER
    return int(counts[enough][0]) - n if enough.any() else MOST_MORE_SEEDS + 1


def power_of_t(counts: npt.NDArray[np.int64], mean: float, spread: float, evidence: Evidence) -> Reals:
    """Return the larger of two powers of the t interval over n seeds, for each n of `counts`.

    One is the probability that it lies beyond the margin on either side, the other that it fits
    into the zone. Given the estimated standard deviation s, the interval's centre is normal with
    standard deviation `spread` / sqrt(n), and its half width is t s / sqrt(n). So both are averages
    over the distribution of s, which is that of a chi square: no approximation of the non-central
    t is needed.
    """
    from scipy.special import ndtr

    ratios = np.stack([_spread_ratios(int(n)) for n in counts])
    quantiles = np.array([_t_quantile(int(n), evidence.family) for n in counts])
    error = spread / np.sqrt(counts)[:, None]
    half = quantiles[:, None] * ratios * error
    above = ndtr((mean - evidence.margin - half) / error)
    below = ndtr((-mean - evidence.margin - half) / error)
    within = ndtr((evidence.zone - half - mean) / error) - ndtr((half - evidence.zone - mean) / error)
    larger: Reals = np.maximum((above + below).mean(axis=1), np.maximum(within, 0.0).mean(axis=1))
    return larger


_POINTS = 200


@cache
def _spread_ratios(n: int) -> Reals:
    """Return s / sigma of n normal differences at `_POINTS` equally likely quantiles."""
    from scipy.stats import chi2

    ratios: Reals = np.sqrt(chi2.ppf((np.arange(_POINTS) + 0.5) / _POINTS, n - 1) / (n - 1))
    return ratios


@cache
def _t_quantile(n: int, family: int) -> float:
    from scipy.stats import t

    return float(t.isf(ALPHA / (2 * family), n - 1))


def more_seeds_text(evidence: Evidence) -> str:
    """Return how many more seeds would decide, as words."""
    n, more = len(evidence.differences), more_seeds(evidence)
    if more is None:
        least = evidence.least_seeds - n
        return f"at least {counted(least, 'more seed')} {'is' if least == 1 else 'are'} needed"
    if more > MOST_MORE_SEEDS:
        return f"over {MOST_MORE_SEEDS} more seeds would tell"
    return f"{counted(more, 'more seed')} would tell"
