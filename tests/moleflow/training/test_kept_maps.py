"""The choice of kept maps, their grey scale and their pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from moleflow.data.samples import Sample
from moleflow.data.scan import scan
from moleflow.training.kept_maps import choose_maps, picture, to_8bit


def sample(name: str, label: int) -> Sample:
    return Sample(name, Path(name), label, "hole" if label else "good", None, f"digest of {name}", None)


def test_the_extreme_scores_of_either_label_are_kept_in_order() -> None:
    samples = [sample(f"good{n}", 0) for n in range(5)] + [sample(f"bad{n}", 1) for n in range(5)]
    scores = np.array([0.1, 0.9, 0.5, 0.2, 0.7, 0.3, 0.6, 0.05, 0.4, 0.8])
    kept = [(c.why, c.rank, samples[c.position].name) for c in choose_maps(samples, scores) if c.why != "drawn"]
    assert kept == [
        ("lowest_anomalous", 0, "bad2"),
        ("lowest_anomalous", 1, "bad0"),
        ("lowest_anomalous", 2, "bad3"),
        ("highest_normal", 0, "good1"),
        ("highest_normal", 1, "good4"),
        ("highest_normal", 2, "good2"),
    ]


def test_the_draw_depends_on_content_only() -> None:
    samples = [sample(f"good{n}", 0) for n in range(5)] + [sample(f"bad{n}", 1) for n in range(5)]

    def drawn(of: list[Sample], scores: np.ndarray) -> set[str]:
        return {of[c.position].name for c in choose_maps(of, scores) if c.why == "drawn"}

    first = drawn(samples, np.arange(10.0))
    assert sorted(name[:3] for name in first) == ["bad", "goo"]
    assert drawn(samples[::-1], np.zeros(10)) == first
    renamed = [replace(one, name=f"{one.name[:3]} {n}") for n, one in enumerate(samples)]
    positions = [[c.position for c in choose_maps(of, np.zeros(10)) if c.why == "drawn"] for of in (samples, renamed)]
    assert positions[0] == positions[1]
    only_good = [one for one in samples if one.label == 0]
    assert drawn(only_good, np.zeros(5)) == {name for name in first if name.startswith("good")}


def test_an_image_can_be_kept_for_two_reasons() -> None:
    assert [c.why for c in choose_maps([sample("bad", 1)], np.zeros(1))] == ["drawn", "lowest_anomalous"]
    assert choose_maps([], np.zeros(0)) == []


def test_maps_share_one_grey_scale_and_a_flat_map_has_one() -> None:
    maps = np.array([[[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0], [-1.0, 1.7]]], dtype=np.float32)
    grey, low, high = to_8bit(maps)
    assert (grey.dtype, low, high) == (np.uint8, -1.0, 5.0)
    assert np.abs(low + grey / 255 * (high - low) - maps).max() <= (high - low) / 255 / 2 + 1e-12
    flat, low, high = to_8bit(np.full((1, 2, 2), 3.0, dtype=np.float32))
    assert (flat.max(), low, high) == (0, 3.0, 3.0)


def test_a_picture_has_128_pixels_a_side_and_the_mask_too(images: Path) -> None:
    (bolt,) = scan(images, ["bolt"])
    normal = next(one for one in bolt.test if one.label == 0)
    defective = next(one for one in bolt.test if one.label == 1)
    pixels, mask = picture(normal)
    assert (pixels.shape, pixels.dtype, mask) == ((128, 128, 3), np.uint8, None)
    pixels, mask = picture(defective)
    assert (pixels.shape, mask.shape, mask.dtype) == ((128, 128, 3), (128, 128), np.bool_)
    # A square of 12 of 32 pixels a side.
    assert mask.sum() == 48 * 48
