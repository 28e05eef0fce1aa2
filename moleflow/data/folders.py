"""The files below a folder, as a scan sees them: hidden names are left out, order is by name."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from moleflow.data.formats import name_says
from moleflow.errors import InvalidInput
from moleflow.passing_errors import retried

_NO_IMAGES = frozenset({"readme", "license", "licence", "copying", "notice", "makefile"})


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in a folder; none if there is no such folder."""
    return [folder / entry.name for entry in _entries(folder) if entry.is_dir()]


def files_in(folder: Path) -> list[Path]:
    """The files directly in a folder; none if there is no such folder."""
    return [folder / entry.name for entry in _entries(folder) if entry.is_file()]


def images_in(folder: Path) -> list[Path]:
    """The files directly in a folder that have the suffix of an image.

    Raises:
        InvalidInput: a folder or a dead link has such a name.
    """
    found = []
    for entry in _entries(folder):
        path = folder / entry.name
        if name_says(path) != "read":
            continue
        if not entry.is_file():
            what = "a folder" if entry.is_dir() else "a link to nothing" if entry.is_symlink() else "no file"
            raise InvalidInput(f"{path}: is {what}, with the name of an image; put the image there, or remove it")
        found.append(path)
    return found


def files_below(folder: Path, leaving_out: Collection[Path] = ()) -> Iterator[Path]:
    """Every visible file below a folder, links followed, each folder once.

    Folders that this user may not read are left out.

    Args:
        folder: the folder.
        leaving_out: folders and files that are not looked at, with paths that start as `folder`.
    """
    yield from _walk(folder, set(), frozenset(leaving_out))


def could_be_image(path: Path) -> bool:
    """True for a file with the suffix of an image, also of one that is not read, or with none."""
    return name_says(path) != "no image" or (not path.suffix and path.name.lower() not in _NO_IMAGES)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder by name, without hidden ones; none if there is no such folder.

    An entry knows whether it is a folder or a file without a further call, unless it is a link.
    """

    def listed() -> list[os.DirEntry[str]]:
        with os.scandir(folder) as entries:
            # File managers leave names that begin with a dot, some of them with an image's suffix.
            return sorted((one for one in entries if not one.name.startswith(".")), key=lambda one: one.name)

    try:
        return retried(listed, folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _walk(folder: Path, seen: set[tuple[int, int]], leaving_out: frozenset[Path]) -> Iterator[Path]:
    if folder in leaving_out:
        return
    state = retried(folder.stat, folder)
    if (state.st_dev, state.st_ino) in seen:  # A link to a folder above.
        return
    seen.add((state.st_dev, state.st_ino))
    try:
        entries = _entries(folder)
    except PermissionError:
        return
    for entry in entries:
        path = folder / entry.name
        if entry.is_dir():
            yield from _walk(path, seen, leaving_out)
        elif path not in leaving_out:
            yield path
