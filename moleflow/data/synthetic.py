"""Synthetic defects on held-out normal images, so that settings can be chosen without a look at real ones.

Two kinds, half of the images each: cut-paste (Li et al. 2021, "CutPaste"), a patch of the image put elsewhere in it with its
colours shifted; and blend (Zavrtanik et al. 2021, "DRAEM"), another held-out image shown through regions of smooth noise. They are
drawn on the pixels that the backbone sees: outside its mask, a defective image equals the normal one to the bit.
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
from moleflow.data.mvtec import Sample
from moleflow.data.subsets import limit
from moleflow.errors import InvalidInput
from moleflow.files import write_atomically
from moleflow.settings.config import DataKnobs, digest

LEAST_SHARE, LARGEST_SHARE = 0.003, 0.08  # of the image's area; most are small, as most real defects are
LEAST_CHANGE = 15.0  # mean absolute difference over the mask, in grey levels of 255
_TRIES = 20

Pixels = npt.NDArray[np.uint8]
Defective = tuple[Pixels, npt.NDArray[np.bool_]]


def with_defects(normal: Sequence[Sample], settings: DataKnobs, folder: Path) -> tuple[Sample, ...]:
    """One defective image for each normal one; what is drawn depends on the settings and on the images' contents alone.

    Args:
        normal: held-out normal images of one class.
        settings: seed of the draws (`validation_seed`), and size and filter with which images are read.
        folder: where images and masks are kept as PNG; sound ones that are there already are used.

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
    """A rectangle of `image` (H, W, 3) put elsewhere, brightness and colours shifted; and the mask (H, W) of where it lies."""
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
    """`other`, turned and of shifted brightness, shown through the peaks of smooth noise in `image` (H, H, 3); and their mask (H, H)."""
    cells = int(draws.integers(4, 11))
    coarse = Image.fromarray(draws.standard_normal((cells + 2, cells + 2)).astype(np.float32))
    # The outermost cells only shape what lies inside of them: peaks would else spread along the border.
    inside = (1, 1, cells + 1, cells + 1)
    noise = np.asarray(coarse.resize(image.shape[1::-1], Image.Resampling.BICUBIC, box=inside))
    mask: npt.NDArray[np.bool_] = noise > np.quantile(noise, 1 - _share(draws))
    texture = np.rot90(other, int(draws.integers(1, 4))) + draws.uniform(-40, 40)
    share = draws.uniform(0.4, 1.0)
    found = image.copy()
    found[mask] = _grey_levels(share * texture + (1 - share) * image)[mask]
    return found, mask


def visible(draw: Callable[[], Defective], image: Pixels) -> Defective:
    """A defect that can be seen: the first draw that changes `image` enough within its mask, or else the one that changes it most."""
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
    """The defective image of `sample`: cut-paste, or a blend with `other`; from the folder, or drawn now."""
    kind = "cut-paste" if other is None else "blend"
    reads = settings.image_size, settings.interpolation
    contents = [kind, settings.validation_seed, sample.digest, other.digest if other else None]
    name = digest([code_digest("defects"), *contents, *reads])
    paths = folder / f"{name}.png", folder / f"{name}.mask.png"
    stored = [_sound(path) for path in paths]
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


def _sound(path: Path) -> str | None:
    """The SHA-256 of a PNG whose checksums hold; None for any other file, or none."""
    try:
        data = path.read_bytes()
        check_image(data, path)
    except (FileNotFoundError, InvalidInput):
        return None
    return hashlib.sha256(data).hexdigest()


def _written(path: Path, pixels: Pixels) -> str:
    """Write a PNG beside and rename it; its SHA-256."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue(), durable=False)
    return hashlib.sha256(buffer.getvalue()).hexdigest()
