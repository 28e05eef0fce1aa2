"""Folders in the MVTec AD layout, read as tasks.

    <class>/train/good/*            normal images
    <class>/test/good/*             normal images
    <class>/test/<defect>/*         defective images
    <class>/ground_truth/<defect>/  <stem>_mask.<ext> or <stem>.<ext>; optional as a whole

Samples are in the order of their contents, not of their names, and every draw is made by content.
Moving or renaming images changes no result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moleflow.data.digests import DigestCache
from moleflow.data.images import SUFFIXES
from moleflow.errors import InvalidInput, did_you_mean
from moleflow.passing_errors import retried
from moleflow.settings.config import digest

GOOD = "good"
_WANTED = f"images ({', '.join(SUFFIXES)})"


@dataclass(frozen=True)
class Sample:
    """One image file.

    Attributes:
        name: posix path relative to the data root.
        path: the image file.
        label: 0 = normal, 1 = defective.
        defect: name of the defect, "good" for normal images.
        mask: the mask file; None for normal images and for classes without masks.
        digest: SHA-256 of the image file.
        mask_digest: SHA-256 of the mask file.
        redraw: draws a generated image and its mask again after their eviction; None for others.
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
        name: the name of its folder.
        train: normal training images.
        test: normal and defective test images.
        digest: over the contents of images and masks; neither the root nor a file name enters it.
        has_masks: True if pixel metrics can be computed.
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
        digests: facts known from earlier scans; new ones are saved.

    Raises:
        InvalidInput: the folder is not in the MVTec AD layout; a class is missing or empty; an
            image is broken; a mask is missing or of another size than its image.
    """
    known = digests or DigestCache()
    classes = class_names(root)
    for task in tasks:
        if task not in classes:
            _refuse_class(root, task, classes)
    try:
        return tuple(_scan_task(root, task, known) for task in tasks)
    finally:
        known.save()  # Also after a broken image: the next scan need not read the others again.


def class_names(root: Path) -> list[str]:
    """The class folders under `root`.

    Raises:
        InvalidInput: there is no class folder, or no folder at `root`.
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
            raise InvalidInput(f"{path}: is {what}, with the name of an image; put the image there, or remove it")
    return found


def _visible(folder: Path) -> list[Path]:
    # File managers leave names that begin with a dot, some of them with an image's suffix.
    if not retried(folder.is_dir, folder):
        return []
    return sorted(path for path in retried(lambda: [*folder.iterdir()], folder) if not path.name.startswith("."))


def _masks(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in _images(folder)}
