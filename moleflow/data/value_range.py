"""The range of values with which images of more than 8 bits are read: `data.value_range`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from moleflow.data.images import in_range
from moleflow.data.samples import Sample, TaskData
from moleflow.errors import counted
from moleflow.settings.config import DataKnobs

_DEPTHS = (8, 10, 12, 14, 16)  # Bits of cameras and scanners.


def content_bits(largest: int) -> int:
    """The smallest depth of cameras that holds a value: 8, 10, 12, 14 or 16 bits."""
    return next(bits for bits in _DEPTHS if largest < 1 << bits)


def narrow_values_note(task: TaskData) -> str:
    """A sentence on images of more than 8 bits that are nearly black in full; empty without any."""
    found = [sample.largest for sample in (*task.train, *task.test) if sample.largest is not None]
    if not found or content_bits(max(found)) == 16:
        return ""
    given = f"{task.name}: {counted(len(found), 'image')} of more than 8 bits, with values of at most {max(found)}"
    return (
        f"{given} of 65535, so they are nearly black; to use {content_bits(max(found))} bits: data.value_range: content"
    )


def value_range_of(task: TaskData, settings: DataKnobs) -> tuple[int, int] | None:
    """The values that become 0 and 255 in all images of a class; None = the full range.

    The range `content` is that of a depth, not of the values themselves: one image more or less
    rarely changes it, and a defect brighter than all normal pixels is not cut off.
    """
    if isinstance(settings.value_range, tuple):
        return settings.value_range
    largest = max((sample.largest for sample in (*task.train, *task.test) if sample.largest is not None), default=None)
    if settings.value_range == "full" or largest is None or content_bits(largest) == 16:
        return None
    return 0, (1 << content_bits(largest)) - 1


def with_range(samples: Iterable[Sample], value_range: tuple[int, int] | None) -> tuple[Sample, ...]:
    """The samples, those of more than 8 bits under the identity that they have with the range.

    Args:
        samples: samples without a range.
        value_range: the values that become 0 and 255; None = the full range.
    """
    return tuple(_with_range(sample, value_range) for sample in samples)


def _with_range(sample: Sample, value_range: tuple[int, int] | None) -> Sample:
    if value_range is None or sample.largest is None:
        return sample
    return replace(sample, digest=in_range(sample.digest, value_range), value_range=value_range)
