"""A detector that a sweep has kept, with its thresholds: for `predict` and for Python."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moleflow.detection.memory_image import MemoryImage, Pixels, memory_image
from moleflow.detection.trained_detector import Failure, ScoredImage, TrainedDetector
from moleflow.errors import InvalidInput
from orchestrator.detectors.image_files import image_files
from orchestrator.detectors.thresholds import Threshold

Given = str | Path | Pixels
"""An image to score, in a file or in memory, or a folder of images."""


@dataclass(frozen=True, repr=False)
class SweepDetector:
    """A trained detector with its thresholds.

    Attributes:
        trained: the trained detector with its backbone.
        by_task: {task: threshold} of the tasks that have one.
        reasons: lines about the choice of this detector and of its thresholds.
    """

    trained: TrainedDetector
    by_task: Mapping[int, Threshold]
    reasons: tuple[str, ...] = ()

    @property
    def task_names(self) -> tuple[str, ...]:
        """The name of each task."""
        return self.trained.task_names

    @property
    def thresholds(self) -> dict[str, float]:
        """{name of a task: its threshold} of the tasks that have one."""
        return {self.task_names[task]: of.value for task, of in self.by_task.items()}

    @property
    def notes(self) -> tuple[str, ...]:
        """Reasons why scores may differ from those of the sweep in their last digits."""
        return self.trained.notes

    def __repr__(self) -> str:
        """Return such as `SweepDetector(v7 seed=0, sweep photos, data photos, tasks bolt, nut)`."""
        names = self.trained.stored.header.names
        parts = [names.get("label", ""), *(f"{noun} {names[key]}" for key, noun in _NAMED.items() if key in names)]
        tasks = ", ".join(
            f"{name}: {self.thresholds[name]:.6g}" if name in self.thresholds else name for name in self.task_names
        )
        return f"SweepDetector({', '.join(filter(None, parts))}, thresholds of tasks {{{tasks}}})"

    def score(
        self,
        images: Given | Iterable[Given],
        on_failure: Failure | None = None,
        class_name: str | None = None,
    ) -> Iterator[ScoredImage]:
        """Yield the scores of each image, in their order; of a folder, by name at any depth.

        Args:
            images: a file, a folder or an image in memory, or several. In memory it is a uint8
                array, grey (H, W) or RGB (H, W, 3), or a Pillow image; its path is then a name,
                such as `image 3` for the one at position 3 of those given, from 0.
            on_failure: called for what cannot be scored, which is then left out; None raises its
                error.
            class_name: the class whose range of values is used for images of more than 8 bits;
                needed only where the classes of the trial have different ranges.

        Raises:
            InvalidInput: an image cannot be read or scored; there is no such class.
        """
        is_one = isinstance(images, str | Path | np.ndarray) or not isinstance(images, Iterable)
        given: Iterable[Any] = [images] if is_one else images  # type: ignore[assignment]  # An image is not iterated.
        found = _in_order(given, on_failure or _raise)
        for scored in self.trained.score(found, on_failure, class_name):
            of_task = self.by_task.get(scored.task)
            yield replace(scored, threshold=None if of_task is None else of_task.value)


_NAMED = {"sweep": "sweep", "trial": "trial", "dataset": "data"}


def _in_order(given: Iterable[object], on_failure: Failure) -> Iterator[Path | MemoryImage]:
    for number, one in enumerate(given):
        if isinstance(one, str | Path):
            yield from (file.path for file in image_files([Path(one).expanduser()], on_failure))
            continue
        name = Path(f"image {number}")
        try:
            yield memory_image(one, name)
        except InvalidInput as error:
            on_failure(name, str(error))


def _raise(_path: Path, reason: str) -> None:
    raise InvalidInput(reason)
