"""Time the pixel metrics beside scikit-learn on 5 million pixels, and print how far their values lie apart.

    python benchmarks/metrics.py

The maps are generated, not measured: 100 images of 224x224, 60 of them with two square defects, smooth noise that is
higher inside a defect. Once as they are and once rounded, so that most scores are tied. Both sides run in this one
process, in turns; the median of the repeats is printed.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from moleflow.metrics.regions import PixelMetrics, pixel_metrics

T = TypeVar("T")
IMAGES, SIDE, DEFECTIVE, REPEATS, SEED = 100, 224, 60, 5, 0


def generate(rng: np.random.Generator) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Draw masks (IMAGES, SIDE, SIDE) and float32 anomaly maps of the same shape."""
    masks = np.zeros((IMAGES, SIDE, SIDE), dtype=np.bool_)
    for mask in masks[:DEFECTIVE]:
        for _ in range(2):
            size = int(rng.integers(8, 48))
            top, left = rng.integers(0, SIDE - size, 2)
            mask[top : top + size, left : left + size] = True
    noise = rng.standard_normal(masks.shape).astype(np.float32)
    maps = ndimage.gaussian_filter(noise, (0, 4, 4)) * 14 + ndimage.gaussian_filter(masks.astype(np.float32), (0, 4, 4))
    return masks, maps.astype(np.float32)


def scikit_learn(labels: npt.NDArray[np.bool_], scores: npt.NDArray[np.float32]) -> tuple[float, float]:
    """AUROC and AP of flat pixels, the two that scikit-learn gives directly."""
    return float(roc_auc_score(labels, scores)), float(average_precision_score(labels, scores))


def timed(function: Callable[[], T]) -> tuple[float, T]:
    """Seconds that one call took, and what it returned."""
    start = time.perf_counter()
    value = function()
    return time.perf_counter() - start, value


def compare(title: str, masks: npt.NDArray[np.bool_], maps: npt.NDArray[np.float32]) -> None:
    """Run both sides in turns on one set of maps and print times, ratio, differences and memory."""
    labels, scores = masks.ravel(), maps.ravel()
    theirs, ours = [], []
    for _ in range(REPEATS):
        theirs.append(timed(lambda: scikit_learn(labels, scores)))
        ours.append(timed(lambda: pixel_metrics(masks, maps)))
    reference, found = theirs[0][1], ours[0][1]
    their_seconds = statistics.median(seconds for seconds, _ in theirs)
    our_seconds = statistics.median(seconds for seconds, _ in ours)
    print(f"\n{title}: {labels.mean():.1%} anomalous, {np.unique(scores).size:,} distinct scores")
    print(f"  scikit-learn, AUROC + AP                  {their_seconds:7.3f} s")
    print(f"  moleflow, AUROC + AP + F1-max + AUPRO     {our_seconds:7.3f} s   ratio {their_seconds / our_seconds:.1f}")
    report_values(found, reference, best_f1(labels, scores))
    tracemalloc.start()
    pixel_metrics(masks, maps)
    print(f"  memory beyond the inputs, at the peak     {tracemalloc.get_traced_memory()[1] / 1e6:7.0f} MB")
    tracemalloc.stop()


def best_f1(labels: npt.NDArray[np.bool_], scores: npt.NDArray[np.float32]) -> float:
    """Largest F1 over scikit-learn's precision-recall curve (not timed)."""
    precision, recall, _ = precision_recall_curve(labels, scores)
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300)))


def report_values(found: PixelMetrics, reference: tuple[float, float], f1_max: float) -> None:
    """Print our values and their distance from scikit-learn's."""
    rows = [("AUROC", found.auroc, reference[0]), ("AP", found.ap, reference[1]), ("F1-max", found.f1_max, f1_max)]
    for name, value, expected in rows:
        assert value is not None  # the generated maps hold both classes
        print(f"  {name:8}{value:.6f}   difference {abs(value - expected):.1e}")
    print(f"  AUPRO   {found.aupro:.6f}   (no counterpart in scikit-learn)")


def main() -> None:
    """Print the comparison for continuous and for tied scores."""
    masks, maps = generate(np.random.default_rng(SEED))
    print(f"generated maps: {IMAGES} of {SIDE}x{SIDE}, {maps.size:,} float32 pixels; median of {REPEATS} runs in turns")
    compare("continuous scores", masks, maps)
    compare("rounded to 1/64", masks, np.round(maps * 64) / np.float32(64))


if __name__ == "__main__":
    main()
