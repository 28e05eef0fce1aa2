"""A list of one's own images: manifest.csv or manifest.json in the data root, or a file as root.

    image,class,split,label,mask
    shots/0001.png,bolt,train,good,
    shots/0950.png,bolt,test,scratch,masks/0950.png

The JSON file is a list of mappings with the same keys. Paths start from the file's folder, or from
a home if they begin with `~`.

    image   the image file
    class   the product class
    split   train or test; val, valid and validation are passed over
    label   good or 0 for normal images; else the name of the defect, or 1 for any
    mask    the mask of a defective image; may be left out for all images of a class
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moleflow.data.layouts.csv_rows import csv_rows
from moleflow.data.layouts.json_rows import json_value
from moleflow.data.layouts.layout import ClassFiles
from moleflow.data.layouts.listed_rows import ListedRow, class_of_rows
from moleflow.data.normal_names import is_near_normal, near_name_message, nfc
from moleflow.data.samples import GOOD
from moleflow.errors import InvalidInput

_REQUIRED = ("image", "class", "split", "label")
_COLUMNS = (*_REQUIRED, "mask")
_SPLITS = {"train": "train", "test": "test", "val": "", "valid": "", "validation": ""}
_NORMAL = (GOOD, "0")
_NAMES = ("manifest.csv", "manifest.json")


@dataclass(frozen=True)
class Manifest:
    """See the module."""

    name: str = "manifest"
    structure: str = "manifest.csv"

    def classes(self, root: Path, normal: tuple[str, ...] | None) -> Mapping[str, Path]:
        """{class: the manifest}; see `Layout.classes`."""
        table = _table(root)
        return {nfc(row["class"]): table for _, row in _rows(table)} if table else {}

    def files(self, root: Path, name: str, normal: tuple[str, ...] | None) -> ClassFiles:
        """The files of a class; see `Layout.files`."""
        table = _table(root)
        if table is None:
            raise InvalidInput(f"{root}: the manifest is gone; start again")
        names, rows = frozenset(map(nfc, normal or _NORMAL)), _rows(table)
        if normal is None:
            near = {nfc(row["label"]): place for place, row in rows if _is_near(nfc(row["label"]), names)}
            if near:
                label, place = next(iter(near.items()))
                there = sorted(names & {nfc(row["label"]) for _, row in rows})
                raise InvalidInput(near_name_message(place, label, there, near, "label"))
        own = [_listed(table, place, row, names) for place, row in rows if nfc(row["class"]) == name]
        return class_of_rows(own, table.parent / name, table)

    def places(self, root: Path, normal: tuple[str, ...] | None) -> list[Path]:
        """The files that the manifest names, and folders of its classes; see `Layout.places`."""
        table = _table(root)
        rows = [row for _, row in _rows(table)] if table else []
        return [
            root / (row[key] if key == "class" else Path(row[key]).expanduser())
            for row in rows
            for key in ("class", "image", "mask")
            if row.get(key)
        ]


def is_manifest(path: Path) -> bool:
    """True for a file that has the suffix of a manifest."""
    return path.is_file() and path.suffix.lower() in (".csv", ".json")


def _table(root: Path) -> Path | None:
    """The manifest that is, or lies in, the data root."""
    if is_manifest(root):
        return root
    there = [root / name for name in _NAMES if (root / name).is_file()]
    if len(there) > 1:
        raise InvalidInput(f"{root}: both {' and '.join(_NAMES)} are there; keep one of them")
    return there[0] if there else None


def _rows(table: Path) -> list[tuple[str, dict[str, str]]]:
    """The rows with their places."""
    if table.suffix.lower() == ".csv":
        rows = csv_rows(table, _REQUIRED, _COLUMNS)
        places = [f"{table}, row {number}" for number in range(2, len(rows) + 2)]
    else:
        entries = json_value(table)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise InvalidInput(f"{table}: given no list of mappings; allowed: [{{{', '.join(_COLUMNS)}}}, ...]")
        places = [f"{table}, entry {number}" for number in range(1, len(entries) + 1)]
        rows = [
            {key.casefold(): _text(value, f"{place}: {key}") for key, value in entry.items()}
            for place, entry in zip(places, entries, strict=True)
        ]
    for place, row in zip(places, rows, strict=True):
        missing = next((name for name in _REQUIRED if not row.get(name)), None)
        if missing:
            raise InvalidInput(f"{place}: no {missing}; allowed: {', '.join(_COLUMNS)}, the mask may be left out")
    return list(zip(places, rows, strict=True))


def _is_near(label: str, names: frozenset[str]) -> bool:
    return label not in names and is_near_normal(label)


def _text(value: object, place: str) -> str:
    """The text that a value of JSON means; null is an empty one."""
    if isinstance(value, list | dict):
        raise InvalidInput(f"{place}: given {json.dumps(value):.80}, allowed: a text or a number")
    return "" if value is None else str(value)


def _listed(table: Path, place: str, row: Mapping[str, str], normal: frozenset[str]) -> ListedRow:
    split = _SPLITS.get(row["split"].casefold())
    if split is None:
        raise InvalidInput(f"{place}: split: given '{row['split']}', allowed: {' | '.join(_SPLITS)}")
    label = nfc(row["label"])
    defect = GOOD if label in normal else "defective" if label in ("1", GOOD) else label
    mask = _path(table, place, row["mask"]) if row.get("mask") else None
    return ListedRow(place, _path(table, place, row["image"]), split, defect, mask)


def _path(table: Path, place: str, given: str) -> Path:
    """The file that a row names, from the folder of the manifest; `~` is the home.

    Raises:
        InvalidInput: there is no such home.
    """
    try:
        return table.parent / Path(given).expanduser()
    except RuntimeError:
        raise InvalidInput(f"{place}: {given}: no home of this name; give the path without ~") from None


LAYOUT = Manifest()
