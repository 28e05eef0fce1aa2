"""The lists of samples of anomalib's loaders, compared with ours on the trees of the layout tests.

anomalib is not imported, as that takes lightning and OpenCV. Its functions that list samples are
taken from its source files and run with pandas; `make test-anomalib` puts these files into the
virtual environment. VisA's data module copies files by the table, so its lists are compared by the
names of files. Validation images, and masks of normal images, are left out. Kolektor SDD2 has no
loader in anomalib, and Real-IAD none that does without JSON files.
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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from moleflow.data.scan import scan

pytestmark = [
    pytest.mark.anomalib,
    # pandas says so of a setting that anomalib 2.7.0 needs.
    pytest.mark.filterwarnings("ignore:The 'future.infer_string' option is deprecated"),
]

VERSION = "2.7.0"
SOURCE = Path(sys.prefix) / f"anomalib-{VERSION}"
"""The folder of the unpacked package; the Makefile names it, too."""
Row = tuple[str, str, int, frozenset[str]]
"""Split, image, label and masks of a sample."""
Split = enum.Enum("Split", {"TRAIN": "train", "VAL": "val", "TEST": "test"}, type=str)
Label = enum.Enum("Label", {"NORMAL": 0, "ABNORMAL": 1}, type=int)
Published = enum.Enum("Published", {"PUBLIC": "public", "PRIVATE": "private", "PRIVATE_MIXED": "mixed"}, type=str)


def the_trees() -> Any:
    """The module of the layout tests, which draws the trees."""
    spec = importlib.util.spec_from_file_location("trees", Path(__file__).parents[1] / "moleflow/data/test_layouts.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TREES = the_trees()


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


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    """The names that anomalib's source files import."""
    if not SOURCE.is_dir():
        pytest.skip(f"no {SOURCE}: `make test-anomalib` puts it there")
    assert (SOURCE / f"anomalib-{VERSION}.dist-info").is_dir()
    names: dict[str, Any] = {"os": os, "re": re, "np": np, "pd": pd, "DataFrame": pd.DataFrame, "Path": Path}
    names |= {"Split": Split, "LabelName": Label, "TestType": Published, "MisMatchError": ValueError}
    names |= {"csv": csv, "shutil": shutil, "json": json, "logger": logging.getLogger()}
    names["cv2"] = SimpleNamespace(
        imread=lambda path: np.asarray(Image.open(path).convert("RGB")).copy(),
        imwrite=lambda path, pixels: Image.fromarray(pixels).save(path),
    )
    return definitions(SOURCE / "anomalib/data/utils/path.py", names)


@pytest.fixture
def lister(known: dict[str, Any]) -> Iterator[Callable[[str, str], Callable[..., Any]]]:
    """A function of a file of anomalib's data sets."""

    def function(file: str, name: str) -> Callable[..., Any]:
        found: Callable[..., Any] = definitions(SOURCE / "anomalib/data/datasets/image" / file, known)[name]
        return found

    with pd.option_context("future.infer_string", False):  # anomalib sets lists in columns of texts.
        yield function


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


def by_names(rows: Iterable[Row]) -> set[Row]:
    """The rows with the names of files in place of their paths."""
    return {
        (split, Path(path).name, label, frozenset(Path(mask).name for mask in masks))
        for split, path, label, masks in rows
    }


@pytest.mark.parametrize(
    ("draw", "name", "file", "function", "samples"),
    [
        pytest.param(TREES.mvtec_ad, "bottle", "mvtecad.py", "make_mvtec_ad_dataset", 13, id="MVTec AD"),
        pytest.param(TREES.mvtec_ad, "bottle", "mpdd.py", "make_mpdd_dataset", 13, id="MPDD"),
        pytest.param(TREES.mvtec_ad_2, "can", "mvtecad2.py", "make_mvtec2_dataset", 10, id="MVTec AD 2"),
        pytest.param(TREES.mvtec_loco, "pushpins", "mvtec_loco.py", "make_dataset", 10, id="MVTec LOCO AD"),
        pytest.param(TREES.btad, "01", "btech.py", "make_btech_dataset", 9, id="BTAD"),
    ],
)
def test_folders_give_the_samples_of_anomalib(
    tmp_path: Path,
    lister: Callable[[str, str], Callable[..., Any]],
    draw: Callable[[Path], Any],
    name: str,
    file: str,
    function: str,
    samples: int,
) -> None:
    draw(tmp_path)
    ours = our_rows(tmp_path, name)
    assert len(ours) == samples
    assert ours == their_rows(lister(file, function)(tmp_path / name))


def test_json_files_give_the_samples_of_anomalib(
    tmp_path: Path, lister: Callable[[str, str], Callable[..., Any]]
) -> None:
    TREES.real_iad(tmp_path)
    table = json.loads((tmp_path / "realiad_jsons/realiad_jsons/audiojack.json").read_text())
    listed = lister("realiad.py", "make_realiad_dataset")
    ours = our_rows(tmp_path, "audiojack")
    assert len(ours) == 10
    assert ours == their_rows(listed(tmp_path / "realiad_1024/audiojack", metadata=table, confinement_root=tmp_path))


def test_the_table_of_visa_gives_the_samples_of_anomalib(
    tmp_path: Path, known: dict[str, Any], lister: Callable[[str, str], Callable[..., Any]]
) -> None:
    TREES.visa(tmp_path)
    ours = our_rows(tmp_path, "candle")
    module = definitions(SOURCE / "anomalib/data/datamodules/image/visa.py", known)
    module |= {"VISA_CATEGORIES": ("candle",), "VISA_SPLITS": ("train", "test"), "VISA_LABELS": ("normal", "anomaly")}
    module["apply_cls1_split"](SimpleNamespace(root=tmp_path, split_root=tmp_path / "sorted"))
    frame = lister("mvtecad.py", "make_mvtec_ad_dataset")(tmp_path / "sorted/candle", extensions=(".png", ".JPG"))
    assert len(ours) == 9
    assert by_names(ours) == by_names(their_rows(frame))
