"""The images of a task for training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moleflow.data.samples import Sample, TaskData
from moleflow.data.subsets import limit, limit_test, split
from moleflow.data.synthetic import with_defects
from moleflow.data.value_range import value_range_of, with_range
from moleflow.errors import InvalidInput
from moleflow.settings.config import DataKnobs


@dataclass(frozen=True)
class Splits:
    """The images of a task that one trial uses; a split that is not scored is empty.

    Attributes:
        train: training images.
        validation: validation images, normal ones first.
        test: test images.
        withheld: number of defective test images that serve validation and are left out of the
            test.
    """

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]
    withheld: int = 0

    @property
    def scored(self) -> dict[str, tuple[Sample, ...]]:
        """The images of each scored split, the test first."""
        splits = {"test": self.test, "validation": self.validation}
        return {name: samples for name, samples in splits.items() if samples}


def choose_splits(task: TaskData, settings: DataKnobs, seed: int, synthetic: Path) -> Splits:
    """The images of a task that a trial uses. No test image is opened.

    Args:
        task: all images of the task.
        settings: the knobs that choose among them.
        seed: the trial's seed; it draws training images alone.
        synthetic: folder in which generated defects are kept.

    Raises:
        InvalidInput: a split leaves no image to train on, or no defective test image; an image
            cannot be read.
        Damaged: an image that defects are drawn on changed since it was scanned.
        OSError: the folder cannot be written.
    """
    # Ranges come after the draws, so that trials of all ranges use the same images.
    value_range = value_range_of(task, settings)
    train, normal = split(task.train, settings.validation_fraction, settings.validation_seed)
    real_share = settings.validation_real_share if settings.validation_anomalies == "real" else 0.0
    tested, withheld = hold_out(task.test, real_share, settings.validation_seed)
    validation: tuple[Sample, ...] = ()
    if settings.evaluate != "test":
        validation = with_range(normal + withheld, value_range)
        if settings.validation_anomalies == "synthetic":
            validation += with_defects(validation, settings, synthetic)
    # A fixed seed: trials of all seeds are scored on the same test images.
    test = limit_test(tested, settings.test_images, 0) if settings.evaluate != "validation" else ()
    train = limit(train, settings.train_images, seed)
    return Splits(with_range(train, value_range), validation, with_range(test, value_range), len(withheld))


def hold_out(samples: Sequence[Sample], share: float, seed: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Test images as (kept, held out defective ones). Copies of an image stay together.

    Args:
        samples: test images; their order is kept.
        share: share of the distinct defective images to hold out, rounded; at least one image if it
            is above 0 and there are defective images.
        seed: seed of the draw; equal images give equal draws under any names.

    Raises:
        InvalidInput: no defective image would be left to test on.
    """
    defective = tuple({sample.digest: sample for sample in samples if sample.label == 1}.values())
    held = min(len(defective), max(1, round(share * len(defective)))) if share > 0 else 0
    if held and held == len(defective):
        left = f"which leaves no defective test image of {len(defective)}"
        raise InvalidInput(f"data.validation_real_share: given {share}, {left}; take a smaller share or add images")
    drawn = {sample.digest for sample in limit(defective, held, seed)}
    return tuple(s for s in samples if s.digest not in drawn), tuple(s for s in samples if s.digest in drawn)
