"""Cached scores of image patches by a trained expert, kept beside its stage.

    <stage>/<pack>.npy, <pack>.json     see `moleflow.cache.array_packs`; one row (C, H, W) an image

A row is ||z||^2 and log_det of each patch (C = 2), or its distance to a memory bank (C = 1). Every
scoring setting works on these. So trials that differ in scoring alone send no image through the
flow again. A row is named by the image's content, the states of all stages up to the expert's and
the scoring code. The stage's key stands for the rest: features, training code, numeric environment.
Rows are removed with their stage.
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
    """Cached rows of one expert.

    No claim is needed: two workers that compute the same rows write the same bytes. An error here
    costs time and nothing else, since the flow computes the rows again.

    Args:
        stage: the folder of the stage that trained the expert.
        states: digest of the states of all stages up to it.
        is_new: true if the stage was stored just now, so that it has no rows yet.
    """

    def __init__(self, stage: Path, states: str, is_new: bool = False) -> None:
        self._packs = PackFolder(stage, is_new=is_new)
        self._states = states

    def read(self, images: Iterable[str]) -> dict[str, Terms]:
        """Rows of those images that are stored and intact. Damaged packs are removed.

        Args:
            images: image digests.

        Returns:
            {image digest: float32 (C, H, W)}.
        """
        names = {self._name(image): image for image in images}
        try:
            while stored := sorted(names.keys() - self._packs.missing(names)):
                rows, damaged = self._packs.read(stored)
                if rows is not None:
                    return {names[name]: row for name, row in zip(stored, rows, strict=True)}
                for pack in damaged:
                    self._packs.discard(pack)
        except OSError as error:
            _LOG.warning("%s: %s; rows stored there are computed again", self._packs.folder, error)
        return {}

    def write(self, rows: Mapping[str, Terms]) -> None:
        """Store rows; a stage removed meanwhile or a full disk only means that they are not kept.

        Args:
            rows: {image digest: float32 (C, H, W)}.
        """
        try:
            # Removes what a dead writer left. A live writer loses its rows, and computes them
            # again.
            self._packs.remove_unfinished()
            images = [self._name(image) for image in rows]
            # Not synced: a power cut costs rows that the flow computes again.
            self._packs.write(images, np.stack(list(rows.values())), durable=False)
        except FileNotFoundError:
            pass  # The stage itself was removed.
        except OSError as error:
            _LOG.warning("%s: %s; these rows will be computed again", self._packs.folder, error)

    def _name(self, image: str) -> str:
        return digest([code_digest("scoring"), self._states, image])
