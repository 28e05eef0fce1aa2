"""Two variants compared seed by seed: difference, intervals, test, effect size, verdict. docs/statistics.md says what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from orchestrator.reports.bootstrap import RESAMPLES, Contrast, Interval, TrialScores, intervals
from orchestrator.reports.finished_trials import FinishedTrial
from orchestrator.reports.statistics import effect_size, exact, floor, holm, seed_noise, signed_rank, t_interval
from orchestrator.reports.variants import VariantColumn

BOOTSTRAP_SEED = 0
_EXACT = 12
"""Decimals of a difference of AUROCs that are not rounding; without this, equal differences would look untied."""

IMAGES = "test images"
IMAGES_AND_SEEDS = "test images and seeds"
SEEDS = "seeds (t)"


@dataclass(frozen=True)
class PairedComparison:
    """Variant b against variant a over the `n` seeds that both have.

    Attributes:
        seeds: those seeds.
        baseline: mean over the seeds of a's metric; None where nothing can be compared.
        difference: mean over the seeds of b - a.
        low, high: 95 % interval of the difference, or None.
        resampled: what the interval is over (`IMAGES`, `IMAGES_AND_SEEDS` or `SEEDS`), or why there is none.
        p: two-sided Wilcoxon signed-rank test over the seeds; None for one seed, and for equal digests, where there is
            nothing to test.
        exact: whether p is exact; else it is of drawn sign patterns.
        floor: the smallest p that so many seeds can give.
        p_holm: p corrected by Holm's method for the family of comparisons.
        effect: Cohen's d_z; None for one seed, or where all differences are equal.
        noise: seed noise, two standard deviations of the seeds pooled over a and b; None for one seed.
        seed_low, seed_high: 95 % t interval over the seeds alone, for three seeds or more.
        verdict: how the interval lies to seed noise, in words; empty where that cannot be said.

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
    verdict: str = ""

    @property
    def n(self) -> int:
        """Seeds in common."""
        return len(self.seeds)


def compare_paired(
    pairs: Sequence[tuple[VariantColumn, VariantColumn]],
    scores: Mapping[str, TrialScores],
    classes: Sequence[Sequence[str] | None] | None = None,
    metric: str = "image_auroc",
    resamples: int = RESAMPLES,
) -> list[PairedComparison]:
    """Compare the second variant of each pair with the first; together they are one family.

    Args:
        pairs: (baseline, other).
        scores: image scores by trial id; empty for metrics of pixels, whose scores are not stored.
        classes: for each pair the classes that the metric is averaged over; None = all.
        metric: name of the metric of one class.
        resamples: of the bootstrap.

    """
    selected = [None] * len(pairs) if classes is None else list(classes)
    found: list[PairedComparison] = []
    contrasts: dict[int, Contrast] = {}
    for k, ((a, b), of_pair) in enumerate(zip(pairs, selected, strict=True)):
        result, contrast = _one(a, b, scores if metric == "image_auroc" else {}, of_pair, metric)
        found.append(result)
        if contrast is not None:
            contrasts[k] = contrast
    drawn = intervals(list(contrasts.values()), BOOTSTRAP_SEED, resamples)
    for k, interval in zip(contrasts, drawn, strict=True):
        found[k] = _with_interval(found[k], interval)
    # What is the same bit by bit is no test, and must not make the others' correction stricter.
    found = [replace(r, p=None, floor=None) if _equal(r, *pair) else r for r, pair in zip(found, pairs, strict=True)]
    corrected = iter(holm([result.p for result in found if result.p is not None]))
    found = [result if result.p is None else replace(result, p_holm=next(corrected)) for result in found]
    return [replace(r, verdict=_verdict(r, *pair, metric)) for r, pair in zip(found, pairs, strict=True)]


def _one(
    a: VariantColumn, b: VariantColumn, scores: Mapping[str, TrialScores], classes: Sequence[str] | None, metric: str
) -> tuple[PairedComparison, Contrast | None]:
    """All but what needs the bootstrap, and what the bootstrap needs."""
    of_a, of_b = ({trial.seed: trial for trial in v.trials} for v in (a, b))
    seeds = tuple(sorted(of_a.keys() & of_b.keys()))
    if not seeds:
        return PairedComparison((), resampled="no seed in common"), None
    trials = [(of_a[seed], of_b[seed]) for seed in seeds]
    if len({frozenset(trial.classes) for pair in trials for trial in pair}) > 1:
        return PairedComparison(seeds, resampled="not the same classes"), None
    names = tuple(sorted(trials[0][0].classes if classes is None else classes))
    values = [(_mean(x, names, metric), _mean(y, names, metric)) for x, y in trials]
    first = [x for x, _ in values if x is not None]
    second = [y for _, y in values if y is not None]
    if not names or len(first) < len(seeds) or len(second) < len(seeds):
        return PairedComparison(seeds, resampled="the metric is undefined"), None
    differences = [round(y - x, _EXACT) for x, y in zip(first, second, strict=True)]
    over_seeds = t_interval(differences)
    result = PairedComparison(
        seeds,
        baseline=fmean(first),
        difference=fmean(differences),
        p=signed_rank(differences),
        exact=exact(differences),
        floor=floor(differences),
        effect=effect_size(differences),
        noise=seed_noise(first, second),
        seed_low=None if over_seeds is None else over_seeds[0],
        seed_high=None if over_seeds is None else over_seeds[1],
    )
    both = [(scores.get(x.trial_id, {}), scores.get(y.trial_id, {})) for x, y in trials]
    missing = _unusable(trials, both, names) if metric == "image_auroc" else "scores of pixels are not stored"
    if missing is None:
        return result, Contrast(seeds, tuple(both), names)
    if over_seeds is None:
        return replace(result, resampled=f"{missing}; t over seeds needs three"), None
    return replace(result, low=over_seeds[0], high=over_seeds[1], resampled=SEEDS), None


def _mean(trial: FinishedTrial, classes: Sequence[str], metric: str) -> float | None:
    values = [trial.values.get((name, metric)) for name in classes]
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _unusable(
    trials: Sequence[tuple[FinishedTrial, FinishedTrial]],
    scores: Sequence[tuple[TrialScores, TrialScores]],
    classes: Sequence[str],
) -> str | None:
    """Why the scores cannot be resampled, or None when they can."""
    first = scores[0][0]
    for of_trials, of_scores in zip(trials, scores, strict=True):
        for trial, held in zip(of_trials, of_scores, strict=True):
            for name in classes:
                if name not in held or name not in first:
                    return "no image scores are stored"
                if not held[name].matches(first[name]):
                    return "not the same test images"
                stored, own = trial.values[name, "image_auroc"], held[name].auroc()
                if stored is None or own is None or abs(stored - own) > 1e-9:
                    return "the stored scores do not give the stored image AUROC"
    return None


def _with_interval(result: PairedComparison, interval: Interval | None) -> PairedComparison:
    if interval is None:
        return replace(result, resampled="one image of a kind: nothing to draw from")
    what = IMAGES_AND_SEEDS if interval.over_seeds else IMAGES
    return replace(result, low=interval.low, high=interval.high, resampled=what)


NO_EFFECT = "no effect (equal digests)"
SATURATED = "saturated: no evidence"
NOT_MEASURED = "no effect measured"
BEYOND = "beyond seed noise"
UNDECIDED = "undecided"


def _trials(result: PairedComparison, a: VariantColumn, b: VariantColumn) -> list[tuple[FinishedTrial, FinishedTrial]]:
    of_a, of_b = ({trial.seed: trial for trial in v.trials} for v in (a, b))
    return [(of_a[seed], of_b[seed]) for seed in result.seeds]


def _equal(result: PairedComparison, a: VariantColumn, b: VariantColumn) -> bool:
    """Whether the scores of all seeds in common are the same, bit by bit."""
    trials = _trials(result, a, b)
    return bool(trials) and all(x.scores_digest is not None and x.scores_digest == y.scores_digest for x, y in trials)


def _verdict(result: PairedComparison, a: VariantColumn, b: VariantColumn, metric: str) -> str:
    if _equal(result, a, b):
        return NO_EFFECT
    if result.difference is None:
        return ""
    pairs = _trials(result, a, b)
    if all(t.values.get((name, metric)) == 1 for pair in pairs for t in pair for name in t.classes):
        return SATURATED
    if result.low is None or result.high is None or result.noise is None:
        return ""
    if -result.noise <= result.low and result.high <= result.noise:
        return NOT_MEASURED
    return BEYOND if result.low > result.noise or result.high < -result.noise else UNDECIDED
