"""Synthetic defects on held-out normal images, so that settings can be chosen without real ones.

There are two kinds, on half of the images each. Cut-paste (Li et al. 2021, "CutPaste") puts a patch
of the image elsewhere in it, with shifted colours. Blend (Zavrtanik et al. 2021, "DRAEM") shows
another held-out image through regions of smooth noise. Both are drawn on the pixels that the
backbone sees: outside its mask, a defective image equals the normal one to the bit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from moleflow.code_digest import code_digest
from moleflow.data.images import check_image
from moleflow.data.loading import load_image
from moleflow.data.samples import Sample
from moleflow.data.subsets import limit
from moleflow.errors import InvalidInput
from moleflow.files import make_folder, write_atomically
from moleflow.passing_errors import read
from moleflow.settings.config import DataKnobs, digest

LEAST_SHARE, LARGEST_SHARE = 0.003, 0.08  # of the image's area; most are small, as real ones are
LEAST_CHANGE = 15.0  # mean absolute difference over the mask, in grey levels of 255
_TRIES = 20

Pixels = npt.NDArray[np.uint8]
Defective = tuple[Pixels, npt.NDArray[np.bool_]]


def with_defects(normal: Sequence[Sample], settings: DataKnobs, folder: Path) -> tuple[Sample, ...]:
    """One defective image for each normal one. The draws depend on settings and contents alone.

    Args:
        normal: held-out normal images of one class.
        settings: seed of the draws (`validation_seed`), and size and filter with which images are
            read.
        folder: folder of the images and masks, as PNG; intact ones that it holds are used.

    Returns:
        Samples of defect "cut-paste" or "blend", each with a mask, in the order of `normal`.

    Raises:
        Damaged: an image changed since it was scanned.
        InvalidInput: an image cannot be read.
        OSError: the folder cannot be written.
    """
    seed = settings.validation_seed
    contents = sorted({sample.digest: sample for sample in normal}.values(), key=lambda sample: sample.digest)
    pasted = {sample.digest for sample in limit(contents, math.ceil(len(contents) / 2), seed)}
    made = {}
    for position, sample in enumerate(contents):
        other = contents[position - 1] if sample.digest not in pasted else None
        made[sample.digest] = _made(sample, other, settings, folder)
    return tuple(made[sample.digest] for sample in normal)


def cut_paste(image: Pixels, draws: np.random.Generator) -> Defective:
    """Put a rectangle of an image elsewhere, with shifted brightness and colours.

    Args:
        image: uint8 (H, W, 3).
        draws: the random numbers.

    Returns:
        uint8 (H, W, 3), and the mask of the rectangle's new place, bool (H, W).
    """
    height, width = image.shape[:2]
    area = _share(draws) * height * width
    aspect = np.exp(draws.uniform(-2, 2))
    tall = int(np.clip(round(np.sqrt(area * aspect)), 2, height // 2))
    wide = int(np.clip(round(np.sqrt(area / aspect)), 2, width // 2))
    (y, to_y), (x, to_x) = (
        draws.integers(size - side + 1, size=2).tolist() for size, side in ((height, tall), (width, wide))
    )
    tint = draws.uniform(-20, 20, 3) if np.ptp(image, axis=2).any() else 0.0  # A grey image stays grey.
    patch = image[y : y + tall, x : x + wide] * draws.uniform(0.8, 1.2) + draws.uniform(-30, 30) + tint
    found, mask = image.copy(), np.zeros((height, width), dtype=np.bool_)
    found[to_y : to_y + tall, to_x : to_x + wide] = _grey_levels(patch)
    mask[to_y : to_y + tall, to_x : to_x + wide] = True
    return found, mask


def blend_patch(image: Pixels, other: Pixels, draws: np.random.Generator) -> Defective:
    """Show `other`, turned and brighter or darker, through peaks of smooth noise in `image`.

    Args:
        image: uint8 (H, H, 3).
        other: uint8 (H, H, 3).
        draws: the random numbers.

    Returns:
        uint8 (H, H, 3), and the mask of the peaks, bool (H, H).
    """
    cells = int(draws.integers(4, 11))
    coarse = Image.fromarray(draws.standard_normal((cells + 2, cells + 2)).astype(np.float32))
    # The outermost cells are cut off after the enlargement, or peaks would spread along the border.
    inside = (1, 1, cells + 1, cells + 1)
    noise = np.asarray(coarse.resize(image.shape[1::-1], Image.Resampling.BICUBIC, box=inside))
    mask: npt.NDArray[np.bool_] = noise > np.quantile(noise, 1 - _share(draws))
    texture = np.rot90(other, int(draws.integers(1, 4))) + draws.uniform(-40, 40)
    share = draws.uniform(0.4, 1.0)
    found = image.copy()
    found[mask] = _grey_levels(share * texture + (1 - share) * image)[mask]
    return found, mask


def visible(draw: Callable[[], Defective], image: Pixels) -> Defective:
    """The first draw that changes `image` visibly within its mask, or else the strongest draw.

    Args:
        draw: draws a defective image and its mask.
        image: the image without the defect.
    """
    best, most = draw(), -1.0
    for attempt in range(_TRIES):
        found = best if attempt == 0 else draw()
        change = float(np.abs(found[0].astype(np.float64) - image)[found[1]].mean())
        if change > most:
            best, most = found, change
        if change >= LEAST_CHANGE:
            break
    return best


def _made(sample: Sample, other: Sample | None, settings: DataKnobs, folder: Path) -> Sample:
    """The defective image of `sample`, cut-paste or a blend with `other`: read, or drawn now."""
    kind = "cut-paste" if other is None else "blend"
    reads = settings.image_size, settings.interpolation
    contents = [kind, settings.validation_seed, sample.digest, other.digest if other else None]
    name = digest([code_digest("defects"), *contents, *reads])
    paths = folder / f"{name}.png", folder / f"{name}.mask.png"
    stored = [_intact_digest(path) for path in paths]
    if None in stored:
        image = load_image(sample, *reads)
        draws = np.random.default_rng(int(digest(contents), 16))
        if other is None:
            defective = visible(lambda: cut_paste(image, draws), image)
        else:
            texture = load_image(other, *reads)
            defective = visible(lambda: blend_patch(image, texture, draws), image)
        stored = [_written(paths[0], defective[0]), _written(paths[1], defective[1] * np.uint8(255))]
    of_image, of_mask = stored
    again = partial(_made, sample, other, settings, folder)
    return Sample(f"{sample.name} + {kind}", paths[0], 1, kind, paths[1], str(of_image), str(of_mask), again)


def _share(draws: np.random.Generator) -> float:
    """The defect's share of the image, log-uniform."""
    return float(np.exp(draws.uniform(np.log(LEAST_SHARE), np.log(LARGEST_SHARE))))


def _grey_levels(values: npt.NDArray[np.floating[Any]]) -> Pixels:
    levels: Pixels = np.clip(values, 0, 255).astype(np.uint8)
    return levels


def _intact_digest(path: Path) -> str | None:
    """The SHA-256 of an intact PNG file; None for any other file, or none."""
    try:
        data = read(path)
        check_image(data, path)
    except (FileNotFoundError, InvalidInput):
        return None
    return hashlib.sha256(data).hexdigest()


def _written(path: Path, pixels: Pixels) -> str:
    """Write a PNG file; return its SHA-256."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    make_folder(path.parent)
    write_atomically(path, buffer.getvalue(), durable=False)
    return hashlib.sha256(buffer.getvalue()).hexdigest()
