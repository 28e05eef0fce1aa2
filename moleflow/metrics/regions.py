"""Pixel metrics: AUPRO (area under the per-region overlap curve), AUROC, AP and F1-max.

P. Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 129, 2021, section 5.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from moleflow.metrics.ranking import Counts, count, finite_scores, rank

FPR_LIMIT = 0.3

_NEIGHBOURS = np.ones((3, 3), dtype=np.bool_)  # Pixels touch along edges and corners.


@dataclass(frozen=True)
class PixelMetrics:
    """AUROC, average precision, the largest F1 and AUPRO of all pixels.

    Each is in [0, 1], or None where it is undefined.
    """

    auroc: float | None
    ap: float | None
    f1_max: float | None
    aupro: float | None


@dataclass(frozen=True, eq=False)
class _Pixels:
    """All pixels, sorted: counts and PRO (K,) at the K distinct scores of anomalous pixels."""

    counts: Counts
    pro: npt.NDArray[np.float64]


def pixel_metrics(masks: npt.ArrayLike, maps: npt.ArrayLike, fpr_limit: float = FPR_LIMIT) -> PixelMetrics:
    """Compute AUROC, AP, F1-max (see `ranking.ranking`) and AUPRO from one sort of the pixels.

        PRO(t) = 1/C sum_c |{x in region c: s(x) >= t}| / |region c|   C regions, 8-connected
        FPR(t) = |{x normal: s(x) >= t}| / |{x normal}|                normal pixels of all images
        AUPRO  = 1/limit integral_0^limit PRO dFPR

    The curve starts at (0, 0) and has one point for each *distinct* score t, joined by straight
    lines. Pixels tied at one score enter together, whatever their order in memory. Their step is
    one slanted line, which credits a tie between an anomalous and a normal pixel with a half, as
    AUROC does. A constant map gives the diagonal, so limit/2. The line that crosses `fpr_limit` is
    cut there. No threshold is left out or binned.

    Args:
        masks: (N, H, W) bool; true is anomalous. A normal image has an empty mask.
        maps: (N, H, W) float32 or float64 anomaly maps; higher is more anomalous.
        fpr_limit: end of AUPRO's integral, in (0, 1].

    Returns:
        AUPRO is None without an anomalous region or without a normal pixel.

    Raises:
        ValueError: wrong shape or type, or scores that are not finite.
    """
    pixels = _sorted_pixels(masks, maps)
    ranked = rank(pixels.counts)
    return PixelMetrics(ranked.auroc, ranked.ap, ranked.f1_max, _area(pixels, fpr_limit))


def _sorted_pixels(masks: npt.ArrayLike, maps: npt.ArrayLike) -> _Pixels:
    """Sort the pixels of each class once, and sum up the regions' overlap in that order."""
    scores = finite_scores(maps, ndim=3)
    anomalous = np.asarray(masks)
    if anomalous.dtype != np.bool_ or anomalous.shape != scores.shape:
        raise ValueError(
            f"masks are {anomalous.dtype} of shape {anomalous.shape}: give bool of the maps' shape {scores.shape}"
        )
    negatives = scores[~anomalous]
    negatives.sort()
    positives = scores[anomalous]
    # numpy's unstable sort depends on the CPU's vector instructions. A stable order makes the sum
    # below round the same everywhere.
    order = np.argsort(positives, kind="stable")
    counts = count(positives[order], negatives)

    region = _regions(anomalous)
    # Share of its region that one pixel covers. Regions count from 1: entry 0 is none.
    share = 1.0 / np.maximum(np.bincount(region), 1)
    covered = np.cumsum(share[region[order[::-1]]])[counts.tp - 1]
    # The last entry is the number of regions up to rounding. Dividing by it ends the curve at 1.
    return _Pixels(counts, pro=covered / covered[-1:])


def _regions(anomalous: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return the region, from 1, of each anomalous pixel (P,) of masks (N, H, W).

    A region lies in one image. Only the box around an image's anomalous pixels is labelled, because
    most pixels of most images are normal.
    """
    numbers, count = [np.empty(0, dtype=np.int64)], 0
    for mask in anomalous:
        rows = np.flatnonzero(mask.any(axis=1))
        if rows.size:
            columns = np.flatnonzero(mask.any(axis=0))
            box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            labels, regions = ndimage.label(box, structure=_NEIGHBOURS)
            numbers.append(labels[box].astype(np.int64) + count)
            count += regions
    return np.concatenate(numbers)


def _area(pixels: _Pixels, fpr_limit: float) -> float | None:
    """Integrate PRO over FPR from 0 to `fpr_limit`, over `fpr_limit`.

    Only scores of anomalous pixels move PRO; between them the curve is level. So the K points at
    those scores and the K points just before them define the whole curve.
    """
    counts = pixels.counts
    if counts.positives == 0 or counts.negatives == 0:
        return None
    fpr = np.empty(2 * counts.tp.size + 2)
    fpr[0], fpr[-1] = 0.0, 1.0
    fpr[1:-1:2] = counts.fp_above / counts.negatives
    fpr[2:-1:2] = counts.fp / counts.negatives
    pro = np.repeat(np.concatenate([[0.0], pixels.pro]), 2)

    inside = int(np.searchsorted(fpr, fpr_limit, side="right"))
    area = float(np.trapezoid(pro[:inside], fpr[:inside]))
    if inside < fpr.size:
        left, right = inside - 1, inside
        step = fpr_limit - fpr[left]
        slope = (pro[right] - pro[left]) / (fpr[right] - fpr[left])
        area += float(step * (pro[left] + 0.5 * slope * step))
    return min(area / fpr_limit, 1.0)  # Rounding can push a perfect curve past 1.
