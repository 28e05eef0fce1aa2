"""Real-IAD, by its JSON files, or by its folders for classes without one.

    realiad_jsons/<class>.json, or realiad_jsons/realiad_jsons/<class>.json
    realiad_1024/<class>/OK/S0001/*.jpg            normal images
    realiad_1024/<class>/NG/<defect>/S0001/*.jpg   defective images, and *.png, their masks

Without JSON files the folders of the classes may also lie in the data root itself.

A JSON file holds `train` and `test`: lists of {category, anomaly_class, image_path, mask_path},
with paths that start from realiad_<size>/<class>. `OK` is normal; other classes name the defect.
One folder of images (realiad_256, realiad_512, realiad_1024 or realiad_raw) must be there.
`real_iad_folders.py` says how a class without a JSON file is read.

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
from moleflow.data.layouts.real_iad_folders import files_of_folders, is_class_folder
from moleflow.data.normal_names import nfc
from moleflow.data.samples import GOOD
from moleflow.errors import InvalidInput

_TABLES = "realiad_jsons"
_SIZES = ("realiad_256", "realiad_512", "realiad_1024", "realiad_raw")


@dataclass(frozen=True)
class RealIAD:
    """See the module."""

    name: str = "real_iad"
    structure: str = f"{_TABLES}/<class>.json or <class>/OK/S0001"

    def classes(self, root: Path, normal: tuple[str, ...] | None) -> Mapping[str, Path]:
        """{class: its JSON file, or its folder without one}; see `Layout.classes`."""
        found = {nfc(folder.name): folder for place in (root, *_sizes(root)) for folder in _class_folders(place)}
        for folder in (root / _TABLES, root / _TABLES / _TABLES):
            found |= {nfc(path.stem): path for path in files_in(folder) if path.suffix == ".json"}
        return found

    def files(self, root: Path, name: str, normal: tuple[str, ...] | None) -> ClassFiles:
        """The files of a class; see `Layout.files`."""
        place = self.classes(root, normal)[name]
        if place.parent == root:
            return files_of_folders(place, f"{_TABLES}/{name}.json")
        sizes = _sizes(root)
        if len(sizes) != 1:
            there = ", ".join(one.name for one in sizes) or "none"
            raise InvalidInput(
                f"{root}: folders of images there: {there}; give one of {' | '.join(_SIZES)}, and move others away"
            )
        if place.is_dir():
            return files_of_folders(place, f"{_TABLES}/{name}.json")
        return self._listed(place, sizes[0] / place.stem)

    def places(self, root: Path, normal: tuple[str, ...] | None) -> list[Path]:
        """The folders of the images of its classes; see `Layout.places`."""
        names = self.classes(root, normal)
        return [one for place in (root, *_sizes(root)) for one in folders_in(place) if nfc(one.name) in names]

    def _listed(self, table: Path, folder: Path) -> ClassFiles:
        """The files of a class with a JSON file; `folder` is that of its images."""
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


def _sizes(root: Path) -> list[Path]:
    """The folders of images of one size."""
    return [one for one in folders_in(root) if one.name in _SIZES]


def _class_folders(place: Path) -> list[Path]:
    """The classes that are there without a look at JSON files."""
    return [one for one in folders_in(place) if is_class_folder(one)]


LAYOUT = RealIAD()
