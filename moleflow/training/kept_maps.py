"""The few anomaly maps that are kept of a sequence, small: some images by lot, and those whose scores were the worst surprise."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from moleflow.data.loading import load_image, load_mask

if TYPE_CHECKING:
    from moleflow.data.mvtec import Sample

SIDE, PICTURE_SIDE = 64, 128
"""Pixels per side of a kept map, and of the picture of its image."""
DRAWN, EXTREMES = 1, 3
"""Images of each class and label that are drawn by lot; images of each class at either wrong end of its scores."""

Why = Literal["drawn", "lowest_anomalous", "highest_normal"]


@dataclass(frozen=True)
class MapChoice:
    """One image that is kept: its position among the images of its class, why, and its rank among those kept for that (from 0)."""

    position: int
    why: Why
    rank: int


@dataclass(frozen=True)
class KeptMap:
    """A small anomaly map of one image after the last task, through the routed expert.

    `grey` is SIDE rows of SIDE bytes; 0 stands for `low` and 255 for `high`, which all kept maps of a class share, so that they compare.
    """

    split: str
    task: int
    sample: Sample
    score: float
    why: Why
    rank: int
    grey: bytes
    low: float
    high: float


def choose_maps(samples: Sequence[Sample], scores: npt.NDArray[np.float64]) -> list[MapChoice]:
    """Which images of a class are kept.

    By lot: one normal and one defective image, ranked by a hash of their content alone, so that they are the same in every trial whose
    images they are among. Besides: the defective images with the lowest scores, and the normal ones with the highest. An image may be
    kept for two reasons.
    """
    by_label = {label: [n for n, sample in enumerate(samples) if sample.label == label] for label in (0, 1)}
    found = []
    drawn = [n for label in (0, 1) for n in sorted(by_label[label], key=lambda n: _lot(samples[n]))[:DRAWN]]
    lowest = sorted(by_label[1], key=lambda n: (scores[n], samples[n].name))[:EXTREMES]
    highest = sorted(by_label[0], key=lambda n: (-scores[n], samples[n].name))[:EXTREMES]
    reasons: tuple[tuple[Why, list[int]], ...] = (
        ("drawn", drawn),
        ("lowest_anomalous", lowest),
        ("highest_normal", highest),
    )
    for why, positions in reasons:
        found += [MapChoice(position, why, rank) for rank, position in enumerate(positions)]
    return found


def to_8bit(maps: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], float, float]:
    """Maps (N, H, W) as greys (N, H, W) on one scale, and what 0 and 255 stand for."""
    low, high = float(maps.min()), float(maps.max())
    scaled = (maps.astype(np.float64) - low) * (255 / (high - low) if high > low else 0.0)
    return np.rint(scaled).astype(np.uint8), low, high


def picture(sample: Sample) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_] | None]:
    """A small picture of an image, squared as the backbone sees it (PICTURE_SIDE, PICTURE_SIDE, 3), and its mask where it has one.

    Raises:
        Damaged: the image has changed since it was scanned.
        InvalidInput: the image or its mask cannot be read.
    """
    mask = None if sample.mask is None else load_mask(sample, PICTURE_SIDE)
    return load_image(sample, PICTURE_SIDE, "bilinear"), mask


def _lot(sample: Sample) -> tuple[str, str]:
    return hashlib.sha256(f"gallery:{sample.digest}".encode()).hexdigest(), sample.name
