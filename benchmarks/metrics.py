"""Time the pixel metrics beside scikit-learn and anomalib on 5 million pixels, and print how far
their values lie apart.

    python benchmarks/metrics.py

The maps are generated, not measured: 100 images of 224x224, 60 of them with two square defects,
smooth noise that is higher inside a defect. Once as they are and once rounded, so that most scores
are tied. All sides run in this one process on one thread, in turns; the median of the repeats is
printed.

anomalib is no dependency: where it is installed it takes part, `anomalib: not installed` is printed
otherwise. Its AUPRO takes the maps as they are. Its other three metrics are torchmetrics', which
squash scores outside [0, 1] by a sigmoid, so they get scores that were scaled into [0, 1] before,
which is not timed.

AUPRO has no counterpart in scikit-learn. What ours and anomalib's are compared with is its
definition: the maps are thresholded at each of their distinct scores, one after the other, and all
regions and normal pixels are counted in double precision. That is done on all pixels where scores
are tied, and on a crop where each pixel is a threshold.
"""

from __future__ import annotations

import importlib
import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from moleflow.features.timm_import import import_timm
from moleflow.metrics.regions import FPR_LIMIT, pixel_metrics

Masks = npt.NDArray[np.bool_]
Maps = npt.NDArray[np.float32]
Values = dict[str, float]
IMAGES, SIDE, DEFECTIVE, REPEATS, SEED = 100, 224, 60, 5, 0
CROP = 64
AUPRO = {"AUPRO": "AUPRO"}


def generate(rng: np.random.Generator) -> tuple[Masks, Maps]:
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


def ours(masks: Masks, maps: Maps) -> Values:
    """All four metrics."""
    found = pixel_metrics(masks, maps)
    values = {"AUROC": found.auroc, "AP": found.ap, "F1-max": found.f1_max, "AUPRO": found.aupro}
    return {name: value for name, value in values.items() if value is not None}


def scikit_learn(masks: Masks, maps: Maps) -> Values:
    """AUROC and AP, the two that scikit-learn gives directly."""
    labels, scores = masks.ravel(), maps.ravel()
    return {"AUROC": float(roc_auc_score(labels, scores)), "AP": float(average_precision_score(labels, scores))}


def best_f1(masks: Masks, maps: Maps) -> Values:
    """Largest F1 over scikit-learn's precision-recall curve (not timed)."""
    precision, recall, _ = precision_recall_curve(masks.ravel(), maps.ravel())
    return {"F1-max": float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300)))}


@dataclass(frozen=True)
class Anomalib:
    """anomalib's modules `metrics` and `data`."""

    metrics: Any
    data: Any

    def batch(self, masks: Masks, maps: Maps) -> Any:
        """Its own kind of batch; the images in it are not looked at."""
        images = torch.zeros(len(maps), 3, 1, 1).expand(-1, -1, *maps.shape[1:])
        return self.data.ImageBatch(image=images, anomaly_map=torch.from_numpy(maps), gt_mask=torch.from_numpy(masks))

    def measure(self, names: dict[str, str], batch: Any) -> Values:
        """The metrics {our name: its name} of one batch."""
        values = {}
        for name, its_name in names.items():
            metric = getattr(self.metrics, its_name)(fields=["anomaly_map", "gt_mask"])
            metric.update(batch)
            values[name] = float(metric.compute())
        return values


def load_anomalib() -> Anomalib | None:
    """anomalib, or None where it is not installed."""
    if find_spec("anomalib") is None:
        return None
    # It makes torchvision importable beside a CPU build of torch, and anomalib imports that too.
    import_timm()
    return Anomalib(importlib.import_module("anomalib.metrics"), importlib.import_module("anomalib.data"))


def by_definition(masks: Masks, maps: Maps) -> float:
    """AUPRO from the thresholded maps themselves, one distinct score after the other."""
    neighbours = ndimage.generate_binary_structure(2, 2)
    regions = np.zeros(masks.shape, dtype=np.int64)
    count = 0
    for region, mask in zip(regions, masks, strict=True):
        labels, found = ndimage.label(mask, structure=neighbours)
        region[mask] = labels[mask] + count
        count += found
    sizes = np.bincount(regions[masks], minlength=count + 1)[1:]
    anomalous, normal, region = maps[masks], maps[~masks], regions[masks]
    fpr, pro = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        covered = np.bincount(region[anomalous >= threshold], minlength=count + 1)[1:]
        fpr.append(np.count_nonzero(normal >= threshold) / normal.size)
        pro.append(float(np.mean(covered / sizes)))
        if fpr[-1] >= FPR_LIMIT:
            break
    pro[-1] = pro[-2] + (pro[-1] - pro[-2]) * (FPR_LIMIT - fpr[-2]) / (fpr[-1] - fpr[-2])
    fpr[-1] = FPR_LIMIT
    return float(np.trapezoid(pro, fpr)) / FPR_LIMIT


def timed(sides: dict[str, Callable[[], Values]]) -> tuple[dict[str, float], dict[str, Values]]:
    """Median seconds and values of each side, run in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    values = {}
    for _ in range(REPEATS):
        for name, side in sides.items():
            start = time.perf_counter()
            values[name] = side()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(of) for name, of in seconds.items()}, values


def compare(title: str, masks: Masks, maps: Maps, anomalib: Anomalib | None) -> None:
    """Run all sides in turns on one set of maps and print times, ratios, differences and memory."""
    sides: dict[str, Callable[[], Values]] = {
        "moleflow": lambda: ours(masks, maps),
        "scikit-learn": lambda: scikit_learn(masks, maps),
    }
    if anomalib is not None:
        raw = anomalib.batch(masks, maps)
        scaled = anomalib.batch(masks, (maps - maps.min()) / (maps.max() - maps.min()))
        rest = {"AUROC": "AUROC", "AP": "AUPR", "F1-max": "F1Max"}
        sides["anomalib"] = lambda: anomalib.measure(AUPRO, raw)
        sides["anomalib, the other three"] = lambda: anomalib.measure(rest, scaled)
    distinct = np.unique(maps).size
    print(f"\n{title}: {masks.mean():.1%} anomalous, {distinct:,} distinct scores")
    seconds, values = timed(sides)
    for name, median in seconds.items():
        what = " + ".join(values[name])
        print(f"  {name:26}{what:32}{median:8.3f} s   {median / seconds['moleflow']:5.1f} times ours")
    for name, found in (values | {"scikit-learn": values["scikit-learn"] | best_f1(masks, maps)}).items():
        if name != "moleflow":
            report_differences(name, values["moleflow"], found)
    whole = distinct < 10_000
    part = np.s_[:] if whole else np.s_[: DEFECTIVE // 10, :CROP, :CROP]
    crop = np.ascontiguousarray(masks[part]), np.ascontiguousarray(maps[part])
    print(f"  against the definition of AUPRO on {'all pixels' if whole else f'a crop, {crop[1].size:,} pixels'}")
    plain = {"AUPRO": by_definition(*crop)}
    report_differences("moleflow from it", plain, ours(*crop))
    if anomalib is not None:
        report_differences("anomalib from it", plain, anomalib.measure(AUPRO, anomalib.batch(*crop)))
    tracemalloc.start()
    pixel_metrics(masks, maps)
    print(f"  memory beyond the inputs, at the peak {tracemalloc.get_traced_memory()[1] / 1e6:.0f} MB (moleflow)")
    tracemalloc.stop()


def report_differences(name: str, reference: Values, found: Values) -> None:
    """Print the values of one side, as far as `reference` has them too, and how far they lie from
    it.
    """
    for metric in [metric for metric in found if metric in reference]:
        difference = abs(found[metric] - reference[metric])
        print(f"    {name:28} {metric:7} {found[metric]:.9f}   difference {difference:.1e}")


def main() -> None:
    """Print the comparison for continuous and for tied scores."""
    torch.set_num_threads(1)
    masks, maps = generate(np.random.default_rng(SEED))
    print(f"generated maps: {IMAGES} of {SIDE}x{SIDE}, {maps.size:,} float32 pixels; median of {REPEATS} runs in turns")
    anomalib = load_anomalib()
    print(f"scikit-learn {version('scikit-learn')}", end=", ")
    print(f"anomalib {version('anomalib')}" if anomalib else "anomalib: not installed (pip install anomalib)")
    compare("continuous scores", masks, maps, anomalib)
    compare("rounded to 1/64", masks, np.round(maps * 64) / np.float32(64), anomalib)


if __name__ == "__main__":
    main()
