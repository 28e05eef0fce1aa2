"""Folders of photos that nobody has split into training and test, and a manifest that does so.

    <class>/<normal>/*   normal images, in a folder such as `good`, `ok` or `normal`
    <class>/<kind>/*     defective images

The folder itself may be the one class. Images count at any depth below `<kind>`.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moleflow.data.digests import DigestCache
from moleflow.data.folders import files_below, folders_in, images_in
from moleflow.data.formats import name_says
from moleflow.data.normal_names import is_near_normal, nfc, yaml_list
from moleflow.data.samples import GOOD
from moleflow.errors import InvalidInput, counted
from moleflow.files import write_atomically

COLUMNS = ("image", "class", "split", "label")
_SPLIT = frozenset({"train", "test", "val", "valid", "validation"})
_MASKS = re.compile(r"(ground[\W_]?truth|masks?|gt|segmentations?|annotations?)", re.IGNORECASE)


@dataclass(frozen=True)
class UnsplitClass:
    """One class.

    Attributes:
        name: the name of its folder, in NFC.
        normal: the folder of its normal images.
        kinds: {name: folder} of its defective images.
        masks: folders that seem to hold masks, which are passed over.
    """

    name: str
    normal: Path
    kinds: Mapping[str, Path]
    masks: tuple[Path, ...]


@dataclass(frozen=True)
class SplitImages:
    """The images of a class, split.

    Attributes:
        name: the class.
        train: normal images for training.
        test: normal images for the test.
        kinds: {name: defective images}, all for the test.
    """

    name: str
    train: tuple[Path, ...]
    test: tuple[Path, ...]
    kinds: Mapping[str, tuple[Path, ...]]

    @property
    def line(self) -> str:
        """The number of images by kind, in one line."""
        defects = ", ".join(f"{kind} {len(images)}" for kind, images in self.kinds.items()) or "none"
        return f"{self.name}: {len(self.train)} training, {len(self.test)} good test images; defective: {defects}"


def unsplit_classes(root: Path, normal_names: Sequence[str] | None = None) -> list[UnsplitClass]:
    """The classes in a folder that have one folder of normal images and no split, by name.

    Args:
        root: the folder of the classes, or of one class.
        normal_names: names of folders of normal images; None = the usual words, such as `ok`.

    Raises:
        InvalidInput: a class has several folders that could hold normal images; this user may not
            read a folder.
    """
    found = [_class_of(folder, normal_names) for folder in (root, *folders_in(root))]
    whole, *below = found
    return [whole] if whole is not None else [one for one in below if one is not None]


def split_images(one: UnsplitClass, share: float, seed: int, digests: DigestCache) -> SplitImages:
    """Split the normal images of a class at random; all defective ones are for the test.

    The draw is made by content, so that names do not matter. Equal images stay together: a copy of
    a training image must not be a test image.

    Args:
        one: the class.
        share: the share of the different normal images that are for the test, above 0, below 1.
        seed: the seed of the draw.
        digests: remembers images that were read.

    Raises:
        InvalidInput: there are fewer than two different normal images; an image is broken.
    """
    by_content: dict[str, list[Path]] = {}
    for path in _images_below(one.normal):
        by_content.setdefault(digests.facts(path).identity, []).append(path)
    contents = sorted(by_content)
    if len(contents) < 2:
        raise InvalidInput(
            f"{one.normal}: holds {counted(len(contents), 'different image')}, but training and test need one each"
        )
    tested = min(len(contents) - 1, max(1, round(share * len(contents))))
    chosen = {contents[place] for place in np.random.default_rng(seed).permutation(len(contents))[:tested]}
    train, test = (
        tuple(sorted(path for content in contents if (content in chosen) is is_test for path in by_content[content]))
        for is_test in (False, True)
    )
    return SplitImages(one.name, train, test, {kind: tuple(_images_below(place)) for kind, place in one.kinds.items()})


def write_manifest(path: Path, classes: Sequence[SplitImages]) -> None:
    """Write the manifest of split classes, which a data root can be.

    Raises:
        OSError: the file cannot be written.
    """
    buffer = io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    rows.writerow(COLUMNS)
    for one in classes:
        groups = [(one.train, "train", GOOD), (one.test, "test", GOOD)]
        groups += [(images, "test", _label(kind)) for kind, images in one.kinds.items()]
        for images, split, label in groups:
            rows.writerows((_relative(image, path.parent), one.name, split, label) for image in images)
    write_atomically(path, buffer.getvalue().encode(), durable=False)


def _class_of(folder: Path, normal_names: Sequence[str] | None) -> UnsplitClass | None:
    """The class in a folder; None if the folder is none, or has a split."""
    kinds = {nfc(one.name): one for one in folders_in(folder)}
    if any(name.casefold() in _SPLIT for name in kinds):
        return None
    names = None if normal_names is None else frozenset(map(nfc, normal_names))
    normal = [name for name in kinds if (is_near_normal(name) if names is None else name in names)]
    normal = [name for name in normal if _images_below(kinds[name])]
    if not normal:
        return None
    if len(normal) > 1:
        raise InvalidInput(
            f"{folder}: the folders {' and '.join(normal)} could both hold normal images; say which one does: "
            f"--set 'normal_names={yaml_list(normal[:1])}'"
        )
    masks = tuple(place for name, place in kinds.items() if _MASKS.fullmatch(name))
    defects = {
        name: place
        for name, place in kinds.items()
        if name != normal[0] and place not in masks and _images_below(place)
    }
    return UnsplitClass(nfc(folder.resolve().name), kinds[normal[0]], defects, masks)


def _images_below(folder: Path) -> list[Path]:
    """The image files at any depth; those directly in it are checked to be files."""
    return sorted({*images_in(folder), *(path for path in files_below(folder) if name_says(path) == "read")})


def _label(kind: str) -> str:
    # A manifest takes a word such as "good" for normal images.
    return f"defective {kind}" if is_near_normal(kind) else kind


def _relative(image: Path, folder: Path) -> str:
    """The path of an image from the folder of the manifest."""
    return Path(os.path.relpath(image.absolute(), folder.absolute())).as_posix()
