"""From image files to stored features: all the code that decides a feature's bits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import torch

from moleflow.code_digest import require_unchanged
from moleflow.data.loading import load_image
from moleflow.errors import InvalidInput

if TYPE_CHECKING:
    from moleflow.cache.array_packs import FloatArray
    from moleflow.data.samples import Sample
    from moleflow.environment import Environment
    from moleflow.settings.config import TrialConfig

# Imported only if a feature is missing. The code may have been edited since the process started.
_LATE = ("moleflow.features.backbone", "moleflow.features.timm_import")


class Extractor(Protocol):
    """Turns images into features; see `moleflow.features.backbone.FrozenBackbone`."""

    def extract(self, images: npt.NDArray[np.uint8]) -> torch.Tensor:
        """uint8 (N, S, S, 3) to float32 (N, H, W, D)."""
        ...


Factory = Callable[["TrialConfig", "Environment"], Extractor]


def frozen_backbone(config: TrialConfig, environment: Environment) -> Extractor:
    """The backbone of a configuration.

    It is imported on the first call: timm takes a second or more, which a run with all features
    cached saves.

    Raises:
        CodeChanged: the backbone's code was edited after this process started. Its features would
            be stored under the digest of the old code.
        InvalidInput: as `FrozenBackbone`.
    """
    late = _LATE[0] not in sys.modules
    from moleflow.features.backbone import FrozenBackbone

    if late:
        require_unchanged(*_LATE)
    return FrozenBackbone(config, environment)


def extract_features(extractor: Extractor, samples: Sequence[Sample], config: TrialConfig) -> FloatArray:
    """Features of `samples` in their order: (N, H, W, D), float32 or float16 as they are stored.

    Raises:
        Damaged: an image file changed since it was scanned.
        InvalidInput: an image cannot be read, or a feature cannot be stored.
    """
    images = np.stack([load_image(s, config.data.image_size, config.data.interpolation) for s in samples])
    return _storable(extractor.extract(images).numpy(), config)


def _storable(features: npt.NDArray[np.float32], config: TrialConfig) -> FloatArray:
    if not np.isfinite(features).all():
        raise InvalidInput(f"backbone: {config.backbone.model} returns numbers that are not finite; check its weights")
    if config.backbone.storage == "float32":
        return features
    with np.errstate(over="ignore"):
        half = features.astype(np.float16)
    if not np.isfinite(half).all():
        largest = float(np.abs(features).max())
        raise InvalidInput(
            f"backbone.storage: given float16, but a feature is {largest:.0f}, above 65504; take float32"
        )
    return half
