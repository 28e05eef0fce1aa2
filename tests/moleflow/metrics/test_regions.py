"""AUPRO against its definition, threshold by threshold, and the other pixel metrics."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moleflow.metrics.ranking import ranking
from moleflow.metrics.regions import PixelMetrics, pixel_metrics

CLOSE = 1e-12
Masks = npt.NDArray[np.bool_]
Maps = npt.NDArray[np.floating]


def aupro(masks: Masks, maps: Maps, limit: float = 0.3) -> float | None:
    return pixel_metrics(masks, maps, limit).aupro


def regions_of(masks: Masks) -> list[list[tuple[int, int, int]]]:
    """Regions as lists of pixels, by flood fill over the 8 neighbours."""
    left = {(int(image), int(row), int(column)) for image, row, column in np.argwhere(masks)}
    found = []
    while left:
        open_pixels, region = [left.pop()], []
        while open_pixels:
            image, row, column = pixel = open_pixels.pop()
            region.append(pixel)
            around = {(image, row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= around
            open_pixels.extend(around)
        found.append(region)
    return found


def by_definition(masks: Masks, maps: Maps, limit: float) -> float | None:
    """AUPRO from the thresholded maps themselves, threshold by threshold."""
    regions, normals = regions_of(masks), int((~masks).sum())
    if not regions or normals == 0:
        return None
    curve = [(0.0, 0.0)]
    for threshold in sorted({float(score) for score in maps.ravel()}, reverse=True):
        above = maps >= threshold
        pro = sum(sum(bool(above[pixel]) for pixel in region) / len(region) for region in regions) / len(regions)
        curve.append((int((above & ~masks).sum()) / normals, pro))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 < limit and x1 > x0:
            end = min(x1, limit)
            area += (end - x0) * (y0 + y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    return area / limit


def assert_by_definition(masks: Masks, maps: Maps, limit: float) -> None:
    expected, found = by_definition(masks, maps, limit), aupro(masks, maps, limit)
    if expected is None:
        assert found is None
    else:
        assert found == pytest.approx(expected, abs=CLOSE)
        assert found is not None and 0.0 <= found <= 1.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("step", [None, 0.25])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_equals_the_definition(dtype: type, step: float | None, limit: float) -> None:
    rng = np.random.default_rng(2)
    masks = rng.random((4, 12, 9)) < 0.15
    masks[0] = False  # A normal image.
    masks[1, 2:7, 3:8] = True
    maps = rng.standard_normal(masks.shape) + masks
    if step is not None:
        maps = np.round(maps / step) * step
    assert_by_definition(masks, maps.astype(dtype), limit)


shapes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))


@st.composite
def small(draw: st.DrawFn) -> tuple[Masks, Maps]:
    """A few small masks, often touching corner to corner, and maps of few distinct scores."""
    shape = draw(shapes)
    masks = draw(hnp.arrays(np.bool_, shape))
    return masks, draw(hnp.arrays(np.int64, shape, elements=st.integers(-4, 4))).astype(np.float32)


@settings(deadline=None, max_examples=120)
@given(small(), st.sampled_from([0.01, 0.3, 0.5, 1.0]))
def test_any_small_input_equals_the_definition(case: tuple[Masks, Maps], limit: float) -> None:
    assert_by_definition(*case, limit)


@st.composite
def extreme(draw: st.DrawFn) -> tuple[Masks, Maps]:
    """Single-pixel regions, images anomalous all over, and neighbouring float32 scores."""
    shape = draw(shapes)
    masks = np.zeros(shape, dtype=np.bool_)
    masks[:, ::2, ::2] = draw(hnp.arrays(np.bool_, masks[:, ::2, ::2].shape))
    masks[draw(st.lists(st.integers(0, shape[0] - 1), max_size=2))] = True
    steps = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 3)))
    return masks, (np.float32(-600.0).view(np.int32) + steps).astype(np.int32).view(np.float32)


@settings(deadline=None, max_examples=120)
@given(extreme(), st.sampled_from([0.01, 0.3, 1.0]))
def test_single_pixels_and_images_anomalous_all_over_equal_the_definition(
    case: tuple[Masks, Maps], limit: float
) -> None:
    assert_by_definition(*case, limit)


@settings(deadline=None)
@given(small())
def test_only_the_order_of_the_scores_matters(case: tuple[Masks, Maps]) -> None:
    masks, maps = case
    assert pixel_metrics(masks, 3 * maps - 600) == pixel_metrics(masks, maps)
    assert pixel_metrics(masks, np.exp(maps.astype(np.float64))) == pixel_metrics(masks, maps)


@settings(deadline=None)
@given(small())
def test_the_other_pixel_metrics_are_those_of_all_pixels_in_one_list(case: tuple[Masks, Maps]) -> None:
    masks, maps = case
    alone = ranking(masks.ravel(), maps.ravel())
    pixel = pixel_metrics(masks, maps)
    assert (pixel.auroc, pixel.ap, pixel.f1_max) == (alone.auroc, alone.ap, alone.f1_max)


def test_a_perfect_map_scores_one_and_its_negative_zero() -> None:
    masks = np.zeros((2, 8, 8), dtype=bool)
    masks[0, 1:4, 1:4] = masks[0, 5:7, 5:8] = True
    maps = masks.astype(np.float32)
    assert pixel_metrics(masks, maps) == PixelMetrics(auroc=1.0, ap=1.0, f1_max=1.0, aupro=1.0)
    assert aupro(masks, -maps) == 0.0


@pytest.mark.parametrize("limit", [0.1, 0.3, 1.0])
def test_a_constant_map_gives_the_diagonal(limit: float) -> None:
    masks = np.zeros((1, 5, 5), dtype=bool)
    masks[0, 1:3, 1:3] = True
    assert aupro(masks, np.zeros((1, 5, 5)), limit) == pytest.approx(limit / 2, abs=CLOSE)


def test_every_region_has_the_same_weight_at_any_size() -> None:
    masks = np.zeros((1, 6, 20), dtype=bool)
    masks[0, 0:5, 0:6] = True  # 30 pixels, found
    masks[0, 5, 19] = True  # one pixel, scored below every normal pixel
    maps = np.zeros(masks.shape)
    maps[0, 0:5, 0:6], maps[0, 5, 19] = 1.0, -1.0
    assert aupro(masks, maps) == pytest.approx(0.5, abs=CLOSE)


def test_corners_join_pixels_and_images_do_not() -> None:
    """One region joined by a corner, a third found; then two images, one of two regions found."""
    masks = np.zeros((1, 4, 4), dtype=bool)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[0, 1, 2] = True
    maps = np.zeros(masks.shape)
    maps[0, 0, 0], maps[0, 1, 1:3] = 1.0, -1.0
    assert aupro(masks, maps) == pytest.approx(1 / 3, abs=CLOSE)

    masks, maps = np.zeros((2, 4, 4), dtype=bool), np.zeros((2, 4, 4))
    masks[0, 0, 0] = masks[1, 0, 0:2] = True
    maps[0, 0, 0], maps[1, 0, 0:2] = 1.0, -1.0
    assert aupro(masks, maps) == pytest.approx(1 / 2, abs=CLOSE)


def test_an_image_anomalous_all_over_is_one_region_and_gives_no_normal_pixel() -> None:
    """Its region is found at FPR 0.2; the other image's one pixel only after all normal ones."""
    masks = np.zeros((2, 1, 6), dtype=bool)
    masks[0] = masks[1, 0, 0] = True
    maps = np.array([[[4.0] * 6], [[0.0, 9.0, 3.0, 2.0, 1.0, 0.5]]])
    # FPR 0.2 at score 9 with PRO 0, then PRO 1/2 on from FPR 0.2.
    assert aupro(masks, maps, 0.6) == pytest.approx((0.4 * 0.5) / 0.6, abs=CLOSE)
    assert_by_definition(masks, maps, 0.6)


def test_undefined_is_none() -> None:
    maps = np.arange(8.0).reshape(2, 2, 2)
    nothing, everything = np.zeros((2, 2, 2), dtype=bool), np.ones((2, 2, 2), dtype=bool)
    assert pixel_metrics(nothing, maps) == PixelMetrics(auroc=None, ap=None, f1_max=None, aupro=None)
    assert pixel_metrics(everything, maps) == PixelMetrics(auroc=None, ap=None, f1_max=None, aupro=None)
    assert aupro(np.zeros((0, 4, 4), dtype=bool), np.zeros((0, 4, 4))) is None


def test_many_regions_of_odd_sizes_stay_within_one() -> None:
    masks = np.zeros((3, 60, 60), dtype=bool)
    for i, size in enumerate((1, 3, 7, 11, 13)):
        masks[:, 12 * i : 12 * i + size, 2 * i : 2 * i + 7] = True
    maps = masks + 0.1 * np.random.default_rng(3).random(masks.shape)
    assert aupro(masks, maps) == 1.0


MASKS, MAPS = np.array([[[True, False]]]), np.array([[[1.0, 0.0]]])


@pytest.mark.parametrize(
    ("masks", "maps", "message"),
    [
        (MASKS, np.array([[[1.0, np.nan]]]), "1 of 2 scores are NaN"),
        (MASKS.astype(np.uint8), MAPS, "masks are uint8"),
        (MASKS[0], MAPS, r"of shape \(1, 2\)"),
        (MASKS[0], MAPS[0], "3 dimension"),
        (MASKS, MAPS.astype(np.float16), "float16"),
    ],
)
def test_refuses(masks: npt.ArrayLike, maps: npt.ArrayLike, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pixel_metrics(masks, maps)


def test_the_default_limit_is_an_fpr_of_three_tenths() -> None:
    masks, maps = np.zeros((1, 1, 11), dtype=bool), -np.arange(11.0).reshape(1, 1, 11)
    masks[0, 0, 2] = True
    # Two of ten normal pixels come first: PRO is 0 up to FPR 0.2, and 1 from there.
    assert pixel_metrics(masks, maps).aupro == pytest.approx(1 / 3, abs=CLOSE)
