"""Scores and metrics of every seen class, routed and with the true task as oracle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter1d

from moleflow.data.loading import load_mask
from moleflow.errors import Diverged
from moleflow.metrics.ranking import ranking
from moleflow.metrics.regions import PixelMetrics, pixel_metrics
from moleflow.models.detector import Detector
from moleflow.models.router import TaskGaussian, fit_gaussian, route
from moleflow.settings.config import ScoringKnobs, TrialConfig
from moleflow.training.kept_maps import SIDE, KeptMap, choose_maps, to_8bit
from moleflow.training.losses import log_density_constant

if TYPE_CHECKING:
    from moleflow.cache.patch_scores import PatchScores, Terms
    from moleflow.data.samples import Sample

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class, in [0, 1]; None where undefined (images of one label, no masks)."""

    image_auroc: float | None
    image_ap: float | None
    image_f1_max: float | None
    pixel_auroc: float | None
    pixel_ap: float | None
    pixel_f1_max: float | None
    aupro: float | None


METRIC_NAMES = tuple(field.name for field in fields(ClassMetrics))


@dataclass(frozen=True)
class EvaluatedClass:
    """One class evaluated after some task, by the routed experts and by its own (the oracle).

    Attributes:
        task: position of the class's task in the sequence.
        routes: task whose expert scores each image (N,).
        scores: image scores (N,) by the routed experts.
        oracle_scores: image scores (N,) by the expert of the class's task.
        metrics: metrics of the routed scores.
        oracle_metrics: metrics of the oracle's scores.
        normal_latent_norm: mean of ||z||^2 / D over the patches of the normal images, by the
            expert of its task: 1 where z is standard normal. None without normal images, and for
            a memory bank.
        digest: digest of the routed scores and maps.
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
        """Share of images that are routed to their own task's expert."""
        return float(np.mean(self.routes == self.task))


@dataclass(frozen=True)
class _Class:
    """Test images of a class, its task, and the scores of (image, expert) pairs so far."""

    name: str
    task: int
    samples: tuple[Sample, ...]
    mask_bits: npt.NDArray[np.uint8] | None
    load: Callable[[], torch.Tensor]
    pooled: npt.NDArray[np.float64]
    patch_scores: dict[tuple[int, int], Floats]
    latent_norms: dict[tuple[int, int], float | None]


class PatchScorer(Protocol):
    """Scores the patches of an image by the expert of a task."""

    def terms(self, features: torch.Tensor, expert: int) -> Terms:
        """Return what is cached (C, H, W), of one image's features (H, W, D)."""

    def scores(self, terms: Terms) -> tuple[Floats, float | None]:
        """Return the patch scores (H, W), and the patches' mean of ||z||^2 / D if there is a z."""


class FlowScorer:
    """Scores patches by their negative log-likelihood under the flow."""

    def __init__(self, config: ScoringKnobs, detector: Detector) -> None:
        self._config = config
        self._detector = detector

    @torch.no_grad()
    def terms(self, features: torch.Tensor, expert: int) -> Terms:
        """Return ||z||^2 and log_det of each patch (2, H, W), of one image's features (H, W, D)."""
        z, log_det = self._detector(features[None].to(self._detector.position.device), expert)
        return np.asarray(torch.cat([z.square().sum(dim=-1), log_det]).cpu().numpy(), dtype=np.float32)

    def scores(self, terms: Terms) -> tuple[Floats, float]:
        """Return -log p of each patch (H, W) in nats, and the patches' mean of ||z||^2 / D."""
        squares, log_det = torch.from_numpy(terms)
        if self._config.log_det == "image_mean":
            log_det = log_det.mean().expand_as(log_det)
        width = self._detector.width
        scores = 0.5 * squares - log_det + log_density_constant(width)
        return np.asarray(scores.numpy(), dtype=np.float32), squares.double().mean().item() / width


class Evaluation:
    """Scores of the seen classes' test images. Classes count from 0 in the order of learning.

    A trained expert never changes, so each (image, expert) pair passes through the model at most
    once, however often the R matrix needs it. Stored pairs do not pass at all. Images pass one by
    one, so that no other image can change the digits of a score.
    """

    def __init__(self, config: TrialConfig, scorer: PatchScorer) -> None:
        self.config = config
        self._scorer = scorer
        self._classes: list[_Class] = []
        self._gaussians: list[TaskGaussian] = []
        self._maps: list[PatchScores | None] = []
        # By class and routes: as long as no image changes its route, no score changes.
        self._evaluated: dict[tuple[int, bytes], EvaluatedClass] = {}

    def add_task(self, training: torch.Tensor, maps: PatchScores | None = None) -> None:
        """Add the next task, whose classes `add_class` adds then.

        Args:
            training: training features (N, H, W, D) of all its classes, for the router's Gaussian.
            maps: store of this expert's patch scores; None stores none.
        """
        self._gaussians.append(fit_gaussian(_pooled(training), self.config.router))
        self._maps.append(maps)

    def add_class(
        self, name: str, samples: tuple[Sample, ...], has_masks: bool, load: Callable[[], torch.Tensor]
    ) -> None:
        """Add a class to the task that was added last.

        Args:
            name: the class.
            samples: test images.
            has_masks: true if pixel metrics are defined.
            load: returns the test images' features (M, H, W, D), in order.

        Raises:
            InvalidInput: a mask cannot be read.
        """
        pooled = _pooled(load())
        size = self.config.data.mask_size
        # Every row of R needs the masks again: packed to bits, those of all classes fit in memory.
        bits = np.stack([np.packbits(load_mask(sample, size)) for sample in samples]) if has_masks else None
        self._classes.append(_Class(name, len(self._gaussians) - 1, samples, bits, load, pooled, {}, {}))

    def evaluate(self, number: int) -> EvaluatedClass:
        """Evaluate class `number` with the experts and Gaussians of all tasks added so far.

        Raises:
            Diverged: a patch score is not finite.
        """
        entry = self._classes[number]
        task = entry.task
        routes = route(entry.pooled, self._gaussians)
        cached = self._evaluated.get((number, routes.tobytes()))
        if cached is not None:
            return cached
        self._score_pairs(entry, {(n, int(e)) for n, e in enumerate(routes)} | {(n, task) for n in range(len(routes))})
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
        norms = [norm for norm in normal if norm is not None]
        norm = float(np.mean(norms)) if norms else None
        evaluated = EvaluatedClass(task, routes, scores, oracle_scores, metrics, oracle_metrics, norm, scores_digest)
        self._evaluated[number, routes.tobytes()] = evaluated
        return evaluated

    def samples(self, number: int) -> tuple[Sample, ...]:
        """Return the images that `evaluate(number)` scores, in the order of its scores."""
        return self._classes[number].samples

    def gallery(self, number: int, split: str) -> list[KeptMap]:
        """Return small anomaly maps of a few images of class `number`.

        They are smoothed as for the pixel metrics: sigma shrinks with the map.

        Raises:
            Diverged: a patch score is not finite.
        """
        entry, evaluated, data = self._classes[number], self.evaluate(number), self.config.data
        choices = choose_maps(entry.samples, evaluated.scores)
        if not choices:
            return []
        positions = [choice.position for choice in choices]
        patches = np.stack([entry.patch_scores[n, int(evaluated.routes[n])] for n in positions])
        greys, low, high = to_8bit(anomaly_maps(patches, SIDE, self.config.scoring.smoothing * SIDE / data.mask_size))
        scores = evaluated.scores.tolist()
        return [
            KeptMap(
                split,
                entry.task,
                entry.name,
                entry.samples[n],
                scores[n],
                choice.why,
                choice.rank,
                grey.tobytes(),
                low,
                high,
            )
            for n, choice, grey in zip(positions, choices, greys, strict=True)
        ]

    def vanished_masks(self, number: int) -> set[str]:
        """Return the names of the class's defective images whose resized mask has no pixel left.

        They keep their label.
        """
        entry = self._classes[number]
        if entry.mask_bits is None:
            return set()
        masks = zip(entry.samples, entry.mask_bits, strict=True)
        return {sample.name for sample, bits in masks if sample.mask is not None and not bits.any()}

    def _score_pairs(self, entry: _Class, pairs: set[tuple[int, int]]) -> None:
        """Fill in the patch scores of (image, expert) pairs of a class, and store what is new."""
        missing = sorted(pairs - entry.patch_scores.keys())
        terms = self._stored_terms(entry, missing)
        passing = [pair for pair in missing if pair not in terms]
        if passing:
            features = entry.load()
            terms |= {(n, expert): self._scorer.terms(features[n], expert) for n, expert in passing}
        for n, expert in missing:
            scores, entry.latent_norms[n, expert] = self._scorer.scores(terms[n, expert])
            entry.patch_scores[n, expert] = scores
            if not np.isfinite(scores).all():
                raise Diverged(
                    f"{entry.samples[n].name}: a patch score of the expert of task {expert} is not finite: the flow diverged"
                )
        for expert in sorted({expert for _, expert in passing}):
            maps = self._maps[expert]
            if maps is not None:
                maps.write({entry.samples[n].digest: terms[n, e] for n, e in passing if e == expert})

    def _stored_terms(self, entry: _Class, pairs: list[tuple[int, int]]) -> dict[tuple[int, int], Terms]:
        """Return the stored terms of those (image, expert) pairs that have some."""
        terms: dict[tuple[int, int], Terms] = {}
        for expert in sorted({expert for _, expert in pairs}):
            maps = self._maps[expert]
            digests = {n: entry.samples[n].digest for n, e in pairs if e == expert}
            stored = maps.read(digests.values()) if maps is not None else {}
            terms |= {(n, expert): stored[name] for n, name in digests.items() if name in stored}
        return terms

    def _measure(
        self, patch_maps: Floats, labels: npt.NDArray[np.int64], masks: npt.NDArray[np.bool_] | None
    ) -> tuple[npt.NDArray[np.float64], ClassMetrics, str]:
        scores = image_scores(patch_maps, self.config.scoring)
        image = ranking(labels, scores)
        digest = hashlib.sha256(scores.tobytes())
        pixel = PixelMetrics(None, None, None, None)
        if masks is not None:
            maps = anomaly_maps(patch_maps, self.config.data.mask_size, self.config.scoring.smoothing)
            digest.update(maps.data)
            pixel = pixel_metrics(masks, maps)
        return scores, ClassMetrics(*astuple(image), *astuple(pixel)), digest.hexdigest()


def image_scores(patch_maps: Floats, scoring: ScoringKnobs) -> npt.NDArray[np.float64]:
    """Return one score per image (N,) from patch scores (N, H, W).

    It is their maximum, the mean of the k largest, or their quantile (linear between neighbours).
    """
    flat = patch_maps.reshape(len(patch_maps), -1).astype(np.float64)
    if scoring.image_score == "max":
        scores: npt.NDArray[np.float64] = flat.max(axis=1)
    elif scoring.image_score == "top_k":
        scores = np.sort(flat, axis=1)[:, -scoring.top_k :].mean(axis=1)
    else:
        scores = np.quantile(flat, scoring.quantile, axis=1)
    return scores


def anomaly_maps(patch_maps: Floats, size: int, sigma: float) -> Floats:
    """Return pixel maps (N, size, size) of patch scores (N, H, W).

    Maps are enlarged bilinearly with aligned corners, then smoothed by a Gaussian.

    Args:
        patch_maps: (N, H, W).
        size: pixels per side.
        sigma: standard deviation of the Gaussian in pixels of the map; 0 smooths nothing.
    """
    # Both steps are linear and act on rows and columns apart, so a map is R P C^T. Each image is
    # multiplied on its own: a product of all would round by the number of images.
    rows, columns = (_enlarging(count, size, sigma) for count in patch_maps.shape[1:])
    maps = np.empty((len(patch_maps), size, size), dtype=np.float32)
    for large, small in zip(maps, patch_maps.astype(np.float64), strict=True):
        large[:] = rows @ small @ columns.T
    return maps


def _enlarging(count: int, size: int, sigma: float) -> npt.NDArray[np.float64]:
    """Return the matrix (size, count) that interpolates `count` values at `size` positions.

    It smooths them too, with the signal mirrored at both ends.
    """
    positions = np.linspace(0, count - 1, size)
    bilinear = np.stack([np.interp(positions, np.arange(count), one) for one in np.eye(count)], axis=1)
    smooth: npt.NDArray[np.float64] = bilinear if sigma == 0 else gaussian_filter1d(bilinear, sigma, axis=0)
    return smooth


def _unpacked(bits: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.bool_]:
    """Return masks (N, size, size) from their bits."""
    return np.unpackbits(bits, axis=1, count=size * size).reshape(-1, size, size).view(np.bool_)


def _pooled(features: torch.Tensor) -> npt.NDArray[np.float64]:
    """Return the mean over the patches of each image (N, D)."""
    # Image by image: copying all of them to double precision would take longer than summing.
    return np.stack([image.double().mean(dim=(0, 1)).numpy() for image in features])
