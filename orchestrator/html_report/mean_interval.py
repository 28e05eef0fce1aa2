"""A mean over seeds with its 95 % t interval: the points and bands of the charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.reports.number_format import summarise
from orchestrator.reports.statistics import t_interval

INTERVALS = "Bars and bands: 95 % t intervals over seeds, about the mean; fewer than three seeds have none."


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
    """Return the mean and its interval of one value for each seed."""
    low, high = t_interval(values) or (None, None)
    return MeanInterval(summarise(values).mean, low, high, len(values))
