"""AUPRO, the area under the per-region overlap curve, and all four pixel metrics from one sort of the pixels.

P. Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 129, 2021, section 5.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from moleflow.metrics.ranking import Counts, count, finite_scores, rank

FPR_LIMIT = 0.3

_NEIGHBOURS = np.ones((3, 3), dtype=np.bool_)  # pixels touch along edges and corners


@dataclass(frozen=True)
class PixelMetrics:
    """AUROC, average precision, the largest F1 and AUPRO of all pixels, each in [0, 1], or None where undefined."""

    auroc: float | None
    ap: float | None
    f1_max: float | None
    aupro: float | None


@dataclass(frozen=True, eq=False)
class _Pixels:
    """All pixels, sorted: `counts` at the K distinct scores of anomalous pixels, and `pro` (K,) at each of them."""

    counts: Counts
    pro: npt.NDArray[np.float64]


def pixel_metrics(masks: npt.ArrayLike, maps: npt.ArrayLike) -> PixelMetrics:
    """Compute AUROC, AP, F1-max (see `ranking.ranking`) and AUPRO up to FPR 0.3 (see `aupro`) from one sort.

    Args:
        masks: (N, H, W) bool; true is anomalous. A normal image has an empty mask.
        maps: (N, H, W) float32 or float64 anomaly maps; higher is more anomalous.

    Raises:
        ValueError: another shape or type, or scores that are not finite.
    """
    pixels = _sorted_pixels(masks, maps)
    ranked = rank(pixels.counts)
    return PixelMetrics(ranked.auroc, ranked.ap, ranked.f1_max, _area(pixels, FPR_LIMIT))


def aupro(masks: npt.ArrayLike, maps: npt.ArrayLike, fpr_limit: float = FPR_LIMIT) -> float | None:
    """Area under the per-region overlap curve up to `fpr_limit`, over `fpr_limit`.

    PRO(t)  = 1/C sum_c |{x in region c: s(x) >= t}| / |region c|      C regions, 8-connected in their mask
    FPR(t)  = |{x normal: s(x) >= t}| / |{x normal}|                   over the normal pixels of all images
    AUPRO   = 1/limit integral_0^limit PRO dFPR

    The curve starts at (0, 0) and has one point for each *distinct* score t, joined by straight lines. Pixels tied at
    one score enter together, whatever their order in memory: their step is one slanted line, which credits a tie
    between an anomalous and a normal pixel with a half, as AUROC does. A constant map gives the diagonal, so limit/2.
    At `fpr_limit` the line that crosses it is cut there. No threshold is left out or binned.

    Args:
        masks: (N, H, W) bool; true is anomalous. A normal image has an empty mask.
        maps: (N, H, W) float32 or float64 anomaly maps; higher is more anomalous.
        fpr_limit: where the integral ends, in (0, 1].

    Returns:
        A number in [0, 1], or None when there is no anomalous region or no normal pixel.

    Raises:
        ValueError: another shape or type, scores that are not finite, or a limit outside (0, 1].
    """
    if not 0.0 < fpr_limit <= 1.0:
        raise ValueError(f"fpr_limit is {fpr_limit}: give a number in (0, 1]")
    return _area(_sorted_pixels(masks, maps), fpr_limit)


def _sorted_pixels(masks: npt.ArrayLike, maps: npt.ArrayLike) -> _Pixels:
    """Sort the pixels of each class once, and carry the regions' overlap along with the anomalous ones."""
    scores = finite_scores(maps, ndim=3)
    anomalous = np.asarray(masks)
    if anomalous.dtype != np.bool_ or anomalous.shape != scores.shape:
        raise ValueError(
            f"masks are {anomalous.dtype} of shape {anomalous.shape}: give bool of the maps' shape {scores.shape}"
        )
    negatives = scores[~anomalous]
    negatives.sort()
    positives = scores[anomalous]
    # A stable order makes the sum below the same on every processor, whichever sort its instructions select.
    order = np.argsort(positives, kind="stable")
    counts = count(positives[order], negatives)

    region = _regions(anomalous)
    share = 1.0 / np.maximum(np.bincount(region), 1)  # of its region that one pixel covers; entry 0 is not a region
    covered = np.cumsum(share[region[order[::-1]]])[counts.tp - 1]
    # The last entry is the number of regions up to rounding; dividing by it lets the curve end at exactly 1.
    return _Pixels(counts, pro=covered / covered[-1:])


def _regions(anomalous: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The region, from 1, of each anomalous pixel (P,) of masks (N, H, W); none reaches from one image to the next.

    Only the box around an image's anomalous pixels is looked at: most pixels of most images are normal.
    """
    found, count = [np.empty(0, dtype=np.int64)], 0
    for mask in anomalous:
        rows = np.flatnonzero(mask.any(axis=1))
        if rows.size:
            columns = np.flatnonzero(mask.any(axis=0))
            box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            labels, regions = ndimage.label(box, structure=_NEIGHBOURS)
            found.append(labels[box].astype(np.int64) + count)
            count += regions
    return np.concatenate(found)


def _area(pixels: _Pixels, fpr_limit: float) -> float | None:
    """Integrate PRO over FPR from 0 to `fpr_limit`, over `fpr_limit`.

    Only scores of anomalous pixels move PRO. So the K points at those scores, and the K points just before them, where
    the curve has run level up to the normal pixels of the next higher scores, hold the whole curve.
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
    return min(area / fpr_limit, 1.0)  # rounding may carry a perfect curve past 1
