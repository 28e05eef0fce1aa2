"""Scores and metrics of every seen task, routed and with the oracle's task id."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter

from moleflow.config import Scoring, TrialConfig
from moleflow.data.mvtec import Sample, load_mask
from moleflow.errors import Diverged
from moleflow.losses import log_density_constant
from moleflow.metrics.ranking import ranking
from moleflow.metrics.regions import pixel_metrics
from moleflow.models.detector import Detector
from moleflow.models.router import TaskGaussian, fit_gaussian, route

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


@dataclass
class _Task:
    samples: tuple[Sample, ...]
    has_masks: bool
    load: Callable[[], torch.Tensor]
    pooled: npt.NDArray[np.float64]
    patch_scores: dict[tuple[int, int], Floats]
    latent_norms: dict[tuple[int, int], float]


class Evaluation:
    """Everything that is known about the seen tasks' test images.

    An expert never changes once it is trained, so each (image, expert) pair passes through the flow once, however often the R matrix
    asks for it, and image by image, so that no other image can change its digits.
    """

    def __init__(self, config: TrialConfig, detector: Detector) -> None:
        self.config = config
        self.detector = detector
        self._tasks: list[_Task] = []
        self._gaussians: list[TaskGaussian] = []
        self._known: dict[tuple[int, bytes], TaskScores] = {}

    def add_task(
        self, training: torch.Tensor, samples: tuple[Sample, ...], has_masks: bool, load: Callable[[], torch.Tensor]
    ) -> None:
        """Add the next task.

        Args:
            training: its training features (N, H, W, D), from which its router Gaussian is fitted.
            samples: its test images.
            has_masks: whether pixel metrics are defined.
            load: gives their features (M, H, W, D), in order.
        """
        self._gaussians.append(fit_gaussian(_pooled(training), self.config.router))
        self._tasks.append(_Task(samples, has_masks, load, _pooled(load()), {}, {}))

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
        masks = np.stack([load_mask(s, self.config.data.mask_size) for s in entry.samples]) if entry.has_masks else None
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

    def _fill(self, task: int, wanted: set[tuple[int, int]]) -> None:
        entry = self._tasks[task]
        missing = sorted(wanted - entry.patch_scores.keys())
        if missing:
            features = entry.load()
            for n, expert in missing:
                found, entry.latent_norms[n, expert] = self._patch_scores(features[n], expert)
                entry.patch_scores[n, expert] = found
                if not np.isfinite(found).all():
                    raise Diverged(
                        f"{entry.samples[n].name}: a patch score is not finite: the flow left the finite numbers, expert of task {expert}"
                    )

    @torch.no_grad()
    def _patch_scores(self, features: torch.Tensor, expert: int) -> tuple[Floats, float]:
        """-log p of each patch (H, W), in nats, of one image's features (H, W, D), and the mean of ||z||^2 / D over its patches."""
        z, log_det = self.detector(features[None].to(self.detector.position.device), expert)
        if self.config.scoring.log_det == "image_mean":
            log_det = log_det.mean(dim=(1, 2), keepdim=True).expand_as(log_det)
        squares = z.square().sum(dim=-1)
        scores = 0.5 * squares - log_det + log_density_constant(z.shape[-1])
        return np.asarray(scores[0].cpu().numpy(), dtype=np.float32), squares.double().mean().item() / z.shape[-1]

    def _measure(
        self, patch_maps: Floats, labels: npt.NDArray[np.int64], masks: npt.NDArray[np.bool_] | None
    ) -> tuple[npt.NDArray[np.float64], ClassMetrics, str]:
        scores = image_scores(patch_maps, self.config.scoring)
        image = ranking(labels, scores)
        total = hashlib.sha256(scores.tobytes())
        pixel = None
        if masks is not None:
            maps = anomaly_maps(patch_maps, self.config.data.mask_size, self.config.scoring.smoothing)
            total.update(maps.tobytes())
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


def image_scores(patch_maps: Floats, scoring: Scoring) -> npt.NDArray[np.float64]:
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
    """Pixel maps (N, size, size) of patch scores (N, H, W): bilinear (corners aligned), then a Gaussian of `sigma` pixels."""
    large = torch.nn.functional.interpolate(
        torch.from_numpy(patch_maps)[:, None], size=(size, size), mode="bilinear", align_corners=True
    )
    maps: Floats = large[:, 0].numpy()
    return maps if sigma == 0 else np.stack([gaussian_filter(one, sigma) for one in maps])


def _pooled(features: torch.Tensor) -> npt.NDArray[np.float64]:
    return np.asarray(features.double().mean(dim=(1, 2)).numpy())
