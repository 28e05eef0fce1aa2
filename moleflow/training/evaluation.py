"""Scores and metrics of every seen task, routed and with the oracle's task id."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter1d

from moleflow.data.loading import load_mask
from moleflow.errors import Diverged
from moleflow.metrics.ranking import ranking
from moleflow.metrics.regions import pixel_metrics
from moleflow.models.detector import Detector
from moleflow.models.router import TaskGaussian, fit_gaussian, route
from moleflow.settings.config import ScoringKnobs, TrialConfig
from moleflow.training.kept_maps import SIDE, KeptMap, choose_maps, to_8bit
from moleflow.training.losses import log_density_constant

if TYPE_CHECKING:
    from moleflow.cache.patch_scores import PatchScores, Terms
    from moleflow.data.mvtec import Sample

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class; None where undefined (one class only, or no masks)."""

    image_auroc: float | None
    image_ap: float | None
    image_f1_max: float | None
    pixel_auroc: float | None
    pixel_ap: float | None
    pixel_f1_max: float | None
    aupro: float | None


METRIC_NAMES = tuple(field.name for field in fields(ClassMetrics))


@dataclass(frozen=True)
class TaskScores:
    """One class evaluated after some task: routes, image scores and metrics, routed and by the oracle.

    `normal_latent_norm` is the mean of ||z||^2 / D over the patches of its normal images through its own expert: 1 where z is
    standard normal, whatever the width D; smaller is more compact. None without normal images.
    """

    task: int
    routes: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    oracle_scores: npt.NDArray[np.float64]
    metrics: ClassMetrics
    oracle_metrics: ClassMetrics
    normal_latent_norm: float | None
    digest: str

    @property
    def routing_accuracy(self) -> float:
        """Share of images sent to their own task's expert."""
        return float(np.mean(self.routes == self.task))


@dataclass(frozen=True)
class _Task:
    samples: tuple[Sample, ...]
    mask_bits: npt.NDArray[np.uint8] | None
    load: Callable[[], torch.Tensor]
    maps: PatchScores | None
    pooled: npt.NDArray[np.float64]
    patch_scores: dict[tuple[int, int], Floats]
    latent_norms: dict[tuple[int, int], float]


class Evaluation:
    """Everything that is known about the seen tasks' test images.

    An expert never changes once it is trained, so each (image, expert) pair passes through the flow once, however often the R matrix
    asks for it, and image by image, so that no other image can change its digits. What is stored of a pair does not pass at all.
    """

    def __init__(self, config: TrialConfig, detector: Detector) -> None:
        self.config = config
        self.detector = detector
        self._tasks: list[_Task] = []
        self._gaussians: list[TaskGaussian] = []
        self._known: dict[tuple[int, bytes], TaskScores] = {}

    def add_task(
        self,
        training: torch.Tensor,
        samples: tuple[Sample, ...],
        has_masks: bool,
        load: Callable[[], torch.Tensor],
        maps: PatchScores | None = None,
    ) -> None:
        """Add the next task.

        Args:
            training: its training features (N, H, W, D), from which its router Gaussian is fitted.
            samples: its test images.
            has_masks: whether pixel metrics are defined.
            load: gives their features (M, H, W, D), in order.
            maps: where what its expert makes of images is kept; None = nowhere.

        Raises:
            InvalidInput: a mask cannot be read.
        """
        self._gaussians.append(fit_gaussian(_pooled(training), self.config.router))
        pooled = _pooled(load())
        size = self.config.data.mask_size
        # Bits, because the masks of all tasks stay: read once, they may be asked for in every row of R.
        bits = np.stack([np.packbits(load_mask(sample, size)) for sample in samples]) if has_masks else None
        self._tasks.append(_Task(samples, bits, load, maps, pooled, {}, {}))

    def evaluate(self, task: int) -> TaskScores:
        """The class of `task` as it scores now, with the experts and Gaussians of all tasks added so far.

        Raises:
            Diverged: a patch score is not finite; the message names the image and the expert.
        """
        entry = self._tasks[task]
        routes = route(entry.pooled, self._gaussians)
        known = self._known.get((task, routes.tobytes()))
        if known is not None:
            return known
        self._fill(task, {(n, int(e)) for n, e in enumerate(routes)} | {(n, task) for n in range(len(routes))})
        masks = None if entry.mask_bits is None else _unpacked(entry.mask_bits, self.config.data.mask_size)
        labels = np.array([s.label for s in entry.samples], dtype=np.int64)
        routed_maps = np.stack([entry.patch_scores[n, int(e)] for n, e in enumerate(routes)])
        oracle_maps = np.stack([entry.patch_scores[n, task] for n in range(len(routes))])
        scores, metrics, scores_digest = self._measure(routed_maps, labels, masks)
        if np.array_equal(routes, np.full_like(routes, task)):
            oracle_scores, oracle_metrics = scores, metrics
        else:
            oracle_scores, oracle_metrics, _ = self._measure(oracle_maps, labels, masks)
        normal = [entry.latent_norms[n, task] for n in np.flatnonzero(labels == 0).tolist()]
        norm = float(np.mean(normal)) if normal else None
        found = TaskScores(task, routes, scores, oracle_scores, metrics, oracle_metrics, norm, scores_digest)
        self._known[task, routes.tobytes()] = found
        return found

    def samples(self, task: int) -> tuple[Sample, ...]:
        """The images that `evaluate(task)` scores, in the order of its scores."""
        return self._tasks[task].samples

    def gallery(self, task: int, split: str) -> list[KeptMap]:
        """Small anomaly maps of a few images of the class of `task`, as it scores now; smoothed as for the pixel metrics.

        Raises:
            Diverged: a patch score is not finite.
        """
        entry, found, data = self._tasks[task], self.evaluate(task), self.config.data
        choices = choose_maps(entry.samples, found.scores)
        if not choices:
            return []
        patches = np.stack([entry.patch_scores[one.position, int(found.routes[one.position])] for one in choices])
        small, low, high = to_8bit(anomaly_maps(patches, SIDE, self.config.scoring.smoothing * SIDE / data.mask_size))
        kept = zip((one.position for one in choices), choices, small, strict=True)
        return [
            KeptMap(split, task, entry.samples[n], float(found.scores[n]), one.why, one.rank, grey.tobytes(), low, high)
            for n, one, grey in kept
        ]

    def vanished_masks(self, task: int) -> set[str]:
        """Names of its defective images whose mask has no pixel left at the size of the masks; they keep their label."""
        entry = self._tasks[task]
        if entry.mask_bits is None:
            return set()
        masks = zip(entry.samples, entry.mask_bits, strict=True)
        return {sample.name for sample, bits in masks if sample.mask is not None and not bits.any()}

    def _fill(self, task: int, wanted: set[tuple[int, int]]) -> None:
        entry = self._tasks[task]
        missing = sorted(wanted - entry.patch_scores.keys())
        terms = self._stored(entry, missing)
        passing = [pair for pair in missing if pair not in terms]
        if passing:
            features = entry.load()
            terms |= {(n, expert): self._pass(features[n], expert) for n, expert in passing}
        for n, expert in missing:
            found, entry.latent_norms[n, expert] = self._patch_scores(terms[n, expert])
            entry.patch_scores[n, expert] = found
            if not np.isfinite(found).all():
                raise Diverged(
                    f"{entry.samples[n].name}: a patch score is not finite: the flow left the finite numbers, expert of task {expert}"
                )
        for expert in sorted({expert for _, expert in passing}):
            maps = self._tasks[expert].maps
            if maps is not None:
                maps.write({entry.samples[n].digest: terms[n, e] for n, e in passing if e == expert})

    def _stored(self, entry: _Task, pairs: list[tuple[int, int]]) -> dict[tuple[int, int], Terms]:
        """What is kept of (image, expert) pairs."""
        found: dict[tuple[int, int], Terms] = {}
        for expert in sorted({expert for _, expert in pairs}):
            maps = self._tasks[expert].maps
            names = {n: entry.samples[n].digest for n, e in pairs if e == expert}
            kept = maps.read(names.values()) if maps is not None else {}
            found |= {(n, expert): kept[name] for n, name in names.items() if name in kept}
        return found

    @torch.no_grad()
    def _pass(self, features: torch.Tensor, expert: int) -> Terms:
        """||z||^2 and log_det of each patch, (2, H, W), of one image's features (H, W, D)."""
        z, log_det = self.detector(features[None].to(self.detector.position.device), expert)
        return np.asarray(torch.cat([z.square().sum(dim=-1), log_det]).cpu().numpy(), dtype=np.float32)

    def _patch_scores(self, terms: Terms) -> tuple[Floats, float]:
        """-log p of each patch (H, W), in nats, and the mean of ||z||^2 / D over the patches, from `_pass`."""
        squares, log_det = torch.from_numpy(terms)
        if self.config.scoring.log_det == "image_mean":
            log_det = log_det.mean().expand_as(log_det)
        width = self.detector.width
        scores = 0.5 * squares - log_det + log_density_constant(width)
        return np.asarray(scores.numpy(), dtype=np.float32), squares.double().mean().item() / width

    def _measure(
        self, patch_maps: Floats, labels: npt.NDArray[np.int64], masks: npt.NDArray[np.bool_] | None
    ) -> tuple[npt.NDArray[np.float64], ClassMetrics, str]:
        scores = image_scores(patch_maps, self.config.scoring)
        image = ranking(labels, scores)
        total = hashlib.sha256(scores.tobytes())
        pixel = None
        if masks is not None:
            maps = anomaly_maps(patch_maps, self.config.data.mask_size, self.config.scoring.smoothing)
            total.update(maps.data)
            pixel = pixel_metrics(masks, maps)
        metrics = ClassMetrics(
            image.auroc,
            image.ap,
            image.f1_max,
            pixel.auroc if pixel else None,
            pixel.ap if pixel else None,
            pixel.f1_max if pixel else None,
            pixel.aupro if pixel else None,
        )
        return scores, metrics, total.hexdigest()


def image_scores(patch_maps: Floats, scoring: ScoringKnobs) -> npt.NDArray[np.float64]:
    """One score an image (N,) from patch scores (N, H, W): their quantile, maximum, or mean of the k largest."""
    flat = patch_maps.reshape(len(patch_maps), -1).astype(np.float64)
    if scoring.image_score == "max":
        scores: npt.NDArray[np.float64] = flat.max(axis=1)
    elif scoring.image_score == "top_k":
        scores = np.sort(flat, axis=1)[:, -scoring.top_k :].mean(axis=1)
    else:
        scores = np.quantile(flat, scoring.quantile, axis=1)
    return scores


def anomaly_maps(patch_maps: Floats, size: int, sigma: float) -> Floats:
    """Pixel maps (N, size, size) of patch scores (N, H, W): bilinear (corners aligned), then a Gaussian of `sigma` pixels.

    Both are linear and act on rows and columns apart, so a map is R P C^T with one matrix each for rows and columns. Each image is
    multiplied on its own, in double precision, and rounded once.
    """
    rows, columns = (_enlarging(count, size, sigma) for count in patch_maps.shape[1:])
    maps = np.empty((len(patch_maps), size, size), dtype=np.float32)
    for large, small in zip(maps, patch_maps.astype(np.float64), strict=True):
        large[:] = rows @ small @ columns.T
    return maps


def _enlarging(count: int, size: int, sigma: float) -> npt.NDArray[np.float64]:
    """The matrix (size, count) that interpolates `count` values at `size` places and smooths them, mirrored at both ends."""
    places = np.linspace(0, count - 1, size)
    bilinear = np.stack([np.interp(places, np.arange(count), one) for one in np.eye(count)], axis=1)
    smooth: npt.NDArray[np.float64] = bilinear if sigma == 0 else gaussian_filter1d(bilinear, sigma, axis=0)
    return smooth


def _unpacked(bits: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.bool_]:
    """Masks (N, size, size) from their bits."""
    return np.unpackbits(bits, axis=1, count=size * size).reshape(-1, size, size).view(np.bool_)


def _pooled(features: torch.Tensor) -> npt.NDArray[np.float64]:
    # Image by image: a copy of all in double precision would take longer to make than to sum up.
    return np.stack([image.double().mean(dim=(0, 1)).numpy() for image in features])
