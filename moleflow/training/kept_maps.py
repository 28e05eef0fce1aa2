"""The few small anomaly maps that a sequence keeps: some drawn, some with extreme scores."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from moleflow.data.loading import load_image, load_mask

if TYPE_CHECKING:
    from moleflow.data.samples import Sample

# Pixels per side of a kept map, and of the picture of its image.
SIDE, PICTURE_SIDE = 64, 128
# Images drawn per class and label; images per class at either wrong end of its scores.
DRAWN, EXTREMES = 1, 3

Why = Literal["drawn", "lowest_anomalous", "highest_normal"]


@dataclass(frozen=True)
class MapChoice:
    """One image whose map is kept.

    Attributes:
        position: index of the image among the images of its class.
        why: the reason for keeping it.
        rank: position among the images kept for this reason, from 0.
    """

    position: int
    why: Why
    rank: int


@dataclass(frozen=True)
class KeptMap:
    """A small anomaly map of one image after the last task, through the routed expert.

    Attributes:
        task: position of the image's task in the sequence, from 0.
        class_name: the image's class.
        grey: SIDE rows of SIDE bytes.
        low: patch score that the byte 0 stands for; all kept maps of a class share it.
        high: patch score that the byte 255 stands for, shared likewise.
    """

    split: str
    task: int
    class_name: str
    sample: Sample
    score: float
    why: Why
    rank: int
    grey: bytes
    low: float
    high: float


def choose_maps(samples: Sequence[Sample], scores: npt.NDArray[np.float64]) -> list[MapChoice]:
    """Choose the images of a class whose maps are kept.

    One normal and one defective image are drawn by a hash of their content, so every trial that
    scores them draws the same ones. The defective images with the lowest scores and the normal ones
    with the highest follow. An image can be chosen for two reasons.

    Args:
        samples: the images.
        scores: their image scores (N,).
    """
    normal, defective = ([n for n, sample in enumerate(samples) if sample.label == label] for label in (0, 1))
    drawn = [n for group in (normal, defective) for n in sorted(group, key=lambda n: _draw_order(samples[n]))[:DRAWN]]
    reasons: dict[Why, list[int]] = {
        "drawn": drawn,
        "lowest_anomalous": sorted(defective, key=lambda n: (scores[n], samples[n].name))[:EXTREMES],
        "highest_normal": sorted(normal, key=lambda n: (-scores[n], samples[n].name))[:EXTREMES],
    }
    return [MapChoice(n, why, rank) for why, positions in reasons.items() for rank, n in enumerate(positions)]


def to_8bit(maps: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], float, float]:
    """Return maps (N, H, W) as grey values (N, H, W) on one scale, and the values of 0 and 255."""
    low, high = float(maps.min()), float(maps.max())
    scaled = (maps.astype(np.float64) - low) * (255 / (high - low) if high > low else 0.0)
    return np.rint(scaled).astype(np.uint8), low, high


def picture(sample: Sample) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_] | None]:
    """Return a small picture of an image, and its mask or None.

    The picture (PICTURE_SIDE, PICTURE_SIDE, 3) is squared as the backbone's input is.

    Raises:
        Damaged: the image has changed since it was scanned.
        InvalidInput: the image or its mask cannot be read.
    """
    mask = None if sample.mask is None else load_mask(sample, PICTURE_SIDE)
    return load_image(sample, PICTURE_SIDE, "bilinear"), mask


def _draw_order(sample: Sample) -> tuple[str, str]:
    return hashlib.sha256(f"gallery:{sample.digest}".encode()).hexdigest(), sample.name
