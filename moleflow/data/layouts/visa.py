"""VisA, by the table of its one-class setup.

    split_csv/1cls.csv                       object, split, label, image, mask
    <class>/Data/Images/Normal/*.JPG         normal images
    <class>/Data/Images/Anomaly/*.JPG        defective images
    <class>/Data/Masks/Anomaly/*.png         masks: 0 is normal, any other value a kind of defect

The paths in the table start from the root. Labels are `normal` and `anomaly`; the defects of an
image have no names. A copy that was sorted into train, test and ground_truth has the structure of
MVTec AD.

Y. Zou et al., "SPot-the-Difference Self-Supervised Pre-training for Anomaly Detection and
Segmentation", ECCV 2022, github.com/amazon-science/spot-diff, and the data module of anomalib 2.7.0
(data/datamodules/image/visa.py), which reads the same table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moleflow.data.layouts.csv_rows import csv_rows
from moleflow.data.layouts.layout import ClassFiles
from moleflow.data.layouts.listed_rows import ListedRow, class_of_rows
from moleflow.data.normal_names import nfc
from moleflow.data.samples import GOOD
from moleflow.errors import InvalidInput

_COLUMNS = ("object", "split", "label", "image", "mask")
_SPLITS = ("train", "test")
_LABELS = {"normal": GOOD, "anomaly": "anomaly"}


@dataclass(frozen=True)
class VisA:
    """See the module."""

    name: str = "visa"
    structure: str = "split_csv/1cls.csv"

    def classes(self, root: Path, normal: tuple[str, ...] | None) -> Mapping[str, Path]:
        """{class: its folder}; see `Layout.classes`."""
        if not (root / self.structure).is_file():
            return {}
        rows = csv_rows(root / self.structure, _COLUMNS, _COLUMNS)
        return {nfc(row["object"]): root / row["object"] for row in rows}

    def files(self, root: Path, name: str, normal: tuple[str, ...] | None) -> ClassFiles:
        """The files of a class; see `Layout.files`."""
        table = root / self.structure
        rows, folder = [], root / name
        for number, row in enumerate(csv_rows(table, _COLUMNS, _COLUMNS), start=2):
            if nfc(row["object"]) != name:
                continue
            place, folder = f"{table}, row {number}", root / row["object"]
            for column, allowed in (("split", _SPLITS), ("label", tuple(_LABELS))):
                if row.get(column) not in allowed:
                    raise InvalidInput(f"{place}: {column}: given '{row.get(column)}', allowed: {' | '.join(allowed)}")
            mask = root / row["mask"] if row.get("mask") else None
            rows.append(ListedRow(place, root / row["image"], row["split"], _LABELS[row["label"]], mask))
        return class_of_rows(rows, folder, table)

    def places(self, root: Path, normal: tuple[str, ...] | None) -> list[Path]:
        """The folders of the classes; see `Layout.places`."""
        return [*self.classes(root, normal).values()]


LAYOUT = VisA()
