"""The marginal means of a factor over a grid of other factors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from orchestrator.html_report.mean_interval import MeanInterval, share_interval
from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.variants import VariantColumn


@dataclass(frozen=True)
class MarginalMeans:
    """The marginal means of a factor, each over as many `settings` of the other factors.

    There are none if its values share no setting of the other factors.
    """

    means: tuple[tuple[object, MeanInterval], ...] = ()
    settings: int = 0


def marginal_means(
    variants: Sequence[VariantColumn],
    value: Callable[[VariantColumn], object],
    rest: Callable[[VariantColumn], object],
    metric: str,
) -> MarginalMeans:
    """Compute the marginal means of a factor.

    Only combinations of the other factors count that all values of the factor have. Other means
    would show the effect of the other factors. The mean is taken for each seed that all these
    variants have, so that the interval is one over seeds. `value` and `rest` return a variant's
    values of the factor and of the others.
    """
    by_value: dict[object, dict[object, VariantColumn]] = {}
    for variant in variants:
        by_value.setdefault(value(variant), {})[rest(variant)] = variant
    shared = set.intersection(*map(set, by_value.values())) if by_value else set()
    if len(by_value) < 2 or not shared:
        return MarginalMeans()
    by_seed = {x: [_by_seed(by_rest[other], metric) for other in shared] for x, by_rest in by_value.items()}
    seeds = sorted(set.intersection(*(set(one) for of_value in by_seed.values() for one in of_value)))
    if not seeds:
        return MarginalMeans()
    means = ((x, share_interval([fmean(one[seed] for one in ones) for seed in seeds])) for x, ones in by_seed.items())
    return MarginalMeans(tuple(means), len(shared))


def _by_seed(variant: VariantColumn, metric: str) -> dict[int, float]:
    return {trial.seed: value for trial in variant.trials if (value := trial.values.get((MEAN, metric))) is not None}
