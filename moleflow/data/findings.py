"""The findings of a scan about a class: images by kind, files not read, undefined metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from moleflow.data.samples import GOOD, PassedOver, TaskData, WideMask, empty_masks_note, wide_masks_note
from moleflow.data.value_range import narrow_values_note
from moleflow.errors import counted

Metrics = Literal["image", "pixel"]


@dataclass(frozen=True)
class ClassFindings:
    """The findings about one class.

    Attributes:
        name: the class.
        train: number of training images.
        kinds: {"good" or name of a defect: number of test images}.
        masks: number of defective test images with a mask.
        passed_over: files that are not read.
        wide_masks: masks that cover most of their image.
        empty_masks: names of defective images whose masks mark no pixel.
        undefined: {group of metrics: why none of them is defined}, of the groups that are not.
        narrow_values: a sentence on images that are nearly black in the full range of values; may
            be empty.
        split: a sentence on a split that the data set does not give; may be empty.
    """

    name: str
    train: int
    kinds: Mapping[str, int]
    masks: int
    passed_over: tuple[PassedOver, ...]
    wide_masks: tuple[WideMask, ...]
    empty_masks: tuple[str, ...]
    undefined: Mapping[Metrics, str]
    narrow_values: str = ""
    split: str = ""

    @property
    def notes(self) -> list[str]:
        """One sentence for each finding that a reader of results needs."""
        notes = [
            undefined_note(self),
            wide_masks_note(self.name, self.wide_masks, self.masks),
            empty_masks_note(self.name, self.empty_masks, self.masks),
            self.narrow_values,
            split_note(self.name, self.split),
            passed_over_note(self.name, self.passed_over),
        ]
        return [note for note in notes if note]


def findings_of(task: TaskData, full_range: bool = True, split: str = "") -> ClassFindings:
    """The findings about a scanned class. No file is opened.

    Args:
        task: the class.
        full_range: True if its images are read with `data.value_range: full`.
        split: a sentence on a split that the data set does not give; may be empty.
    """
    kinds = dict(sorted(Counter(sample.defect for sample in task.test).items()))
    undefined: dict[Metrics, str] = {}
    if kinds.keys() == {GOOD}:
        undefined = dict.fromkeys(("image", "pixel"), "all its test images are good")
    else:
        undefined |= {"image": _all_defective(kinds)} if GOOD not in kinds else {}
        undefined |= {"pixel": "it has no masks"} if not task.has_masks else {}
    masks = sum(sample.mask is not None for sample in task.test)
    narrow = narrow_values_note(task) if full_range else ""
    return ClassFindings(
        task.name,
        len(task.train),
        kinds,
        masks,
        task.passed_over,
        task.wide_masks,
        task.empty_masks,
        undefined,
        narrow,
        split,
    )


def _all_defective(kinds: Collection[str]) -> str:
    names = ", ".join([*kinds][:3]) + (", ..." if len(kinds) > 3 else "")
    return f"all its test images are defective ({names}; data.normal_names says which are normal)"


def undefined_note(findings: ClassFindings) -> str:
    """A sentence on the metrics that are undefined; empty if all are defined."""
    undefined = findings.undefined
    if undefined.keys() == {"image", "pixel"} and len(set(undefined.values())) == 1:
        return f"{findings.name}: {undefined['image']}: neither image nor pixel metrics are defined"
    parts = [f"{why}: no {group} metric is defined" for group, why in undefined.items()]
    return f"{findings.name}: {'; '.join(parts)}" if parts else ""


def split_note(name: str, split: str) -> str:
    """A sentence on a split that the data set does not give; empty if it gives one."""
    return f"{name}: {split}" if split else ""


def passed_over_note(name: str, passed_over: Iterable[PassedOver]) -> str:
    """A sentence on the files of a class or data root that are not read; empty if all are."""
    groups = list(passed_over)
    total = sum(group.count for group in groups)
    return f"{name}: {counted(total, 'file')} passed over: {', '.join(map(str, groups))}" if groups else ""
