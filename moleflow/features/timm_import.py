"""The import of timm, which works without torchvision's library.

timm imports torchvision. With a CPU build of torch, torchvision's compiled library often does not
load; its operators are then missing, and the import fails. timm's models need none of them. So if
the library does not load, the two operators that the import needs are declared without an
implementation.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import torch


@cache
def import_timm() -> ModuleType:
    """The module timm, also if torchvision does not work."""
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
