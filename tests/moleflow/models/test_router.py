"""The router: nearest Gaussian in Mahalanobis distance, sound with fewer images than dimensions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import mahalanobis

from moleflow.models.router import fit_gaussian, route
from moleflow.settings.config import RouterKnobs


def _cloud(centre: float, count: int, width: int, seed: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).normal(centre, 1.0, (count, width))


@pytest.mark.parametrize("shrinkage", ["none", "ledoit_wolf", 0.3])
def test_separate_clouds_are_told_apart(shrinkage: str | float) -> None:
    gaussians = [
        fit_gaussian(_cloud(centre, 100, 6, seed), RouterKnobs(shrinkage=shrinkage))
        for seed, centre in enumerate((0.0, 5.0, -5.0))
    ]
    pooled = np.concatenate([_cloud(centre, 20, 6, 10 + seed) for seed, centre in enumerate((0.0, 5.0, -5.0))])
    assert np.array_equal(route(pooled, gaussians), np.repeat([0, 1, 2], 20))


def test_distance_is_scipys_mahalanobis() -> None:
    cloud = _cloud(1.0, 50, 4, 0)
    gaussian = fit_gaussian(cloud, RouterKnobs(shrinkage="none"))
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
        gaussians = [fit_gaussian(cloud, RouterKnobs(shrinkage=shrinkage)) for cloud in (own, other)]
        shares[shrinkage] = float(np.mean(route(new, gaussians) == 0))
    assert shares["none"] < 0.1
    assert shares["ledoit_wolf"] > 0.95


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(2, 12), min_size=1, max_size=4),
    width=st.integers(1, 6),
    shrinkage=st.sampled_from(["ledoit_wolf", 0.2, 1.0]),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_routes_are_those_of_brute_force_in_any_order_of_tasks(
    counts: list[int], width: int, shrinkage: str | float, seed: int, data: st.DataObject
) -> None:
    clouds = [_cloud(0.7 * task, count, width, seed + task) for task, count in enumerate(counts)]
    gaussians = [fit_gaussian(cloud, RouterKnobs(shrinkage=shrinkage)) for cloud in clouds]
    pooled = _cloud(0.5, 10, width, seed + 50)
    expected = []
    for point in pooled:
        distances = [
            mahalanobis(point, cloud.mean(axis=0), g.precision) for cloud, g in zip(clouds, gaussians, strict=True)
        ]
        expected.append(distances.index(min(distances)))
    assert route(pooled, gaussians).tolist() == expected
    order = data.draw(st.permutations(range(len(counts))))
    turned = route(pooled, [gaussians[task] for task in order])
    assert [order[place] for place in turned] == expected


@settings(max_examples=20, deadline=None)
@given(count=st.integers(2, 12), width=st.integers(1, 6), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_shrinkage_mixes_the_covariance_with_its_mean_variance(count: int, width: int, share: float, seed: int) -> None:
    cloud = _cloud(1.0, count, width, seed)
    sample = np.atleast_2d(np.cov(cloud.T))
    mixed = (1 - share) * sample + share * np.trace(sample) / width * np.eye(width) + 1e-5 * np.eye(width)
    precision = fit_gaussian(cloud, RouterKnobs(shrinkage=share)).precision
    np.testing.assert_allclose(precision @ mixed, np.eye(width), atol=1e-6)


def test_ties_go_to_the_earlier_task() -> None:
    gaussian = fit_gaussian(_cloud(0.0, 20, 3, 0), RouterKnobs())
    assert route(_cloud(0.0, 5, 3, 1), [gaussian] * 3).tolist() == [0] * 5
