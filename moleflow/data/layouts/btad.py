"""BTAD, beanTech's set of three products.

    <class>/train/ok/*           normal images (.bmp, .png)
    <class>/test/ok/*            normal images
    <class>/test/ko/*            defective images
    <class>/ground_truth/ko/*    <stem>.png or <stem>.bmp

The classes are called 01, 02 and 03: `tasks: ['01', '02', '03']`.

P. Mishra et al., "VT-ADL: A Vision Transformer Network for Image Anomaly Detection and
Localization", ISIE 2021, and the loader of anomalib 2.7.0 (data/datasets/image/btech.py).
"""

from __future__ import annotations

from pathlib import Path

from moleflow.data.folders import is_folder
from moleflow.data.layouts.class_folders import ClassFolders


def _fits(folder: Path) -> bool:
    return is_folder(folder / "train" / "ok") and is_folder(folder / "test" / "ko")


LAYOUT = ClassFolders("btad", _fits, normal=("ok",))
