"""A mean over seeds with its 95 % t interval: the points and bands of the charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.reports.number_format import summarise
from orchestrator.reports.statistics import t_interval

INTERVALS = "Bars and bands: 95 % t intervals over seeds, about the mean; fewer than three seeds have none."


@dataclass(frozen=True)
class MeanInterval:
    """The mean of n values, one for each seed, and the bounds of its interval.

    The mean is None for no value, the bounds are None for fewer than three.
    """

    mean: float | None
    low: float | None
    high: float | None
    n: int


def mean_interval(values: Sequence[float]) -> MeanInterval:
    """Return the mean and its interval of one value for each seed."""
    summary = summarise(values)
    low, high = t_interval(values) or (None, None)
    return MeanInterval(summary.mean, low, high, summary.n)
