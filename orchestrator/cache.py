"""What the cache holds: features, stages, generated defects and the embedded images."""

from __future__ import annotations

import shutil
from pathlib import Path

from moleflow.features import FeatureCache
from moleflow.stages import StageStore


def describe(cache: Path) -> list[str]:
    """The cache in lines for people."""
    features, (stage_bytes, stages) = FeatureCache(cache / "features").size(), StageStore(cache / "stages").usage()
    embedded = [path for path in cache.glob("embedded-*") if path.is_dir()]
    return [
        f"cache: {cache}",
        f"features: {features.images} images, {_size(features.bytes)}",
        f"stages: {stages}, {_size(stage_bytes)}",
        f"embedded images: {', '.join(path.name for path in embedded) or 'not drawn yet'}",
    ]


def empty(cache: Path) -> None:
    """Delete features, stages and generated defects.

    Raises:
        InvalidInput: a run is filling the cache at this moment.

    """
    FeatureCache(cache / "features").clear()
    StageStore(cache / "stages").clear()
    shutil.rmtree(cache / "synthetic", ignore_errors=True)


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
