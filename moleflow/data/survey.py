"""One look at a data root: what is in it, and what will make trouble."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from moleflow.data.copies import Copies, find_copies
from moleflow.data.digests import DigestCache
from moleflow.data.findings import ClassFindings, findings_of, passed_over_note
from moleflow.data.folders import folders_in
from moleflow.data.layouts.table import find_classes
from moleflow.data.near_copies import ImageHashes, find_near_copies
from moleflow.data.normal_names import nfc
from moleflow.data.outside import files_outside
from moleflow.data.samples import PassedOver, TaskData
from moleflow.data.scan import WIDE, list_files, reading_of, scan_files
from moleflow.errors import InvalidInput
from moleflow.settings.config import DataKnobs
from moleflow.suggestions import hint_at

Value = TypeVar("Value", bound=Hashable)


@dataclass(frozen=True)
class ClassSurvey:
    """One class.

    Attributes:
        layout: the name of its layout.
        findings: the findings of the scan.
        sizes: {"WIDTHxHEIGHT": number of images}, most frequent first.
        modes: {Pillow's mode: number of images}, most frequent first.
        bits: {bits a channel: number of images}, most frequent first.
        shares: the share of defective pixels of each mask file, ascending.
        wide_masks: names of images with a mask that marks most of the image.
        empty_masks: names of defective images whose masks mark no pixel.
    """

    layout: str
    findings: ClassFindings
    sizes: Mapping[str, int]
    modes: Mapping[str, int]
    bits: Mapping[int, int]
    shares: tuple[float, ...]
    wide_masks: tuple[str, ...]
    empty_masks: tuple[str, ...]

    @property
    def notes(self) -> list[str]:
        """A sentence on each finding about the class."""
        return self.findings.notes


@dataclass(frozen=True)
class DataSurvey:
    """All classes that were looked at.

    Attributes:
        root: the data root.
        classes: those that can be read, by name.
        unreadable: {class: reason} of the others.
        copies: exact copies, then near ones.
        near: True if near copies were looked for.
        tasks: the samples of the classes that can be read.
        outside: image files that lie outside all classes of the root.
    """

    root: Path
    classes: tuple[ClassSurvey, ...]
    unreadable: Mapping[str, str]
    copies: tuple[Copies, ...]
    near: bool
    tasks: tuple[TaskData, ...]
    outside: tuple[PassedOver, ...]

    @property
    def notes(self) -> list[str]:
        """A sentence on each finding, those about copies last."""
        notes = [note for one in self.classes for note in one.notes]
        notes += [passed_over_note(str(self.root), self.outside)] * bool(self.outside)
        return notes + [copies.note for copies in self.copies]


def survey(
    root: Path,
    data: DataKnobs,
    cache: Path,
    only: Collection[str] = (),
    near: bool = True,
    workers: int = 1,
    decoding: Callable[[int], None] = lambda number: None,
) -> DataSurvey:
    """Look at every image of a data root.

    Files that were looked at before are known by the digests and hashes in the cache.

    Args:
        root: the data root.
        data: the settings that decide how it is read.
        cache: the cache folder.
        only: the classes to look at; empty = all.
        near: look for near copies, too, which decodes each image once.
        workers: threads that decode images.
        decoding: called with the number of images before they are decoded.

    Raises:
        InvalidInput: the root has no known layout, or a class of `only` is not there.
        OSError: the cache cannot be written.
    """
    reading = reading_of(data)
    layouts = find_classes(root, reading)
    names = [nfc(name) for name in only] or [*layouts]
    missing = next((name for name in names if name not in layouts), None)
    if missing is not None:
        near_name = hint_at(missing, layouts)
        raise InvalidInput(f"--classes: no class '{missing}' in {root}; classes there: {', '.join(layouts)}{near_name}")
    digests = DigestCache(cache / "digests.json")
    tasks: list[TaskData] = []
    splits: dict[str, str] = {}
    unreadable = {} if only else _closed_folders(root)
    for name in dict.fromkeys(names):
        try:
            listed = list_files(root, [name], layouts, reading)
            tasks += scan_files(root, listed, digests)
            splits |= {name: files.split for name, files in listed.items()}
        except InvalidInput as error:
            unreadable[name] = str(error)
    copies = find_copies(tasks)
    if near:
        hashes = ImageHashes(cache / "perceptual_hashes.json")
        images = hashes.unknown([sample for task in tasks for sample in (*task.train, *task.test)])
        if images:
            decoding(images)
        copies += find_near_copies(tasks, hashes, workers)
    classes = tuple(_survey_class(task, layouts[task.name].name, data, digests, splits[task.name]) for task in tasks)
    outside = () if only else files_outside(root, layouts, reading)
    return DataSurvey(root, classes, unreadable, copies, near, tuple(tasks), outside)


def _closed_folders(root: Path) -> dict[str, str]:
    """{name: reason} of the folders beside the classes that this user may not read."""
    folders = [one for one in folders_in(root) if one.name != "lost+found"]  # Every disk has this one.
    closed = [one for one in folders if not os.access(one, os.R_OK | os.X_OK)]
    return {nfc(one.name): f"{one}: cannot be read (no permission); let this user read it" for one in closed}


def _survey_class(task: TaskData, layout: str, data: DataKnobs, digests: DigestCache, split: str) -> ClassSurvey:
    samples = (*task.train, *task.test)
    facts = [digests.facts(sample.path) for sample in samples]
    masks: dict[Path, float] = {}
    wide: list[str] = []
    for sample in task.test:
        own = [path for path in (sample.mask, *(path for path, _ in sample.more_masks)) if path is not None]
        shares = {path: digests.facts(path, is_mask=True).defective or 0.0 for path in own}
        masks |= shares
        wide += [sample.name] * any(share > WIDE for share in shares.values())
    return ClassSurvey(
        layout,
        findings_of(task, data.value_range == "full", split),
        _counted_values(f"{one.width}x{one.height}" for one in facts),
        _counted_values(one.mode for one in facts),
        _counted_values(one.bits for one in facts),
        tuple(sorted(masks.values())),
        tuple(sorted(wide)),
        task.empty_masks,
    )


def _counted_values(values: Iterable[Value]) -> dict[Value, int]:
    return dict(Counter(values).most_common())
