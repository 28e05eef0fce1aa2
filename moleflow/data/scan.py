"""Scan of a data root: the samples of its classes, every image checked once.

Samples are in the order of their contents, not of their names, and every draw is made by content.
Moving or renaming images changes no result. `moleflow.data.layouts` decides which files are images,
labels and masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from moleflow.data.digests import DigestCache
from moleflow.data.formats import SUFFIXES
from moleflow.data.layouts.layout import ClassFiles, Layout, ListedImage
from moleflow.data.layouts.table import BY_LOOKING, Reading, class_files, find_classes
from moleflow.data.normal_names import nfc
from moleflow.data.samples import GOOD, PassedOver, Sample, TaskData, WideMask
from moleflow.errors import InvalidInput
from moleflow.settings.config import DataKnobs, digest

WIDE = 0.5
"""A mask that covers more than this share of its image is noted: it may be inverted."""
_DEFECTIVE = "defective"
_WANTED = f"images ({', '.join(SUFFIXES)})"


def scan(
    root: Path, classes: Sequence[str], digests: DigestCache | None = None, reading: Reading = BY_LOOKING
) -> tuple[TaskData, ...]:
    """The classes' images, each checked once.

    Args:
        root: the data root.
        classes: names of classes, in the order of the result.
        digests: facts known from earlier scans; new ones are saved.
        reading: how the root is read.

    Raises:
        InvalidInput: the root has no known layout; a class is missing or empty; an image is broken;
            a mask is missing, in doubt, or of another size than its image; a folder's name is near
            to that of normal images.
    """
    return scan_files(root, list_files(root, classes, find_classes(root, reading), reading), digests)


def list_files(
    root: Path, classes: Sequence[str], found: Mapping[str, Layout], reading: Reading = BY_LOOKING
) -> dict[str, ClassFiles]:
    """{class in NFC: its files, none of them opened}, in the order of `classes`.

    Args:
        root: the data root.
        classes: names of classes.
        found: the classes of the root, from `find_classes`.
        reading: how the root is read.

    Raises:
        InvalidInput: a class is missing; files are missing or in doubt.
    """
    return {name: class_files(root, name, found, reading) for name in map(nfc, classes)}


def scan_files(
    root: Path, listed: Mapping[str, ClassFiles], digests: DigestCache | None = None
) -> tuple[TaskData, ...]:
    """The images of listed classes, each checked once.

    Args:
        root: the data root.
        listed: the files of the classes.
        digests: facts known from earlier scans; new ones are saved.

    Raises:
        InvalidInput: a class is empty; an image is broken, or its mask of another size.
    """
    known = digests or DigestCache()
    try:
        return tuple(_scan_class(root, name, files, known) for name, files in listed.items())
    finally:
        known.save()  # Also after a broken image: the next scan need not read the others again.


def class_names(root: Path, reading: Reading = BY_LOOKING) -> list[str]:
    """The classes in a data root, sorted.

    Raises:
        InvalidInput: as `find_classes`.
    """
    return [*find_classes(root, reading)]


def reading_of(data: DataKnobs) -> Reading:
    """The knobs of a configuration that decide how the data root is read."""
    return Reading(data.layout, data.normal_names)


def _scan_class(root: Path, name: str, files: ClassFiles, known: DigestCache) -> TaskData:
    wide: list[WideMask] = []
    empty: list[str] = []
    train = [_sample(root, image, known, [], []) for image in files.train]
    aside = sum(sample.label for sample in train)  # Of those that only their masks show as defective.
    train = [sample for sample in train if sample.label == 0]
    if not train:
        need = f"a class needs normal training images{_passed_over_hint(files)}"
        raise InvalidInput(f"{files.wanted[0]}: class {name}: no training {_WANTED}; {need}")
    test = [_sample(root, image, known, wide, empty) for image in files.test]
    if not test:
        need = f"a class needs test images, good or with a defect{_passed_over_hint(files)}"
        raise InvalidInput(f"{files.wanted[1]}: class {name}: no test {_WANTED}; {need}")
    train.sort(key=_content)
    test.sort(key=_content)
    contents = [["train", *_content(sample)] for sample in train] + [["test", *_content(sample)] for sample in test]
    over = (PassedOver(aside, "defective training images"),) if aside else ()
    return TaskData(
        name,
        tuple(train),
        tuple(test),
        digest(contents),
        files.has_masks,
        over + files.passed_over,
        tuple(wide),
        tuple(sorted(empty)),
    )


def _passed_over_hint(files: ClassFiles) -> str:
    return f"; passed over: {', '.join(map(str, files.passed_over))}" if files.passed_over else ""


def _content(sample: Sample) -> tuple[str, ...]:
    more = sorted(of_mask for _, of_mask in sample.more_masks)
    return sample.defect, sample.digest, sample.mask_digest or "", *more


def _sample(root: Path, image: ListedImage, known: DigestCache, wide: list[WideMask], empty: list[str]) -> Sample:
    """The sample of an image. A mask that covers most of it is added to `wide`.

    The name of a defective image is added to `empty` if its masks mark no pixel.
    """
    facts = known.facts(image.path)
    masks: list[tuple[Path, str]] = []
    shares: list[float] = []
    for path in image.masks:
        of_mask = known.facts(path, is_mask=True)
        sizes = f"{of_mask.width}x{of_mask.height}", f"{facts.width}x{facts.height}"
        if sizes[0] != sizes[1]:
            raise InvalidInput(f"{path}: {sizes[0]} pixels, but its image has {sizes[1]}; make the mask fit the image")
        masks.append((path, of_mask.identity))
        shares.append(of_mask.defective or 0.0)
    defect = image.defect
    if defect is None:
        defect = _DEFECTIVE if any(shares) else GOOD
    if defect == GOOD:
        masks = []
    masks.sort(key=lambda mask: mask[1])  # By content, as all else.
    if masks:
        wide += [
            WideMask(_name(root, path), share) for path, share in zip(image.masks, shares, strict=True) if share > WIDE
        ]
        if not any(shares):
            empty.append(_name(root, image.path))
    mask, mask_digest = masks[0] if masks else (None, None)
    return Sample(
        _name(root, image.path),
        image.path,
        int(defect != GOOD),
        defect,
        mask,
        facts.identity,
        mask_digest,
        more_masks=tuple(masks[1:]),
        largest=facts.largest,
    )


def _name(root: Path, path: Path) -> str:
    """The path relative to the data root, or to the folder of the manifest that is the root.

    Raises:
        InvalidInput: the name is no text, so that no result could hold it.
    """
    folder = root if root.is_dir() else root.parent
    name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InvalidInput(f"{path}: the name is not in UTF-8; rename the file or folder") from None
    return name
