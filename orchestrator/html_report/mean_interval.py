"""A mean over seeds with its 95 % interval: the points and bands of the charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.reports.number_format import summarise
from orchestrator.reports.statistics import t_interval

INTERVALS = "Bars and bands: 95 % intervals over seeds (t, on the logit scale), about the mean; fewer than three seeds have none."


MEAN_FIELDS = {"mean": "Mean", "low": "95 % low", "high": "95 % high", "n": "n (seeds)"}
"""The fields of a `MeanInterval` in a chart, with their columns in its table of numbers."""


class MeanInterval(NamedTuple):
    """The mean of n values, one for each seed, and the bounds of its interval.

    The mean is None for no value, the bounds are None for fewer than three.
    """

    mean: float | None
    low: float | None
    high: float | None
    n: int


def mean_interval(values: Sequence[float]) -> MeanInterval:
    """Return the mean and its t interval of one value for each seed, for values without limits."""
    low, high = t_interval(values) or (None, None)
    return MeanInterval(summarise(values).mean, low, high, len(values))


def share_interval(values: Sequence[float]) -> MeanInterval:
    """Return the mean and its interval of one value in [0, 1] for each seed, such as an AUROC.

    The t interval is taken on the logit scale and mapped back, so that it stays within [0, 1]. The
    standard error goes there by the delta method: with d logit(m) / dm = 1 / (m (1 - m)), half the
    width h of the plain interval becomes h / (m (1 - m)).
    """
    mean, low, high, n = mean_interval(values)
    if mean is None or low is None or high is None or low == high or not 0 < mean < 1:
        return MeanInterval(mean, low, high, n)
    half = (high - low) / 2 / (mean * (1 - mean))
    centre = math.log(mean / (1 - mean))
    low, high = (1 / (1 + math.exp(-of)) if of > -700 else 0.0 for of in (centre - half, centre + half))
    return MeanInterval(mean, low, high, n)
