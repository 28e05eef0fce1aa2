"""Rows of a table that lists images, made the files of a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moleflow.data.layouts.layout import ClassFiles, ListedImage, passed_over
from moleflow.data.samples import GOOD, PassedOver
from moleflow.errors import InvalidInput


@dataclass(frozen=True)
class ListedRow:
    """An image in a table.

    Attributes:
        place: the table and the row, for messages.
        image: the image file.
        split: "train", "test", or "" for images of another split.
        defect: name of the defect; "good" for normal images.
        mask: the mask file, or None.
    """

    place: str
    image: Path
    split: str
    defect: str
    mask: Path | None


def class_of_rows(rows: Sequence[ListedRow], folder: Path, table: Path) -> ClassFiles:
    """The files of a class, of its rows.

    Defective training images and images of another split are passed over, as files of the class's
    folder are that no row names. Masks of normal images are left aside.

    Args:
        rows: the rows of the class.
        folder: the folder of the class; it need not exist.
        table: the table, for messages.

    Raises:
        InvalidInput: a file is missing, or listed twice; some defective images have a mask, but
            one has none.
    """
    train: list[ListedImage] = []
    test: list[ListedImage] = []
    aside: dict[str, int] = {}
    seen: dict[Path, str] = {}
    without = ""
    for row in rows:
        for path in filter(None, (row.image, row.mask)):
            if not path.is_file():
                raise InvalidInput(f"{row.place}: no such file: {path}; correct the row, or add the file")
        if row.image in seen:
            raise InvalidInput(
                f"{row.place}: {row.image} is listed a second time, after {seen[row.image]}; keep one row"
            )
        seen[row.image] = row.place
        normal = row.defect == GOOD
        if not row.split or (row.split == "train" and not normal):
            reason = "defective training images" if row.split else "of another split"
            aside[reason] = aside.get(reason, 0) + 1
        elif row.split == "train":
            train.append(ListedImage(row.image, GOOD))
        else:
            masks = (row.mask,) if row.mask and not normal else ()
            without = without or (row.place if not normal and not masks else "")
            test.append(ListedImage(row.image, row.defect, masks))
    has_masks = any(image.masks for image in test)
    if has_masks and without:
        raise InvalidInput(f"{without}: a defective image without a mask; give it one, or take all masks out")
    over = tuple(PassedOver(count, reason) for reason, count in aside.items())
    if folder.is_dir():
        used = {*seen, *(row.mask for row in rows if row.mask)}
        over += passed_over(folder, used, lambda path: (f"not in {table.name}", ""))
    return ClassFiles(tuple(train), tuple(test), has_masks, over, (f"{table}: train", f"{table}: test"))
