"""The pixels of a scanned sample: its image and its mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from moleflow.data.images import Interpolation, read_image, read_mask
from moleflow.errors import Damaged, InvalidInput
from moleflow.passing_errors import retried

if TYPE_CHECKING:
    from moleflow.data.samples import Sample

Pixels = TypeVar("Pixels", bound=npt.NDArray[Any])


def load_image(sample: Sample, size: int, interpolation: Interpolation) -> npt.NDArray[np.uint8]:
    """The sample's image as RGB: uint8 (size, size, 3).

    Raises:
        Damaged: the file is not the one that was scanned.
        InvalidInput: it cannot be read.
    """
    return _read_or_redraw(
        sample, lambda: read_image(sample.path, size, interpolation, sample.digest, sample.value_range)
    )


def load_mask(sample: Sample, size: int) -> npt.NDArray[np.bool_]:
    """The sample's defective pixels: bool (size, size); all False without a mask.

    Raises:
        Damaged: the file is not the one that was scanned.
        InvalidInput: it cannot be read.
    """
    mask = sample.mask
    if mask is None:
        return np.zeros((size, size), dtype=np.bool_)
    defective = _read_or_redraw(sample, lambda: read_mask(mask, size, sample.mask_digest))
    for path, digest in sample.more_masks:
        defective |= read_mask(path, size, digest)
    return defective


def _read_or_redraw(sample: Sample, read: Callable[[], Pixels]) -> Pixels:
    """The result of `read`. Generated files that were evicted from the cache are drawn again."""
    try:
        return read()
    except (Damaged, InvalidInput):
        paths = [path for path in (sample.path, sample.mask) if path is not None]
        if sample.redraw is None or all(retried(path.exists, path) for path in paths):
            raise
    sample.redraw()
    return read()
