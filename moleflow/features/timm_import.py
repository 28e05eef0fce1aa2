"""The one place that imports timm.

timm imports torchvision without asking whether it works, and beside a CPU build of torch the torchvision wheel often does not load:
its operators are then missing and the import fails. timm's models need none of them, so where the library does not load the two
operators that the import looks for are declared without an implementation. Where torchvision works nothing is touched.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import torch


@cache
def import_timm() -> ModuleType:
    """timm, importable whatever torchvision's state."""
    _declare_missing_operators()
    import timm

    return timm


def _declare_missing_operators() -> None:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    try:
        torch.ops.load_library(Path(spec.origin).parent / "_C.so")
    except OSError:
        schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", schema)
