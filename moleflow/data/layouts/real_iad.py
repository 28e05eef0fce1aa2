"""Real-IAD, by its JSON files.

    realiad_jsons/<class>.json, or realiad_jsons/realiad_jsons/<class>.json
    realiad_1024/<class>/OK/S0001/*.jpg            normal images
    realiad_1024/<class>/NG/<defect>/S0001/*.jpg   defective images, and *.png, their masks

A JSON file holds `train` and `test`: lists of {category, anomaly_class, image_path, mask_path},
with paths that start from realiad_<size>/<class>. `OK` is normal; other classes name the defect.
One folder of images (realiad_256, realiad_512, realiad_1024 or realiad_raw) must be there.

C. Wang et al., "Real-IAD: A Real-World Multi-View Dataset for Benchmarking Versatile Industrial
Anomaly Detection", CVPR 2024, and the loader of anomalib 2.7.0 (data/datasets/image/realiad.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moleflow.data.folders import files_in, folders_in
from moleflow.data.layouts.json_rows import json_value, text_of
from moleflow.data.layouts.layout import ClassFiles
from moleflow.data.layouts.listed_rows import ListedRow, class_of_rows
from moleflow.data.normal_names import nfc
from moleflow.data.samples import GOOD
from moleflow.errors import InvalidInput

_TABLES = "realiad_jsons"
_SIZES = ("256", "512", "1024", "raw")


@dataclass(frozen=True)
class RealIAD:
    """See the module."""

    name: str = "real_iad"
    structure: str = "realiad_jsons/<class>.json"

    def classes(self, root: Path, normal: tuple[str, ...] | None) -> Mapping[str, Path]:
        """{class: its JSON file}; see `Layout.classes`."""
        found: dict[str, Path] = {}
        for folder in (root / _TABLES, root / _TABLES / _TABLES):
            found |= {nfc(path.stem): path for path in files_in(folder) if path.suffix == ".json"}
        return found

    def files(self, root: Path, name: str, normal: tuple[str, ...] | None) -> ClassFiles:
        """The files of a class; see `Layout.files`."""
        table = self.classes(root, normal)[name]
        sizes = [one for one in folders_in(root) if one.name.removeprefix("realiad_") in _SIZES]
        if len(sizes) != 1:
            there = ", ".join(one.name for one in sizes) or "none"
            wanted = " | ".join(f"realiad_{size}" for size in _SIZES)
            raise InvalidInput(f"{root}: folders of images there: {there}; give one of {wanted}, and move others away")
        folder = sizes[0] / table.stem
        lists = json_value(table)
        rows = []
        for split in ("train", "test"):
            entries = lists.get(split, []) if isinstance(lists, dict) else None
            if not isinstance(entries, list):
                raise InvalidInput(
                    f"{table}: {split}: given no list of images; a file of Real-IAD holds train and test"
                )
            for number, entry in enumerate(entries, start=1):
                place = f"{table}, {split} {number}"
                image, label = (text_of(entry, key, place) for key in ("image_path", "anomaly_class"))
                mask = entry.get("mask_path")
                rows.append(
                    ListedRow(
                        place,
                        folder / image,
                        split,
                        GOOD if label == "OK" else nfc(label),
                        folder / text_of(entry, "mask_path", place) if mask else None,
                    )
                )
        return class_of_rows(rows, folder, table)


LAYOUT = RealIAD()
