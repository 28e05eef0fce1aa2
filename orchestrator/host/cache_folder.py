"""The cache folder: its default place, and a check."""

from __future__ import annotations

import os
from pathlib import Path

from moleflow.errors import InvalidInput


def check_folder(cache: Path) -> None:
    """See that a cache may be there.

    Raises:
        InvalidInput: a file is.

    """
    if cache.is_file():
        raise InvalidInput(f"--cache: {cache} is a file; give a folder")


def default_cache() -> Path:
    """Where features, stages and the embedded images are kept: MOLEFLOW_CACHE, or a folder in the user's cache."""
    given = os.environ.get("MOLEFLOW_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moleflow-sweep"
