"""The router: nearest Gaussian in Mahalanobis distance, sound with fewer images than dimensions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from moleflow.config import Router
from moleflow.models.router import fit_gaussian, route


def _cloud(centre: float, count: int, width: int, seed: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).normal(centre, 1.0, (count, width))


@pytest.mark.parametrize("shrinkage", ["none", "ledoit_wolf", 0.3])
def test_separate_clouds_are_told_apart(shrinkage: str | float) -> None:
    gaussians = [
        fit_gaussian(_cloud(centre, 100, 6, seed), Router(shrinkage=shrinkage))
        for seed, centre in enumerate((0.0, 5.0, -5.0))
    ]
    pooled = np.concatenate([_cloud(centre, 20, 6, 10 + seed) for seed, centre in enumerate((0.0, 5.0, -5.0))])
    assert np.array_equal(route(pooled, gaussians), np.repeat([0, 1, 2], 20))


def test_distance_is_scipys_mahalanobis() -> None:
    cloud = _cloud(1.0, 50, 4, 0)
    gaussian = fit_gaussian(cloud, Router(shrinkage="none"))
    inverse = np.linalg.inv(np.cov(cloud.T) + 1e-5 * np.eye(4))
    point = np.array([[0.3, -1.0, 2.0, 0.0]])
    assert gaussian.distance(point)[0] == pytest.approx(
        mahalanobis(point[0], cloud.mean(axis=0), inverse) ** 2, rel=1e-9
    )


def test_few_images_need_shrinkage() -> None:
    """With 20 images in 60 dimensions the unshrunk Gaussian rejects even its own task's new images; the shrunk one does not."""
    own, other = _cloud(0.0, 20, 60, 0), _cloud(1.0, 200, 60, 1)
    new = _cloud(0.0, 100, 60, 2)
    shares = {}
    for shrinkage in ("none", "ledoit_wolf"):
        gaussians = [fit_gaussian(cloud, Router(shrinkage=shrinkage)) for cloud in (own, other)]
        shares[shrinkage] = float(np.mean(route(new, gaussians) == 0))
    assert shares["none"] < 0.1
    assert shares["ledoit_wolf"] > 0.95
