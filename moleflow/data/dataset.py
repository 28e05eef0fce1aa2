"""The data set of a run: a folder that the user gave, or the embedded images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

EMBEDDED = "embedded"


@dataclass(frozen=True)
class Dataset:
    """A folder of class folders.

    Attributes:
        name: "embedded", or the folder's own name, as headers, tables and Parquet show it.
        root: the folder.
        generated: True if `moleflow.data.embedded` drew the images.
    """

    name: str
    root: Path
    generated: bool


def open_dataset(root: Path | None, cache: Path, drawing: Callable[[], None] = lambda: None) -> Dataset:
    """The data set at `root`, or the embedded images if no root is given.

    Args:
        root: the user's folder.
        cache: folder under which the embedded images are kept.
        drawing: called before they are drawn, which happens once and takes seconds.

    Raises:
        OSError: the embedded images cannot be written.
    """
    if root is not None:
        name = root.resolve().name
        # In every table the word alone means the generated images.
        return Dataset(f"folder {name}" if name == EMBEDDED else name, root, generated=False)
    from moleflow.data.embedded.folder import ensure_embedded  # Only drawing needs what it imports.

    return Dataset(EMBEDDED, ensure_embedded(cache, drawing), generated=True)
