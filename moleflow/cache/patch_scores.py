"""What trained experts make of images, kept beside their stage: trials that differ in scoring alone send no image through the flow again.

    <stage>/<pack>.npy, <pack>.json     see `moleflow.cache.array_packs`; one row (2, H, W) an image

A row is ||z||^2 and log_det of each patch, from which every way of scoring follows. It is filed under the image's content and the
states of the stages up to the expert's own; the stage's key stands for the rest (features, code, numeric environment). Rows go when
their stage goes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moleflow.cache.array_packs import PackFolder
from moleflow.code_digest import code_digest
from moleflow.settings.config import digest

_LOG = logging.getLogger(__name__)

Terms = npt.NDArray[np.float32]


class PatchScores:
    """Rows of one expert. No claim is needed: two workers that make the same rows write the same bytes.

    Whatever goes wrong here costs time and nothing else: the flow is asked instead.

    Args:
        stage: the folder of the stage that trained the expert.
        states: digest of the states of all stages up to it.
    """

    def __init__(self, stage: Path, states: str) -> None:
        self._packs = PackFolder(stage)
        self._states = states

    def read(self, images: Iterable[str]) -> dict[str, Terms]:
        """{image digest: (2, H, W)} of those of `images` that are stored and match their checksums; what is damaged is taken away."""
        names = {self._name(image): image for image in images}
        try:
            while stored := [name for name in self._packs.index() if name in names]:
                rows, damaged = self._packs.read(stored)
                if rows is not None:
                    return {names[name]: row for name, row in zip(stored, rows, strict=True)}
                for pack in damaged:
                    self._packs.discard(pack)
        except OSError as error:
            _LOG.warning("%s: %s; what is stored there is computed anew", self._packs.folder, error)
        return {}

    def write(self, found: Mapping[str, Terms]) -> None:
        """Keep {image digest: (2, H, W)}, unless the stage has been taken away meanwhile or the disk takes no more."""
        try:
            # A writer that died; whoever finds rows missing writes them, so nothing of it stays. One that lives loses time.
            self._packs.sweep_unfinished()
            self._packs.write([self._name(image) for image in found], np.stack(list(found.values())))
        except FileNotFoundError:
            pass  # The stage itself is gone.
        except OSError as error:
            _LOG.warning("%s: %s; it will be computed anew", self._packs.folder, error)

    def _name(self, image: str) -> str:
        return digest([code_digest("scoring"), self._states, image])
