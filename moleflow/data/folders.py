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
    """The folders directly in a folder; none if there is no such folder.

    Raises:
        InvalidInput: this user may not read it. So for `files_in` and `images_in`.
    """
    return [folder / entry.name for entry in _entries(folder) if _is_folder(entry)]


def is_folder(path: Path) -> bool:
    """True for a folder; False, too, if this user may not look, as in a `lost+found`."""
    try:
        return path.is_dir()
    except PermissionError:
        return False


def files_in(folder: Path) -> list[Path]:
    """The files directly in a folder; none if there is no such folder."""
    return [folder / entry.name for entry in _entries(folder) if _is_file(entry)]


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
        if not _is_file(entry):
            what = "a folder" if _is_folder(entry) else "a link to nothing" if entry.is_symlink() else "no file"
            raise InvalidInput(f"{path}: is {what}, with the name of an image; put the image there, or remove it")
        found.append(path)
    return found


def files_below(folder: Path, leaving_out: Collection[Path] = ()) -> Iterator[Path]:
    """Every visible file below a folder, links followed, each folder once.

    Folders that this user may not read, or that a link leads up to, are left out.

    Args:
        folder: the folder.
        leaving_out: folders and files that are not looked at, with paths that start as `folder`.
    """
    top = folder.resolve()
    seen: set[tuple[int, int]] = set()
    waiting = [(folder, True)]
    while waiting:
        path, is_folder = waiting.pop()
        if path in leaving_out:
            continue
        if not is_folder:
            yield path
            continue
        try:
            state = retried(path.stat, path)
            entries = _listed(path)
        except PermissionError:
            continue
        if (state.st_dev, state.st_ino) in seen:
            continue
        seen.add((state.st_dev, state.st_ino))
        for entry in reversed(entries):
            below = path / entry.name
            # A link to a folder above would lead to everything else on this machine.
            if not (entry.is_symlink() and _is_folder(entry) and top.is_relative_to(below.resolve())):
                waiting.append((below, _is_folder(entry)))


def could_be_image(path: Path) -> bool:
    """True for a file with the suffix of an image, also of one that is not read, or with none."""
    return name_says(path) != "no image" or (not path.suffix and path.name.lower() not in _NO_IMAGES)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """As `_listed`, for a folder that must be readable.

    Raises:
        InvalidInput: this user may not read it.
    """
    try:
        return _listed(folder)
    except PermissionError as error:
        raise InvalidInput(f"{folder}: cannot be read ({error.strerror}); let this user read it") from None


def _listed(folder: Path) -> list[os.DirEntry[str]]:
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


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link that leads to itself, or to where this user may not look.
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
