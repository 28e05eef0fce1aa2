"""A fixture that shows that a command has written nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Contents = dict[Path, bytes | Path]


@pytest.fixture
def contents() -> Callable[[Path], Contents]:
    """The function that reads every file and link of a folder.

    It leaves out the images, and two memories in the cache that any command may extend: digests of
    scanned images, and backbones that were built.
    """

    def read(folder: Path) -> Contents:
        return {
            path: path.readlink() if path.is_symlink() else path.read_bytes()
            for path in folder.rglob("*")
            if (path.is_symlink() or path.is_file())
            and path.name != "digests.json"
            and not {"images", "backbones"} & set(path.relative_to(folder).parts[:-1])
        }

    return read
