"""The interface of a layout, and what it finds: the image files of a class, none of them opened."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from moleflow.data.folders import could_be_image, files_below
from moleflow.data.formats import name_says
from moleflow.data.normal_names import nfc
from moleflow.data.samples import PassedOver


@dataclass(frozen=True)
class ListedImage:
    """An image file of a class, with its label.

    Attributes:
        path: the file.
        defect: name of the defect; "good" for normal images; None if the masks decide: an image
            without a defective pixel is normal.
        masks: its mask files; a pixel is defective if any of them says so.
    """

    path: Path
    defect: str | None
    masks: tuple[Path, ...] = ()


@dataclass(frozen=True)
class ClassFiles:
    """The image files of a class.

    Attributes:
        train: training images.
        test: test images.
        has_masks: True if every defective test image has a mask.
        passed_over: files that are not read.
        wanted: the folders or the table that should hold training and test images, for messages.
        split: a sentence on a split into training and test images that the data set does not give;
            empty if it gives one.
    """

    train: tuple[ListedImage, ...]
    test: tuple[ListedImage, ...]
    has_masks: bool
    passed_over: tuple[PassedOver, ...]
    wanted: tuple[str, str]
    split: str = ""


class Layout(Protocol):
    """A structure of folders and tables that holds classes."""

    @property
    def name(self) -> str:
        """The name for `data.layout`."""

    @property
    def structure(self) -> str:
        """The folders or the table by which it is recognised, for messages."""

    def classes(self, root: Path, normal: tuple[str, ...] | None) -> Mapping[str, Path]:
        """{class: its folder or table} of those that have this structure; empty if none has.

        Args:
            root: the data root.
            normal: names of folders or labels of normal images; None = those of the layout.

        Raises:
            InvalidInput: a table cannot be read.
        """

    def files(self, root: Path, name: str, normal: tuple[str, ...] | None) -> ClassFiles:
        """The files of one of these classes.

        Raises:
            InvalidInput: files are missing, in doubt or cannot be told apart.
        """

    def places(self, root: Path, normal: tuple[str, ...] | None) -> Collection[Path]:
        """The folders and files in the data root that `files` reads or counts, of all classes.

        Raises:
            InvalidInput: a table cannot be read.
        """


def passed_over(
    folder: Path, used: Iterable[Path], reason: Callable[[Path], tuple[str, str]]
) -> tuple[PassedOver, ...]:
    """The files below a class's folder that could be images and are not used, by reason.

    Args:
        folder: the folder of the class.
        used: the files that are read.
        reason: the reason and the place, of a file that has the suffix of an image.
    """
    taken = set(used)
    groups: dict[str, dict[str, int]] = {}
    for path in files_below(folder):
        if path in taken or not could_be_image(path):
            continue
        suffix = path.suffix.lower() or "without a suffix"
        why, where = reason(path) if name_says(path) == "read" else (suffix, "")
        places = groups.setdefault(why, {})
        places[where] = places.get(where, 0) + 1
    return tuple(
        PassedOver(sum(places.values()), why, tuple(sorted(filter(None, places)))) for why, places in groups.items()
    )


def by_stem(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """{stem in NFC: files}. An image and its mask may be named in two forms of the same letters."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(nfc(path.stem), []).append(path)
    return found
