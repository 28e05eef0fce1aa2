"""Two variants compared seed by seed: difference, intervals, test, effect size and verdict.

docs/statistics.md explains each number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from orchestrator.reports.bootstrap import RESAMPLES, Contrast, TrialScores, bootstrap_intervals
from orchestrator.reports.finished_trials import FinishedTrial
from orchestrator.reports.number_format import difference_text, interval_text
from orchestrator.reports.statistics import (
    effect_size,
    holm,
    is_exact,
    seed_noise,
    signed_rank,
    smallest_p,
    t_interval,
)
from orchestrator.reports.variants import VariantColumn
from orchestrator.reports.verdicts import (
    FEW_SEEDS,
    NO_DIFFERENCE,
    NO_SPREAD,
    Bounds,
    Evidence,
    Outcome,
    check_finite,
    decide,
    has_no_spread,
    more_seeds_text,
)

BOOTSTRAP_SEED = 0
_EXACT = 12
"""Decimals to which differences of AUROC are rounded; else equal ones would not tie in the test."""

IMAGES = "test images"
IMAGES_AND_SEEDS = "test images and seeds"
SEEDS = "seeds (t)"


@dataclass(frozen=True)
class PairedComparison:
    """Variant b against variant a over the seeds that both have.

    Attributes:
        seeds: the seeds in common.
        baseline: mean of a's metric over the seeds; None where nothing can be compared.
        difference: mean of b - a over the seeds.
        low, high: 95 % interval of the difference, or None.
        resampled: the source of the interval (`IMAGES`, `IMAGES_AND_SEEDS` or `SEEDS`), or the
            reason why there is none.
        p: two-sided Wilcoxon signed-rank test over the seeds. None for one seed, and for equal
            digests, where nothing is tested.
        exact: whether p is exact; else it is computed from drawn sign patterns.
        floor: the smallest p that so many seeds can give.
        p_holm: p corrected by Holm's method for the family of comparisons.
        effect: Cohen's d_z; None for one seed, and where all differences are equal.
        noise: two standard deviations over seeds, pooled over a and b; None for one seed.
        seed_low, seed_high: 95 % t interval over the seeds, from three seeds on.
        differences: b - a of each seed.
        family: comparisons whose simultaneous intervals hold together, at least 1.
        joint_low, joint_high: the simultaneous 95 % t interval, which carries the verdict.
        low_error, high_error: Monte Carlo standard errors of `low` and `high`; 0 if nothing is
            drawn.
        identical: true if the scores of all seeds are equal, bit by bit.
        saturated: true if every class and seed is at 1 in both.
        outcome: the verdict; None if there is no seed in common or no metric.
        reason: why it is undecided.
    """

    seeds: tuple[int, ...]
    baseline: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    resampled: str = ""
    p: float | None = None
    exact: bool = True
    floor: float | None = None
    p_holm: float | None = None
    effect: float | None = None
    noise: float | None = None
    seed_low: float | None = None
    seed_high: float | None = None
    differences: tuple[float, ...] = ()
    family: int = 1
    joint_low: float | None = None
    joint_high: float | None = None
    low_error: float = 0.0
    high_error: float = 0.0
    identical: bool = False
    saturated: bool = False
    outcome: Outcome | None = None
    reason: str = ""

    @property
    def n(self) -> int:
        """Number of seeds in common."""
        return len(self.seeds)

    @property
    def bounds(self) -> Bounds | None:
        """The interval in `low` and `high` with its Monte Carlo errors."""
        if self.low is None or self.high is None:
            return None
        return Bounds(self.low, self.high, self.low_error, self.high_error)

    def evidence(self) -> Evidence:
        """The evidence of a table's verdict: the simultaneous interval over seeds, and seed noise.

        The interval over test images carries no verdict, as it leaves seed noise out.
        """
        joint = () if self.joint_low is None or self.joint_high is None else (Bounds(self.joint_low, self.joint_high),)
        noise = 0.0 if self.noise is None else self.noise
        return Evidence(self.differences, joint, noise, 0.0, self.family, self.identical, self.saturated)

    def verdict(self) -> str:
        """The verdict in words; empty if nothing can be compared."""
        if self.outcome is None:
            return ""
        word = self.outcome.value
        if self.outcome is Outcome.IDENTICAL:
            return f"{word} (equal digests)"
        if self.outcome is Outcome.SATURATED:
            return f"{word} (1 in every class and seed of both)"
        if self.outcome is Outcome.WITHIN:
            return f"{word}: {difference_text(self.difference)} ({interval_text(self.joint_low, self.joint_high)})"
        if self.outcome is Outcome.UNDECIDED:
            why = f" ({self.reason})" if self.reason in (FEW_SEEDS, NO_SPREAD) else ""
            return f"{word}: {more_seeds_text(self.evidence())}{why}"
        return f"{word} ({NO_SPREAD})" if has_no_spread(self.differences) else word


_TrialPair = tuple[FinishedTrial, FinishedTrial]


def compare_paired(
    pairs: Sequence[tuple[VariantColumn, VariantColumn]],
    scores: Mapping[str, TrialScores],
    classes: Sequence[Sequence[str] | None] | None = None,
    metric: str = "image_auroc",
    resamples: int = RESAMPLES,
) -> list[PairedComparison]:
    """Compare the second variant of each pair with the first.

    All pairs together are the family of tests that Holm's method corrects for.

    Args:
        pairs: (baseline, other).
        scores: image scores by trial id. Only image AUROC is resampled from them.
        classes: for each pair the classes that the metric is averaged over; None = all.
        metric: name of the metric of one class.
        resamples: draws of the bootstrap.
    """
    selected = [None] * len(pairs) if classes is None else list(classes)
    trials = [_trial_pairs(a, b) for a, b in pairs]
    both = [_compare_over_seeds(of, scores, names, metric) for of, names in zip(trials, selected, strict=True)]
    results = [result for result, _ in both]
    contrasts = {k: contrast for k, (_, contrast) in enumerate(both) if contrast is not None}
    intervals = bootstrap_intervals(list(contrasts.values()), BOOTSTRAP_SEED, resamples)
    for k, of in zip(contrasts, intervals, strict=True):
        if of is None:
            results[k] = replace(results[k], resampled="one image of a kind: nothing to draw from")
        else:
            source = IMAGES_AND_SEEDS if of.over_seeds else IMAGES
            drawn = replace(results[k], low=of.low, high=of.high, resampled=source)
            results[k] = replace(drawn, low_error=of.low_error, high_error=of.high_error)
    # Scores that are equal bit by bit are no test, and must not make the correction stricter.
    results = [replace(r, p=None, floor=None) if r.identical else r for r in results]
    corrected = iter(holm([result.p for result in results if result.p is not None]))
    results = [result if result.p is None else replace(result, p_holm=next(corrected)) for result in results]
    return judge_family(results)


def judge_family(results: Sequence[PairedComparison]) -> list[PairedComparison]:
    """Return the comparisons with simultaneous intervals and verdicts.

    Every comparison with a difference is one of the family, unless it is identical or saturated.

    Raises:
        ValueError: a difference is NaN or infinite.
    """
    family = max(1, sum(bool(of.differences) and not of.identical and not of.saturated for of in results))
    judged = []
    for of in results:
        if of.difference is not None:
            low, high = t_interval(of.differences, family) or (None, None)
            of = replace(of, family=family, joint_low=low, joint_high=high)
        outcome, reason = decide(of.evidence())
        judged.append(of if reason == NO_DIFFERENCE else replace(of, outcome=outcome, reason=reason))
    return judged


def _trial_pairs(a: VariantColumn, b: VariantColumn) -> list[_TrialPair]:
    """Return the trials of a and b for each seed in common, ordered by seed."""
    of_a, of_b = ({trial.seed: trial for trial in v.trials} for v in (a, b))
    return [(of_a[seed], of_b[seed]) for seed in sorted(of_a.keys() & of_b.keys())]


def _compare_over_seeds(
    trials: Sequence[_TrialPair], scores: Mapping[str, TrialScores], classes: Sequence[str] | None, metric: str
) -> tuple[PairedComparison, Contrast | None]:
    """Return all results but those of the bootstrap, and its input if it can be run."""
    seeds = tuple(x.seed for x, _ in trials)
    if not seeds:
        return PairedComparison((), resampled="no seed in common"), None
    identical = _equal(trials)
    # Means over different classes cannot be subtracted.
    if len({frozenset(trial.classes) for pair in trials for trial in pair}) > 1:
        return PairedComparison(seeds, resampled="not the same classes", identical=identical), None
    names = tuple(sorted(trials[0][0].classes if classes is None else classes))
    values = [(_mean(x, names, metric), _mean(y, names, metric)) for x, y in trials]
    first = [x for x, _ in values if x is not None]
    second = [y for _, y in values if y is not None]
    if not names or len(first) < len(seeds) or len(second) < len(seeds):
        return PairedComparison(seeds, resampled="the metric is undefined", identical=identical), None
    differences = [round(y - x, _EXACT) for x, y in zip(first, second, strict=True)]
    check_finite(Evidence(tuple(differences), (), 0.0))
    over_seeds = t_interval(differences)
    result = PairedComparison(
        seeds,
        baseline=fmean(first),
        difference=fmean(differences),
        p=signed_rank(differences),
        exact=is_exact(differences),
        floor=smallest_p(differences),
        effect=effect_size(differences),
        noise=seed_noise(first, second),
        seed_low=None if over_seeds is None else over_seeds[0],
        seed_high=None if over_seeds is None else over_seeds[1],
        differences=tuple(differences),
        identical=identical,
        saturated=all(trial.values.get((name, metric)) == 1 for pair in trials for trial in pair for name in names),
    )
    both = [(scores.get(x.trial_id, {}), scores.get(y.trial_id, {})) for x, y in trials]
    unusable = _unusable_scores(trials, both, names) if metric == "image_auroc" else "scores of pixels are not stored"
    if unusable is None:
        return result, Contrast(seeds, tuple(both), names)
    if over_seeds is None:
        return replace(result, resampled=f"{unusable}; t over seeds needs three"), None
    return replace(result, low=over_seeds[0], high=over_seeds[1], resampled=SEEDS), None


def _mean(trial: FinishedTrial, classes: Sequence[str], metric: str) -> float | None:
    values = [trial.values.get((name, metric)) for name in classes]
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _unusable_scores(
    trials: Sequence[_TrialPair], scores: Sequence[tuple[TrialScores, TrialScores]], classes: Sequence[str]
) -> str | None:
    """Return the reason why the scores cannot be resampled, or None if they can."""
    first = scores[0][0]
    for of_trials, of_scores in zip(trials, scores, strict=True):
        for trial, held in zip(of_trials, of_scores, strict=True):
            for name in classes:
                if name not in held or name not in first:
                    return "no image scores are stored"
                if not held[name].matches(first[name]):
                    return "not the same test images"
                # Two ways of summing may differ in the last bits; anything more is another model.
                stored, own = trial.values[name, "image_auroc"], held[name].auroc()
                if stored is None or own is None or abs(stored - own) > 1e-9:
                    return "the stored scores do not give the stored image AUROC"
    return None


def _equal(trials: Sequence[_TrialPair]) -> bool:
    """Say whether the scores of all seeds in common are the same, bit by bit."""
    return bool(trials) and all(x.scores_digest is not None and x.scores_digest == y.scores_digest for x, y in trials)
