"""The router: the nearest Gaussian in Mahalanobis distance, also with few images."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import empirical_covariance, ledoit_wolf, ledoit_wolf_shrinkage, shrunk_covariance

from moleflow.models.router import TaskGaussian, _ledoit_wolf_shrinkage, fit_gaussian, route
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


def test_the_distance_is_scipys_squared_mahalanobis() -> None:
    cloud = _cloud(1.0, 50, 4, 0)
    gaussian = fit_gaussian(cloud, RouterKnobs(shrinkage="none"))
    inverse = np.linalg.inv(np.cov(cloud.T) + 1e-5 * np.eye(4))
    point = np.array([[0.3, -1.0, 2.0, 0.0]])
    assert gaussian.distance(point)[0] == pytest.approx(
        mahalanobis(point[0], cloud.mean(axis=0), inverse) ** 2, rel=1e-9
    )


def test_few_images_need_shrinkage() -> None:
    """With 20 images in 60 dimensions, new images of a task miss its unshrunk Gaussian."""
    own, other = _cloud(0.0, 20, 60, 0), _cloud(1.0, 200, 60, 1)
    new = _cloud(0.0, 100, 60, 2)
    shares = {}
    for shrinkage in ("none", "ledoit_wolf"):
        gaussians = [fit_gaussian(cloud, RouterKnobs(shrinkage=shrinkage)) for cloud in (own, other)]
        shares[shrinkage] = float(np.mean(route(new, gaussians) == 0))
    assert shares["none"] < 0.1
    assert shares["ledoit_wolf"] > 0.95


def _reference_precision(cloud: np.ndarray, shrinkage: str | float) -> np.ndarray:
    """The precision by scikit-learn's estimates, with 1e-5 added to the covariance's diagonal."""
    centred = cloud - cloud.mean(axis=0)
    if shrinkage == "ledoit_wolf":
        covariance, _ = ledoit_wolf(centred, assume_centered=True)
    else:
        unbiased = empirical_covariance(centred, assume_centered=True) * len(cloud) / (len(cloud) - 1)
        covariance = shrunk_covariance(unbiased, shrinkage)
    return np.linalg.inv(covariance + 1e-5 * np.eye(cloud.shape[1]))


@pytest.mark.parametrize(
    ("count", "width", "shrinkage"),
    [
        *(
            (*shape, share)
            for shape in [(2, 4), (3, 20), (40, 3), (200, 12)]
            for share in ("ledoit_wolf", 0.0, 0.3, 1.0)
        ),
        (5, 1003, "ledoit_wolf"),  # More columns than a block of the sums.
    ],
)
def test_the_precision_is_that_of_scikit_learn(count: int, width: int, shrinkage: str | float) -> None:
    cloud = _cloud(1.0, count, width, 0) * np.linspace(0.5, 3.0, width)
    precision = fit_gaussian(cloud, RouterKnobs(shrinkage=shrinkage)).precision
    np.testing.assert_allclose(
        precision, _reference_precision(cloud, shrinkage), rtol=1e-9, atol=1e-9 * precision.max()
    )


@pytest.mark.parametrize(("count", "width"), [(1, 4), (3, 20), (40, 3), (5, 999), (5, 1000), (5, 2001)])
def test_the_estimated_share_has_the_digits_of_scikit_learn(count: int, width: int) -> None:
    centred = _cloud(0.0, count, width, 0)
    centred -= centred.mean(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, about a single sample.
        expected = ledoit_wolf_shrinkage(centred, assume_centered=True)
    assert _ledoit_wolf_shrinkage(centred) == expected


def test_ledoit_wolf_by_hand() -> None:
    """Rows +-(1, 0) and +-(0, 3): S = diag(1/2, 9/2), m = 5/2, N = 4, D = 2.

    delta = (1/4 + 81/4 - 2 * 25/4) / 2 = 4; beta = (164/4 - 82/4) / 8 = 41/16, as the sum of
    (X^2)^T X^2 is 2 + 162 = 164. So the share is 41/64 and the diagonal 1/2 + 2 * 41/64 = 57/32
    and 9/2 - 2 * 41/64 = 103/32.
    """
    cloud = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
    precision = fit_gaussian(cloud, RouterKnobs()).precision
    np.testing.assert_allclose(np.linalg.inv(precision), np.diag([57 / 32 + 1e-5, 103 / 32 + 1e-5]), atol=1e-12)


@pytest.mark.parametrize("shrinkage", ["none", "ledoit_wolf", 0.5])
def test_a_single_image_has_no_covariance(shrinkage: str | float) -> None:
    gaussian = fit_gaussian(np.array([[1.0, 2.0, 3.0]]), RouterKnobs(shrinkage=shrinkage))
    np.testing.assert_allclose(gaussian.precision, 1e5 * np.eye(3))
    assert gaussian.mean.tolist() == [1.0, 2.0, 3.0]


def test_without_shrinkage_the_diagonal_gets_its_jitter_only() -> None:
    """Two images at (0, 0) and (2, 0): variance 2 in the first direction, 0 in the second."""
    gaussian = fit_gaussian(np.array([[0.0, 0.0], [2.0, 0.0]]), RouterKnobs(shrinkage="none"))
    np.testing.assert_allclose(gaussian.precision, np.diag([1 / 2.00001, 1e5]), rtol=1e-9)
    assert gaussian.mean.tolist() == [1.0, 0.0]


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(2, 12), min_size=1, max_size=4),
    width=st.integers(2, 6),
    shrinkage=st.sampled_from(["ledoit_wolf", 0.2, 1.0]),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_routes_lead_to_the_nearest_task_in_any_order_of_tasks(
    counts: list[int], width: int, shrinkage: str | float, seed: int, data: st.DataObject
) -> None:
    clouds = [_cloud(0.7 * task, count, width, seed + task) for task, count in enumerate(counts)]
    gaussians = [fit_gaussian(cloud, RouterKnobs(shrinkage=shrinkage)) for cloud in clouds]
    pooled = _cloud(0.5, 10, width, seed + 50)
    routes = route(pooled, gaussians).tolist()
    for point, chosen in zip(pooled, routes, strict=True):
        distances = [mahalanobis(point, cloud.mean(axis=0), _reference_precision(cloud, shrinkage)) for cloud in clouds]
        assert distances[chosen] <= min(distances) * (1 + 1e-6)
    order = data.draw(st.permutations(range(len(counts))))
    permuted = route(pooled, [gaussians[task] for task in order])
    assert [order[place] for place in permuted] == routes


def test_ties_go_to_the_earlier_task() -> None:
    gaussian = fit_gaussian(_cloud(0.0, 20, 3, 0), RouterKnobs())
    assert route(_cloud(0.0, 5, 3, 1), [gaussian] * 3).tolist() == [0] * 5


def test_the_distance_weighs_each_direction_by_its_precision() -> None:
    """(1, 2) from the origin with precision diag(4, 1/2): 4 + 2 = 6."""
    gaussian = TaskGaussian(np.zeros(2), np.diag([4.0, 0.5]))
    assert gaussian.distance(np.array([[1.0, 2.0]])).tolist() == [6.0]
