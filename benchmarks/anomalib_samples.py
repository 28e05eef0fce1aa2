"""The lists of samples of anomalib's loaders, compared with ours on the trees of the layout tests.

    pip download anomalib==2.7.0 --no-deps -d FOLDER && unzip -d FOLDER/unpacked FOLDER/*.whl
    python benchmarks/anomalib_samples.py FOLDER/unpacked

anomalib is not imported, as that takes lightning and OpenCV. Its functions that list samples are
taken from its source files and run with pandas. VisA's data module copies files by the table; its
lists are compared by the names of files. Validation images, and masks of normal images, are left
out. Kolektor SDD2 has no loader in anomalib.
"""

from __future__ import annotations

import ast
import csv
import enum
import importlib.util
import json
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from moleflow.data.scan import scan

TREES = Path(__file__).parents[1] / "tests/moleflow/data/test_layouts.py"
Row = tuple[str, str, int, frozenset[str]]
Split = enum.Enum("Split", {"TRAIN": "train", "VAL": "val", "TEST": "test"}, type=str)
Label = enum.Enum("Label", {"NORMAL": 0, "ABNORMAL": 1}, type=int)
TestType = enum.Enum("TestType", {"PUBLIC": "public", "PRIVATE": "private", "PRIVATE_MIXED": "mixed"}, type=str)


def trees() -> Any:
    """The module of the layout tests, which draws the trees."""
    spec = importlib.util.spec_from_file_location("trees", TREES)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def definitions(file: Path, known: dict[str, Any]) -> dict[str, Any]:
    """The functions and constants of a source file, methods among them, without its imports."""
    nodes: list[ast.stmt] = [ast.parse("from __future__ import annotations").body[0]]
    for node in ast.parse(file.read_text()).body:
        of_class = node.body if isinstance(node, ast.ClassDef) else []
        nodes += [one for one in (node, *of_class) if isinstance(one, ast.FunctionDef)]
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper():
            nodes.append(node)
    space = dict(known)
    for node in nodes[1:]:
        # A definition that needs what is not imported is left out.
        try:
            exec(compile(ast.Module([nodes[0], node], []), str(file), "exec"), space)
        except NameError:
            continue
    return space


def our_rows(root: Path, name: str) -> set[Row]:
    """Our samples of a class."""
    (task,) = scan(root, [name])
    rows = set()
    for split, samples in (("train", task.train), ("test", task.test)):
        for one in samples:
            masks = [path for path in (one.mask, *(path for path, _ in one.more_masks)) if path is not None]
            rows.add((split, str(one.path.resolve()), one.label, frozenset(str(path.resolve()) for path in masks)))
    return rows


def their_rows(frame: Any) -> set[Row]:
    """The samples in a table of anomalib."""
    rows = set()
    for one in frame.itertuples():
        paths: Iterable[str] = [one.mask_path] if isinstance(one.mask_path, str) else one.mask_path or []
        masks = frozenset(str(Path(path).resolve()) for path in paths if path and one.label_index == 1)
        if one.split != "val":
            rows.add((one.split, str(Path(one.image_path).resolve()), int(one.label_index), masks))
    return rows


def names_of(rows: Iterable[Row]) -> set[Row]:
    """The rows with the names of files in place of their paths."""
    return {
        (split, Path(path).name, label, frozenset(Path(m).name for m in masks)) for split, path, label, masks in rows
    }


def main(anomalib: Path) -> int:
    """Print a line for each set; return 1 if a list differs."""
    pd.set_option("future.infer_string", False)  # anomalib sets lists in columns of texts.
    known: dict[str, Any] = {"os": os, "re": re, "np": np, "pd": pd, "DataFrame": pd.DataFrame, "Path": Path}
    known |= {"Split": Split, "LabelName": Label, "TestType": TestType, "MisMatchError": ValueError}
    known |= {"csv": csv, "shutil": shutil, "json": json, "logger": logging.getLogger()}
    known |= {
        "cv2": SimpleNamespace(
            imread=lambda path: np.asarray(Image.open(path).convert("RGB")).copy(),
            imwrite=lambda path, pixels: Image.fromarray(pixels).save(path),
        )
    }
    known = definitions(anomalib / "data/utils/path.py", known)
    drawn, folder = trees(), anomalib / "data/datasets/image"

    def lister(file: str, function: str) -> Callable[..., Any]:
        found: Callable[..., Any] = definitions(folder / file, known)[function]
        return found

    mvtec = lister("mvtecad.py", "make_mvtec_ad_dataset")

    def real_iad(root: Path) -> Any:
        table = json.loads((root / "realiad_jsons/realiad_jsons/audiojack.json").read_text())
        listed = lister("realiad.py", "make_realiad_dataset")
        return listed(root / "realiad_1024/audiojack", metadata=table, confinement_root=root)

    def visa(root: Path) -> Any:
        module = definitions(anomalib / "data/datamodules/image/visa.py", known)
        module |= {
            "VISA_CATEGORIES": ("candle",),
            "VISA_SPLITS": ("train", "test"),
            "VISA_LABELS": ("normal", "anomaly"),
        }
        module["apply_cls1_split"](SimpleNamespace(root=root, split_root=root / "sorted"))
        return mvtec(root / "sorted/candle", extensions=(".png", ".JPG"))

    sets: dict[str, tuple[Callable[[Path], Any], str, Callable[[Path], Any]]] = {
        "MVTec AD": (drawn.mvtec_ad, "bottle", lambda root: mvtec(root / "bottle")),
        "MPDD": (drawn.mvtec_ad, "bottle", lambda root: lister("mpdd.py", "make_mpdd_dataset")(root / "bottle")),
        "MVTec AD 2": (
            drawn.mvtec_ad_2,
            "can",
            lambda root: lister("mvtecad2.py", "make_mvtec2_dataset")(root / "can"),
        ),
        "MVTec LOCO AD": (
            drawn.mvtec_loco,
            "pushpins",
            lambda root: lister("mvtec_loco.py", "make_dataset")(root / "pushpins"),
        ),
        "BTAD": (drawn.btad, "01", lambda root: lister("btech.py", "make_btech_dataset")(root / "01")),
        "Real-IAD": (drawn.real_iad, "audiojack", real_iad),
        "VisA": (drawn.visa, "candle", visa),
    }
    differ = 0
    for name, (draw, of_class, listed) in sets.items():
        with tempfile.TemporaryDirectory() as place:
            draw(Path(place))
            ours = our_rows(Path(place), of_class)
            theirs = their_rows(listed(Path(place)))
        if name == "VisA":
            ours, theirs = names_of(ours), names_of(theirs)
        differ += ours != theirs
        print(f"{name}: ours {len(ours)}, anomalib's {len(theirs)}, {'equal' if ours == theirs else 'NOT EQUAL'}")
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) / "anomalib"))
