"""The default cache folder, and a check of the one that a user gives."""

from __future__ import annotations

import os
from pathlib import Path

from moleflow.errors import InvalidInput


def default_cache() -> Path:
    """The folder of features, stages and embedded images, unless the user gives one.

    It is MOLEFLOW_CACHE, or else `moleflow-sweep` in the user's cache folder.
    """
    given = os.environ.get("MOLEFLOW_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moleflow-sweep"


def check_folder(cache: Path) -> None:
    """Refuse a cache folder that is a file.

    Raises:
        InvalidInput: it is.

    """
    if cache.is_file():
        raise InvalidInput(f"--cache: {cache} is a file; give a folder")
