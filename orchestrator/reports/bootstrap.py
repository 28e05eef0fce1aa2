"""Intervals of differences in image AUROC by a paired bootstrap over test images and seeds.

Within each class, good and defective images are drawn apart, with replacement, so that every
resample has an AUROC. One draw serves both variants and every seed: an image that is hard for one
variant is mostly hard for the other, and that common part cancels. With `SEEDS_DRAWN_FROM` seeds or
more in common, the seeds are drawn too.

AUROC is linear in how often each pair of a defective image i and a good image j is drawn. With
counts w (defective) and v (good),

    AUROC = sum_ij w_i v_j ([s_i > s_j] + [s_i = s_j] / 2) / (sum_i w_i sum_j v_j)

So the AUROC of every resample, ties included, takes two matrix products. It is exact, because all
sums are of whole numbers; single precision holds them up to 2^24.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from orchestrator.results.schema import FINISHED
from orchestrator.results.store import ResultStore

RESAMPLES = 20_000
_AT_ONCE = 2000
"""Resamples in memory at a time."""
LEVEL = 0.95
SEEDS_DRAWN_FROM = 5
"""With fewer seeds in common, seeds are not drawn: so few values say little about their spread."""

Reals = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ClassScores:
    """The test images of one class as one trial scored them.

    Attributes:
        images: (n,) names, in order.
        anomalous: (n,) whether each image is defective.
        scores: (n,) anomaly scores.
    """

    images: tuple[str, ...]
    anomalous: npt.NDArray[np.bool_]
    scores: Reals

    def matches(self, other: ClassScores) -> bool:
        """Say whether these are scores of the same images with the same labels."""
        return self.images == other.images and bool(np.array_equal(self.anomalous, other.anomalous))

    def auroc(self) -> float | None:
        """Return the image AUROC of the class; None where it is undefined."""
        from moleflow.metrics.ranking import ranking

        return ranking(self.anomalous, self.scores).auroc


TrialScores = Mapping[str, ClassScores]
"""The scores of one trial by class name."""


@dataclass(frozen=True)
class Interval:
    """The bounds of a 95 % interval.

    Attributes:
        low, high: the bounds.
        over_seeds: true if seeds were drawn as well as images.
        low_error, high_error: Monte Carlo standard error of each bound: how far another set of as
            many resamples would move it.
    """

    low: float
    high: float
    over_seeds: bool
    low_error: float = 0.0
    high_error: float = 0.0


def read_scores(store: ResultStore, trial_ids: Iterable[str], split: str) -> dict[str, dict[str, ClassScores]]:
    """Return image scores of finished trials after the final task, by trial id and class name.

    Raises:
        InvalidInput: there is no store in the folder.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = ["trial_id", "task_name", "image", "label", "score", "split", "status"]
    rows = store.read("scores", columns)
    of_split = pc.and_(pc.equal(rows["split"], split), pc.equal(rows["status"], FINISHED))
    chosen = pc.is_in(rows["trial_id"], value_set=pa.array(sorted(trial_ids), pa.string()))
    rows = rows.filter(pc.and_(of_split, chosen))
    # Rows lie in the order in which workers wrote them; a resample must not depend on that.
    rows = rows.sort_by([(name, "ascending") for name in ("trial_id", "task_name", "image")])
    owners = list(zip(rows["trial_id"].to_pylist(), rows["task_name"].to_pylist(), strict=True))
    images, labels, scores = rows["image"].to_pylist(), rows["label"].to_numpy() == 1, rows["score"].to_numpy()
    starts = [k for k, owner in enumerate(owners) if k == 0 or owner != owners[k - 1]]
    found: dict[str, dict[str, ClassScores]] = {}
    for start, end in pairwise([*starts, len(owners)]):
        trial_id, class_name = owners[start]
        of_class = ClassScores(tuple(images[start:end]), labels[start:end], scores[start:end])
        found.setdefault(trial_id, {})[class_name] = of_class
    return found


@dataclass(frozen=True, eq=False)
class Contrast:
    """Two variants, b against a.

    Attributes:
        seeds: the seeds in common.
        pairs: for each seed, the scores of a and b.
        classes: the classes that are averaged over.
    """

    seeds: tuple[int, ...]
    pairs: tuple[tuple[TrialScores, TrialScores], ...]
    classes: tuple[str, ...]

    @property
    def draws_seeds(self) -> bool:
        """True if the seeds are drawn too."""
        return len(self.seeds) >= SEEDS_DRAWN_FROM

    def shares_draws(self, other: Contrast) -> bool:
        """Say whether one set of resamples serves both: the same images, as many drawn seeds."""
        drawn = [len(c.seeds) if c.draws_seeds else 0 for c in (self, other)]
        mine, theirs = self.pairs[0][0], other.pairs[0][0]
        same = self.classes == other.classes and all(mine[name].matches(theirs[name]) for name in self.classes)
        return same and drawn[0] == drawn[1]


def bootstrap_intervals(contrasts: Sequence[Contrast], seed: int, resamples: int = RESAMPLES) -> list[Interval | None]:
    """Return the 95 % percentile interval of mean AUROC of b minus that of a, for each contrast.

    It is None where no class has two images of a kind, so that nothing can be drawn. Each contrast
    is over trials that scored the same images, with both labels in each class.
    """
    # Contrasts over the same images share their resamples, which saves time. Each set of resamples
    # starts from the seed anew, so that no interval depends on the contrasts computed with it.
    found: list[Interval | None] = [None] * len(contrasts)
    left = list(range(len(contrasts)))
    while left:
        first = contrasts[left[0]]
        together = [k for k in left if first.shares_draws(contrasts[k])]
        left = [k for k in left if k not in together]
        drawn = _intervals_of_shared_draws([contrasts[k] for k in together], np.random.default_rng(seed), resamples)
        for k, interval in zip(together, drawn, strict=True):
            found[k] = interval
    return found


def _intervals_of_shared_draws(
    contrasts: Sequence[Contrast], generator: np.random.Generator, resamples: int
) -> list[Interval | None]:
    from scipy.stats import bootstrap
    from threadpoolctl import threadpool_limits

    first = contrasts[0]
    labels = [first.pairs[0][0][name].anomalous for name in first.classes]
    sizes = [int(kind.sum()) for anomalous in labels for kind in (anomalous, ~anomalous)]
    if first.draws_seeds:
        sizes.append(len(first.seeds))
    drawn = [k for k, size in enumerate(sizes) if size > 1]  # scipy refuses a single observation.
    if not drawn:
        return [None] * len(contrasts)
    gains = [_gains(contrasts, name) for name in first.classes]

    def differences(*indices: Reals, axis: int = -1) -> Reals:
        """(resamples, size) indices of each sample to (contrasts, resamples) differences."""
        n = indices[0].shape[0]
        counts = [np.ones((n, size), np.int64) for size in sizes]
        for k, index in zip(drawn, indices, strict=True):
            counts[k] = _draw_counts(index.astype(np.int64), sizes[k])
        return _mean_differences(gains, contrasts, counts)

    data = tuple(np.arange(sizes[k], dtype=np.float64) for k in drawn)
    options = {"n_resamples": resamples, "confidence_level": LEVEL, "method": "percentile", "rng": generator}
    options |= {"batch": min(_AT_ONCE, resamples)}
    # The products are small. On busy cores, threads that wait for each other take far longer.
    with threadpool_limits(1, "blas"):
        found = bootstrap(data, differences, vectorized=True, paired=False, axis=-1, **options)
    bounds = found.confidence_interval
    errors = [_quantile_errors(found.bootstrap_distribution, level) for level in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)]
    columns = np.atleast_1d(bounds.low), np.atleast_1d(bounds.high), *errors
    return [
        Interval(float(low), float(high), first.draws_seeds, float(low_error), float(high_error))
        for low, high, low_error, high_error in zip(*columns, strict=True)
    ]


def _quantile_errors(drawn: Reals, level: float) -> Reals:
    """Return the Monte Carlo error of a quantile of each row: (rows, resamples) to (rows,).

    The number of draws below the true quantile is binomial with standard deviation
    sqrt(R p (1 - p)). The error is half the distance between the order statistics that lie so far
    on either side, which needs no estimate of the density.

    Source: R. J. Serfling, Approximation Theorems of Mathematical Statistics (1980), section 2.6.
    """
    count = drawn.shape[-1]
    apart = math.sqrt(count * level * (1 - level))
    centre = level * (count - 1)
    ranks = np.clip([math.floor(centre - apart), math.ceil(centre + apart)], 0, count - 1)
    ordered = np.partition(np.atleast_2d(drawn), np.unique(ranks), axis=-1)
    errors: Reals = (ordered[:, ranks[1]] - ordered[:, ranks[0]]) / 2
    return errors


def _gains(contrasts: Sequence[Contrast], name: str) -> Reals:
    """Return sign(s_i - s_j) of b minus that of a in one class, for defective i and good j.

    Shape (P, C, S, N) with P defective and N good images, C contrasts and S seeds. If seeds are not
    drawn, only their sum is needed, and S is 1. Single precision if it holds every sum exactly.
    """
    of_contrasts = []
    for contrast in contrasts:
        of_seeds = np.stack([_signs(b[name]) - _signs(a[name]) for a, b in contrast.pairs])
        of_contrasts.append(of_seeds if contrast.draws_seeds else of_seeds.sum(axis=0, keepdims=True))
    gain = np.ascontiguousarray(np.stack(of_contrasts).transpose(2, 0, 1, 3))
    most = 2 * gain.shape[0] * gain.shape[3] * max(len(contrast.seeds) for contrast in contrasts)
    return gain.astype(np.float32) if most < 2**24 else gain


def _signs(scores: ClassScores) -> Reals:
    defective, good = scores.scores[scores.anomalous], scores.scores[~scores.anomalous]
    return np.sign(defective[:, None] - good[None, :])


def _draw_counts(index: Counts, size: int) -> Counts:
    """Count how often each of `size` items was drawn: (resamples, drawn) to (resamples, size)."""
    n = index.shape[0]
    # One bincount for all resamples: each gets its own range of codes.
    flat = (index + size * np.arange(n)[:, None]).ravel()
    return np.bincount(flat, minlength=n * size).reshape(n, size)


def _mean_differences(gains: Sequence[Reals], contrasts: Sequence[Contrast], counts: Sequence[Counts]) -> Reals:
    """Return the mean difference in AUROC of each resample: (contrasts, resamples).

    `gains` has one array for each class, as `_gains` returns it. `counts` holds two arrays for each
    class, for its defective and its good images, and one for seeds if they are drawn.
    """
    seeds = np.array([[len(contrast.seeds)] for contrast in contrasts])
    total = np.zeros((gains[0].shape[1], counts[0].shape[0]))
    for k, gain in enumerate(gains):
        p, c, s, n = gain.shape
        defective, good = counts[2 * k].astype(gain.dtype), counts[2 * k + 1].astype(gain.dtype)
        # One product for all contrasts and seeds: many small ones would take several times longer.
        weighted = (defective @ gain.reshape(p, c * s * n)).reshape(-1, c * s, n)
        of_seeds = np.matmul(weighted, good[:, :, None])[:, :, 0].reshape(-1, c, s).astype(np.float64)
        summed = np.einsum("rcs,rs->cr", of_seeds, counts[-1]) if contrasts[0].draws_seeds else of_seeds[:, :, 0].T
        # Signs go from -1 to 1 and their differences from -2 to 2, AUROC from 0 to 1: hence the 2.
        total += summed / (2 * p * n * seeds)
    return total / len(gains)
