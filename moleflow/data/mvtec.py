"""Folders in the MVTec AD layout, read as tasks.

    <class>/train/good/*            normal images
    <class>/test/good/*             normal images
    <class>/test/<defect>/*         defective images
    <class>/ground_truth/<defect>/  <stem>_mask.<ext> or <stem>.<ext>; optional as a whole

Samples stand in the order of their contents, not of their names, and every draw is made by content: moving or renaming
images changes no result.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from moleflow.config import digest
from moleflow.data.digests import DigestCache
from moleflow.data.images import SUFFIXES, read_image, read_mask
from moleflow.errors import Damaged, InvalidInput, did_you_mean

__all__ = [
    "DigestCache",
    "Sample",
    "TaskData",
    "class_names",
    "limit",
    "limit_test",
    "load_image",
    "load_mask",
    "scan",
    "split",
]

GOOD = "good"
Pixels = TypeVar("Pixels", bound=npt.NDArray[Any])
_WANTED = f"images ({', '.join(SUFFIXES)})"


@dataclass(frozen=True)
class Sample:
    """One image file.

    Attributes:
        name: posix path relative to the data root.
        label: 0 = normal, 1 = defective.
        defect: name of the defect, "good" for normal images.
        mask: the mask file; None for normal images and for classes without masks.
        digest: SHA-256 of the image file.
        mask_digest: SHA-256 of the mask file.
        redraw: for a generated image, what draws it and its mask again where they were taken away.
    """

    name: str
    path: Path
    label: int
    defect: str
    mask: Path | None
    digest: str
    mask_digest: str | None
    redraw: Callable[[], object] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class TaskData:
    """One product class.

    Attributes:
        digest: over what the images and masks are; neither the root nor any file name enters it.
        has_masks: whether pixel metrics can be taken.
    """

    name: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    digest: str
    has_masks: bool


def scan(root: Path, tasks: Sequence[str], digests: DigestCache | None = None) -> tuple[TaskData, ...]:
    """The tasks' images, each checked once.

    Args:
        root: the folder that holds the class folders.
        tasks: class folders, in the order of learning.
        digests: what is known of the files already; it is saved here.

    Raises:
        InvalidInput: not an MVTec AD folder, a class that is not there, an empty one, a broken image, a missing mask,
            or a mask of another size than its image.
    """
    known = digests or DigestCache()
    classes = class_names(root)
    for task in tasks:
        if task not in classes:
            _refuse_class(root, task, classes)
    try:
        return tuple(_scan_task(root, task, known) for task in tasks)
    finally:
        known.save()  # Also when an image is broken: the sound ones need not be read again.


def class_names(root: Path) -> list[str]:
    """The class folders under `root`.

    Raises:
        InvalidInput: there is none, or no such folder.
    """
    if not root.is_dir():
        what = "not a folder" if root.exists() else "no such folder"
        raise InvalidInput(f"{root}: {what}; give the folder that holds <class>/train/{GOOD} and <class>/test")
    if (root / "train" / GOOD).is_dir():
        raise InvalidInput(f"{root}: this is one class; give the folder above it, {root.absolute().parent}")
    folders = [folder.name for folder in _folders(root)]
    classes = [name for name in folders if (root / name / "train" / GOOD).is_dir()]
    if not classes:
        there = ", ".join(folders[:8]) or "none"
        looked_for = f"looked for <class>/train/{GOOD}; folders there: {there}"
        raise InvalidInput(f"{root}: not an MVTec AD folder: {looked_for}; give the folder of the classes")
    return classes


def _refuse_class(root: Path, task: str, classes: Sequence[str]) -> None:
    some = f"; to learn some of them: --set 'tasks=[{', '.join(classes[:3])}]'"
    there = f"classes there: {', '.join(classes)}{did_you_mean(task, classes) or some}"
    if task in (folder.name for folder in _folders(root)):
        raise InvalidInput(f"data.tasks: {root / task} has no train/{GOOD}, so it is no class; {there}")
    raise InvalidInput(f"data.tasks: no class '{task}' in {root}; {there}")


def _scan_task(root: Path, task: str, known: DigestCache) -> TaskData:
    folder = root / task
    truth = folder / "ground_truth"
    has_masks = truth.is_dir()
    train = [_sample(root, path, GOOD, None, known) for path in _images(folder / "train" / GOOD)]
    if not train:
        raise InvalidInput(f"{folder / 'train' / GOOD}: no {_WANTED}; a class needs normal training images")
    test = []
    for part in _folders(folder / "test"):
        masks = _masks(truth / part.name) if has_masks and part.name != GOOD else None
        test += [_sample(root, path, part.name, masks, known) for path in _images(part)]
    if not test:
        raise InvalidInput(
            f"{folder / 'test'}: no {_WANTED} in test/{GOOD} or test/<defect>; a class needs test images"
        )
    train.sort(key=_content)
    test.sort(key=_content)
    contents = [["train", *_content(sample)] for sample in train] + [["test", *_content(sample)] for sample in test]
    return TaskData(task, tuple(train), tuple(test), digest(contents), has_masks)


def _content(sample: Sample) -> tuple[str, str, str]:
    return sample.defect, sample.digest, sample.mask_digest or ""


def _sample(root: Path, path: Path, defect: str, masks: dict[str, Path] | None, known: DigestCache) -> Sample:
    facts = known.facts(path)
    mask = None
    mask_digest = None
    if masks is not None:
        mask = masks.get(f"{path.stem}_mask") or masks.get(path.stem)
        if mask is None:
            looked_for = f"ground_truth/{defect}/{path.stem}_mask.png"
            raise InvalidInput(
                f"{path}: no mask; looked for {looked_for}; add it, or remove ground_truth to go without masks"
            )
        of_mask = known.facts(mask)
        sizes = f"{of_mask.width}x{of_mask.height}", f"{facts.width}x{facts.height}"
        if sizes[0] != sizes[1]:
            raise InvalidInput(f"{mask}: {sizes[0]} pixels, but its image has {sizes[1]}; make the mask fit the image")
        mask_digest = of_mask.sha256
    name = path.relative_to(root).as_posix()
    return Sample(name, path, int(defect != GOOD), defect, mask, facts.sha256, mask_digest)


def _folders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def _images(folder: Path) -> list[Path]:
    found = [path for path in _visible(folder) if path.suffix.lower() in SUFFIXES]
    for path in found:
        if not path.is_file():
            what = "a folder" if path.is_dir() else "a link to nothing" if path.is_symlink() else "no file"
            raise InvalidInput(f"{path}: is {what}, with the name of an image; put the image there, or take it away")
    return found


def _visible(folder: Path) -> list[Path]:
    # Names that start with a dot are leftovers of file managers, some of them with an image's suffix.
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def _masks(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in _images(folder)}


def load_image(sample: Sample, size: int, interpolation: Literal["bilinear", "bicubic"]) -> npt.NDArray[np.uint8]:
    """The sample's image as RGB: uint8 (size, size, 3).

    Raises:
        Damaged: the file is not the one that was scanned.
        InvalidInput: it cannot be read.
    """
    return _there(sample, lambda: read_image(sample.path, size, interpolation, sample.digest))


def load_mask(sample: Sample, size: int) -> npt.NDArray[np.bool_]:
    """The sample's defective pixels: bool (size, size), resized nearest; all False without a mask.

    Raises:
        Damaged: the file is not the one that was scanned.
        InvalidInput: it cannot be read.
    """
    mask = sample.mask
    if mask is None:
        return np.zeros((size, size), dtype=np.bool_)
    return _there(sample, lambda: read_mask(mask, size, sample.mask_digest))


def _there(sample: Sample, read: Callable[[], Pixels]) -> Pixels:
    """What `read` gives; generated files that were taken away, to keep the cache within its budget, are drawn again."""
    try:
        return read()
    except (Damaged, InvalidInput):
        if sample.redraw is None or all(path is None or path.exists() for path in (sample.path, sample.mask)):
            raise
    sample.redraw()
    return read()


def split(samples: Sequence[Sample], fraction: float, seed: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Normal images as (train, validation), the order of `samples` kept.

    Args:
        fraction: share that is held out, rounded, at least one image if above 0.
        seed: of the draw; the same images give the same split whatever their names.

    Raises:
        InvalidInput: no image would be left to train on.
    """
    held = max(1, round(fraction * len(samples))) if fraction > 0 else 0
    if held >= len(samples):
        left = f"which leaves no training image of {len(samples)}"
        raise InvalidInput(f"data.validation_fraction: given {fraction}, {left}; take a smaller share or add images")
    chosen = _drawn(samples, held, seed)
    validation = tuple(s for i, s in enumerate(samples) if i in chosen)
    return tuple(s for i, s in enumerate(samples) if i not in chosen), validation


def limit(samples: Sequence[Sample], count: int | None, seed: int) -> tuple[Sample, ...]:
    """At most `count` of the samples, drawn by content; None = all."""
    chosen = range(len(samples)) if count is None else _drawn(samples, count, seed)
    return tuple(s for i, s in enumerate(samples) if i in chosen)


def limit_test(samples: Sequence[Sample], count: int | None, seed: int) -> tuple[Sample, ...]:
    """At most `count` of the test samples, half of them defective; where one kind is short, the other fills up."""
    if count is None:
        return tuple(samples)
    good = [s for s in samples if s.label == 0]
    bad = [s for s in samples if s.label == 1]
    defective = min(len(bad), max(math.ceil(count / 2), count - len(good)))
    return limit(good, count - defective, seed) + limit(bad, defective, seed)


def _drawn(samples: Sequence[Sample], count: int, seed: int) -> set[int]:
    """Positions of `count` samples: ranked by a hash of seed and content, which knows no file names."""

    def rank(position: int) -> tuple[str, int]:
        return hashlib.sha256(f"{seed}:{samples[position].digest}".encode()).hexdigest(), position

    return set(sorted(range(len(samples)), key=rank)[:count])
