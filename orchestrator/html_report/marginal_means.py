"""What a factor does over a grid of other factors: its marginal means, of the settings of those that all of its values have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from orchestrator.html_report.mean_interval import MeanInterval, mean_interval
from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.variants import VariantColumn


@dataclass(frozen=True)
class MarginalMean:
    """The means of a factor's values, each over the same `settings` combinations of the other factors; empty where there are none."""

    means: tuple[tuple[object, MeanInterval], ...] = ()
    settings: int = 0


def marginal_means(
    variants: Sequence[VariantColumn],
    value: Callable[[VariantColumn], object],
    rest: Callable[[VariantColumn], object],
    metric: str,
) -> MarginalMean:
    """The marginal means over the seeds that all variants in them have: one mean a seed, so that the interval is one over seeds.

    Means over whatever each value happens to have been run with would show what the other factors do.

    Args:
        variants: those of the comparison.
        value: the factor's value of a variant.
        rest: its values of the other factors.
        metric: whose mean over the classes is taken.

    """
    at: dict[object, dict[object, VariantColumn]] = {}
    for variant in variants:
        at.setdefault(value(variant), {})[rest(variant)] = variant
    shared = set.intersection(*(set(of) for of in at.values())) if at else set()
    if len(at) < 2 or not shared:
        return MarginalMean()
    worth = {x: [_by_seed(of[combination], metric) for combination in shared] for x, of in at.items()}
    seeds = sorted(set.intersection(*(set(one) for ones in worth.values() for one in ones)))
    if not seeds:
        return MarginalMean()
    means = ((x, mean_interval([fmean(one[seed] for one in ones) for seed in seeds])) for x, ones in worth.items())
    return MarginalMean(tuple(means), len(shared))


def _by_seed(variant: VariantColumn, metric: str) -> dict[int, float]:
    return {trial.seed: value for trial in variant.trials if (value := trial.values.get((MEAN, metric))) is not None}
