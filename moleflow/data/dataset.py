"""Which images a run uses: a folder that the user gave, or the embedded ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

EMBEDDED = "embedded"


@dataclass(frozen=True)
class Dataset:
    """Where the class folders lie.

    Attributes:
        name: "embedded", or the folder's own name; what headers, tables and Parquet show.
        generated: whether the images were drawn by `moleflow.data.embedded`.
    """

    name: str
    root: Path
    generated: bool


def open_dataset(root: Path | None, cache: Path, drawing: Callable[[], None] = lambda: None) -> Dataset:
    """The data set at `root`, or the embedded images where no root was given.

    Args:
        cache: folder under which the embedded images are kept.
        drawing: called before they are drawn, which takes seconds, once.
    """
    if root is not None:
        own = root.resolve().name
        # The word stands for generated images in every table.
        return Dataset(f"folder {own}" if own == EMBEDDED else own, root, generated=False)
    from moleflow.data.embedded import ensure_embedded  # Only drawing needs what it imports.

    return Dataset(EMBEDDED, ensure_embedded(cache, drawing), generated=True)
