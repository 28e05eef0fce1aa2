"""Which expert sees an image whose task is unknown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.covariance import ledoit_wolf, shrunk_covariance

from moleflow.settings.config import RouterKnobs

JITTER = 1e-5


@dataclass(frozen=True)
class TaskGaussian:
    """One task's mean-pooled training features as a Gaussian: mean (D,) and precision (D, D)."""

    mean: npt.NDArray[np.float64]
    precision: npt.NDArray[np.float64]

    def distance(self, pooled: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Squared Mahalanobis distances (N,) of pooled features (N, D)."""
        centred = pooled - self.mean
        distances: npt.NDArray[np.float64] = np.einsum("nd,de,ne->n", centred, self.precision, centred, optimize=True)
        return distances


def fit_gaussian(pooled: npt.NDArray[np.float64], config: RouterKnobs) -> TaskGaussian:
    """The Gaussian of a task's mean-pooled features (N, D).

    With fewer images than dimensions the sample covariance is singular and 1e-5 on its diagonal, all that the notes add, makes
    directions that training never saw weigh 1e5 times; shrinkage (Ledoit and Wolf 2004) is the default for that reason.
    """
    mean = pooled.mean(axis=0)
    centred = pooled - mean
    if config.shrinkage == "ledoit_wolf":
        covariance, _ = ledoit_wolf(centred, assume_centered=True)
    else:
        covariance = centred.T @ centred / max(1, len(pooled) - 1)
        if config.shrinkage != "none":
            covariance = shrunk_covariance(covariance, shrinkage=config.shrinkage)
    covariance = covariance + JITTER * np.eye(pooled.shape[1])
    return TaskGaussian(mean, np.linalg.inv(covariance))


def route(pooled: npt.NDArray[np.float64], gaussians: list[TaskGaussian]) -> npt.NDArray[np.int64]:
    """The index of the nearest task's Gaussian for each image: (N,) from pooled features (N, D); ties go to the earlier task."""
    nearest: npt.NDArray[np.int64] = np.argmin(np.stack([g.distance(pooled) for g in gaussians]), axis=0)
    return nearest
