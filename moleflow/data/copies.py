"""Images that are in a data set more than once, by the digests of their contents.

No file is opened: the scan knows the digests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from moleflow.data.samples import Sample, TaskData
from moleflow.errors import counted

Conflict = Literal["training in test", "other label", "other class"]


@dataclass(frozen=True)
class CopiedImage:
    """An image and one that has the same content, by their names in the data root."""

    image: str
    copy_of: str


@dataclass(frozen=True)
class Copies:
    """Copies that make metrics wrong, of one kind.

    Attributes:
        conflict: "training in test": test images that are training images; "other label": images
            of one class with different labels or defects; "other class": images of several classes.
        classes: the class, or the classes that share the images.
        copies: each of these images, with one that it is a copy of.
        near: True if they look alike, False if their contents are equal.
        tested: number of test images of the class, for "training in test"; else 0.
    """

    conflict: Conflict
    classes: tuple[str, ...]
    copies: tuple[CopiedImage, ...]
    near: bool = False
    tested: int = 0

    @property
    def note(self) -> str:
        """A sentence on them."""
        first, names, looked = self.copies[0], ", ".join(self.classes), "; look at them" if self.near else ""
        near, such = "near copies" if self.near else "copies", f"such as {first.image} of {first.copy_of}"
        match self.conflict:
            case "training in test":
                parts = f"{len(self.copies)} of {counted(self.tested, 'test image')} are {near} of training images"
                return f"{names}: {parts}, {such}{looked or '; remove them from one of the two'}"
            case "other label":
                images = counted(len(self.copies), "image")
                return f"{names}: {images} with {near} of another label, {such}{looked or '; keep the right ones'}"
            case "other class":
                images = counted(len(self.copies), "image")
                parts = f"{images} with {near} in another of these classes"
                return f"{names}: {parts}, {such}{looked or '; routing cannot tell these classes apart by them'}"


def find_copies(classes: Sequence[TaskData]) -> tuple[Copies, ...]:
    """The exact copies that make metrics wrong, within each class and between classes.

    Args:
        classes: scanned classes.
    """
    found = [copies for data in classes for copies in (_training_in_test(data), _other_label(data))]
    return (*(copies for copies in found if copies.copies), *_other_class(classes))


def copies_notes(classes: Sequence[TaskData]) -> list[str]:
    """A sentence on each kind of exact copies in scanned classes."""
    return [copies.note for copies in find_copies(classes)]


def _by_content(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.digest, []).append(sample)
    return found


def _training_in_test(data: TaskData) -> Copies:
    trained = _by_content(data.train)
    pairs = [(sample, trained[sample.digest][0]) for sample in data.test if sample.digest in trained]
    return Copies("training in test", (data.name,), _named(pairs), tested=len(data.test))


def _other_label(data: TaskData) -> Copies:
    pairs = []
    for first, *others in _by_content((*data.train, *data.test)).values():
        pairs += [(sample, first) for sample in others if sample.defect != first.defect]
    return Copies("other label", (data.name,), _named(pairs))


def _other_class(classes: Sequence[TaskData]) -> list[Copies]:
    places: dict[str, dict[str, Sample]] = {}
    for data in classes:
        for sample in (*data.train, *data.test):
            places.setdefault(sample.digest, {}).setdefault(data.name, sample)
    pairs: dict[tuple[str, ...], list[tuple[Sample, Sample]]] = {}
    for of_class in places.values():
        if len(of_class) > 1:
            first, second, *_ = of_class.values()
            pairs.setdefault(tuple(of_class), []).append((second, first))
    return [Copies("other class", names, _named(of)) for names, of in sorted(pairs.items())]


def _named(pairs: Iterable[tuple[Sample, Sample]]) -> tuple[CopiedImage, ...]:
    return tuple(sorted((CopiedImage(a.name, b.name) for a, b in pairs), key=lambda copy: copy.image))
