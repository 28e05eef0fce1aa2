"""Image files of a data root that lie outside its classes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from pathlib import Path

from moleflow.data.folders import could_be_image, files_below
from moleflow.data.layouts.layout import Layout
from moleflow.data.layouts.table import BY_LOOKING, Reading
from moleflow.data.samples import PassedOver
from moleflow.errors import counted

LIMIT = 10_000
"""Files after which the count ends, as a data root may hold other things, too."""
_REASON = "outside the classes"


def files_outside(
    root: Path, classes: Mapping[str, Layout], reading: Reading = BY_LOOKING, limit: int = LIMIT
) -> tuple[PassedOver, ...]:
    """The image files that belong to none of the classes; none if the root is a manifest itself.

    Args:
        root: the data root.
        classes: all its classes, from `find_classes`.
        reading: how the root is read.
        limit: files to look at.

    Returns:
        One group, whose places are folders directly in the root; or none.

    Raises:
        InvalidInput: a table cannot be read.
    """
    if not root.is_dir():  # The folder of a manifest may be one's home.
        return ()
    whole = Path(os.path.abspath(root))  # A table may name its files by paths with "..".
    layouts = {layout.name: layout for layout in classes.values()}.values()
    places = {Path(os.path.abspath(place)) for one in layouts for place in one.places(root, reading.normal_names)}
    files = files_below(whole, places)
    found = [path.relative_to(whole).parts[:-1] for path in itertools.islice(files, limit) if could_be_image(path)]
    reason = _REASON if next(files, None) is None else f"{_REASON}, among the first {counted(limit, 'file')} there"
    folders = {f"{parts[0]}/" for parts in found if parts}
    return (PassedOver(len(found), reason, tuple(sorted(folders))),) if found else ()
