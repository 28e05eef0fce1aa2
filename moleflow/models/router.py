"""The router: the choice of an expert for an image whose task is unknown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moleflow.settings.config import RouterKnobs

JITTER = 1e-5
# Rows and columns of a block in the sums of `_ledoit_wolf_shrinkage`.
BLOCK = 1000


@dataclass(frozen=True)
class TaskGaussian:
    """A Gaussian of one task's mean-pooled training features: mean (D,) and precision (D, D)."""

    mean: npt.NDArray[np.float64]
    precision: npt.NDArray[np.float64]

    def distance(self, pooled: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the squared Mahalanobis distances (N,) of pooled features (N, D)."""
        centred = pooled - self.mean
        distances: npt.NDArray[np.float64] = np.einsum("nd,de,ne->n", centred, self.precision, centred, optimize=True)
        return distances


def fit_gaussian(pooled: npt.NDArray[np.float64], config: RouterKnobs) -> TaskGaussian:
    """Fit a Gaussian to a task's mean-pooled features (N, D), one row per image.

    The covariance S is shrunk towards a multiple of the identity, then 1e-5 is added to its
    diagonal:

        (1 - a) S + a mean(diag(S)) I + 1e-5 I

    `ledoit_wolf` estimates a from the features, with S divided by N. A number is a itself, with S
    divided by N - 1. The notes do not shrink (`none`). With fewer images than dimensions S is
    singular, and directions that training never saw then weigh 1e5 times.
    """
    mean = pooled.mean(axis=0)
    centred = pooled - mean
    if config.shrinkage == "ledoit_wolf":
        covariance = centred.T @ centred / len(pooled)
        share = _ledoit_wolf_shrinkage(centred)
    else:
        covariance = centred.T @ centred / max(1, len(pooled) - 1)
        share = 0.0 if config.shrinkage == "none" else config.shrinkage
    target = np.trace(covariance) / pooled.shape[1]
    covariance = (1.0 - share) * covariance
    covariance.flat[:: pooled.shape[1] + 1] += share * target
    covariance = covariance + JITTER * np.eye(pooled.shape[1])
    return TaskGaussian(mean, np.linalg.inv(covariance))


def _ledoit_wolf_shrinkage(centred: npt.NDArray[np.float64]) -> float:
    """Estimate the share of shrinkage with the least expected squared error, 0 to 1.

    With S = X^T X / N, m = mean(diag(S)) and sums over all entries (Ledoit and Wolf 2004):

        delta = (sum(S^2) - D m^2) / D                        distance of S from m I
        beta  = (sum((X^2)^T X^2) / N - sum(S^2)) / (D N)     variance of S
        share = min(beta, delta) / delta

    scikit-learn's `ledoit_wolf_shrinkage` gives the same digits. Its import takes as long as
    torch's, so the sums are here, block by block in the same order.

    Args:
        centred: X (N, D), with column means of zero.
    """
    count, width = centred.shape
    squares = centred**2
    variances = np.sum(squares, axis=0) / count
    mean = np.sum(variances) / width
    blocks = [slice(start, start + BLOCK) for start in range(0, width, BLOCK)]
    beta_sum = delta_sum = 0.0
    for rows in blocks:
        for columns in blocks:
            beta_sum += np.sum(np.dot(squares.T[rows], squares[:, columns]))
            delta_sum += np.sum(np.dot(centred.T[rows], centred[:, columns]) ** 2)
    delta_sum /= count**2
    beta = 1.0 / (width * count) * (beta_sum / count - delta_sum)
    delta = (delta_sum - 2.0 * mean * variances.sum() + width * mean**2) / width
    beta = min(beta, delta)
    return 0.0 if beta == 0 else float(beta / delta)


def route(pooled: npt.NDArray[np.float64], gaussians: list[TaskGaussian]) -> npt.NDArray[np.int64]:
    """Return the index of the nearest Gaussian (N,) for each image, from pooled features (N, D).

    A tie goes to the earlier task.
    """
    nearest: npt.NDArray[np.int64] = np.argmin(np.stack([g.distance(pooled) for g in gaussians]), axis=0)
    return nearest
