"""The image files that a user means by files and folders."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from moleflow.data.folders import files_below
from moleflow.data.formats import SUFFIXES, name_says
from moleflow.detection.trained_detector import Failure


@dataclass(frozen=True)
class ImageFile:
    """An image file to score.

    Attributes:
        path: the file.
        name: its path below the folder that was given, or its name if the file itself was.
    """

    path: Path
    name: str


def image_files(given: Iterable[Path], on_failure: Failure) -> list[ImageFile]:
    """Return the files that are meant, in the order given and by name within a folder.

    Args:
        given: image files, and folders whose images count at any depth.
        on_failure: called for each one that holds none.
    """
    found = []
    for place in given:
        if place.is_dir():
            below = [path for path in files_below(place) if name_says(path) == "read"]
            if not below:
                on_failure(place, f"{place}: holds no image ({', '.join(SUFFIXES)})")
            found += [ImageFile(path, path.relative_to(place).as_posix()) for path in below]
        elif place.exists():
            found.append(ImageFile(place, place.name))
        else:
            on_failure(place, f"{place}: no such file or folder")
    return found
