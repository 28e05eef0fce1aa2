"""Ranking metrics of scores: AUROC, average precision and F1-max, exactly and from one sort.

No metric here needs the merged order of both classes. Between two neighbouring scores of
*anomalies*, lowering the threshold only adds false positives. So AP and F1-max take their values at
scores of anomalies, and AUROC counts the normals below each anomaly. Each class is sorted by
itself, and two binary searches count the normals above every distinct score of an anomaly. That is
as exact as an argsort of all scores, ties included, and several times cheaper: values sort faster
than indices, and anomalies are few.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Ranking:
    """AUROC, average precision and the largest F1, each in [0, 1], or None where undefined."""

    auroc: float | None
    ap: float | None
    f1_max: float | None


@dataclass(frozen=True, eq=False)
class Counts:
    """Counts at each of the K distinct scores t of the positives, from the highest t to the lowest.

    Attributes:
        tp: positives >= t (K,).
        fp: negatives >= t (K,).
        fp_above: negatives > t (K,); fp - fp_above negatives are tied with t.
        positives: number of positives.
        negatives: number of negatives.
    """

    tp: npt.NDArray[np.int64]
    fp: npt.NDArray[np.int64]
    fp_above: npt.NDArray[np.int64]
    positives: int
    negatives: int


def ranking(labels: npt.ArrayLike, scores: npt.ArrayLike) -> Ranking:
    """Rank `scores` against `labels`.

        AUROC  = (#{(a, n): s_a > s_n} + #{(a, n): s_a = s_n} / 2) / (P N)   a anomalous, n normal
        AP     = sum_k (R_k - R_{k-1}) P_k   over distinct thresholds, without interpolation
        F1-max = max_k 2 P_k R_k / (P_k + R_k) = max_k 2 TP_k / (P + TP_k + FP_k)

    R_k and P_k are recall and precision. scikit-learn gives the same, ties included:
    `roc_auc_score`, `average_precision_score` and the largest F1 over `precision_recall_curve`.

    Args:
        labels: (n,), bool or 0/1; true is anomalous.
        scores: (n,), float32 or float64; higher is more anomalous.

    Returns:
        All three are None without anomalies, and without normals: AP and F1-max would be 1 then,
        for any scores.

    Raises:
        ValueError: wrong shape or type, labels other than 0 and 1, or scores that are not finite.
    """
    values = finite_scores(scores, ndim=1)
    anomalous = np.asarray(labels)
    if anomalous.shape != values.shape:
        raise ValueError(f"labels have shape {anomalous.shape}, scores {values.shape}: give one label per score")
    if anomalous.dtype != np.bool_:
        if not np.isin(anomalous, (0, 1)).all():
            raise ValueError("labels contain other values: give bool, or 0 (normal) and 1 (anomalous)")
        anomalous = anomalous == 1
    positives, negatives = values[anomalous], values[~anomalous]
    positives.sort()
    negatives.sort()
    return rank(count(positives, negatives))


def finite_scores(scores: npt.ArrayLike, ndim: int) -> Floats:
    """Return `scores` as an array of `ndim` dimensions.

    Raises:
        ValueError: wrong number of dimensions, neither float32 nor float64, or not all finite.
    """
    values: Floats = np.asarray(scores)
    if values.ndim != ndim:
        raise ValueError(f"scores have shape {values.shape}: give {ndim} dimension(s)")
    if values.dtype not in (np.float32, np.float64):
        raise ValueError(f"scores are {values.dtype}: give float32 or float64")
    finite = np.isfinite(values)
    if not finite.all():
        wrong = values.size - int(np.count_nonzero(finite))
        raise ValueError(f"{wrong} of {values.size} scores are NaN or infinite: give finite scores")
    return values


def count(positives: Floats, negatives: Floats) -> Counts:
    """Count both classes at every distinct score of the positives.

    Args:
        positives: (P,) scores, sorted ascending, finite.
        negatives: (N,) scores of the same type, sorted ascending, finite.
    """
    distinct = np.ones(positives.size, dtype=np.bool_)
    np.not_equal(positives[1:], positives[:-1], out=distinct[1:])
    first = np.flatnonzero(distinct)[::-1]  # Start of each distinct score, from the highest down.
    ascending = positives[distinct]
    below = np.searchsorted(negatives, ascending, side="left")[::-1]
    up_to = np.searchsorted(negatives, ascending, side="right")[::-1]
    return Counts(
        tp=positives.size - first,
        fp=negatives.size - below,
        fp_above=negatives.size - up_to,
        positives=positives.size,
        negatives=negatives.size,
    )


def rank(counts: Counts) -> Ranking:
    """Compute the three metrics of `ranking` from `counts`."""
    if counts.positives == 0 or counts.negatives == 0:
        return Ranking(auroc=None, ap=None, f1_max=None)
    tied = np.diff(counts.tp, prepend=0)  # Positives at exactly this score.
    # Twice the number of rightly ordered pairs is an integer: only the division rounds.
    twice = int(np.sum(tied * (2 * counts.negatives - counts.fp - counts.fp_above)))
    auroc = twice / (2 * counts.positives * counts.negatives)
    precision = counts.tp / (counts.tp + counts.fp)
    ap = float(np.sum(tied * precision)) / counts.positives
    f1_max = float(np.max(2 * counts.tp / (counts.positives + counts.tp + counts.fp)))
    # Rounding can push a sum of ones past 1.
    return Ranking(auroc=auroc, ap=min(ap, 1.0), f1_max=f1_max)
