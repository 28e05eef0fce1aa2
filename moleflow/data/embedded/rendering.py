"""The embedded images: a painter for each class, then one camera for all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from moleflow.data.embedded.drawing import SIZE, NoiseSource, Plane, X, value_noise
from moleflow.data.embedded.grid import grid
from moleflow.data.embedded.leather import leather
from moleflow.data.embedded.transistor import transistor

EMBEDDED_VERSION = "1"
TRAIN_GOOD, TEST_GOOD = 60, 40
DEFECTS = {
    "leather": {"cut": 10, "fold": 10, "glue": 10, "stain": 10},
    "grid": {"bent": 14, "broken": 13, "thread": 13},
    "transistor": {"bent_lead": 10, "cut_lead": 10, "damaged_case": 10, "misplaced": 10},
}
EMBEDDED_CLASSES = tuple(DEFECTS)
PAINTERS: dict[str, Callable[[NoiseSource, str, NoiseSource], Plane]] = {
    "leather": leather,
    "grid": grid,
    "transistor": transistor,
}

Pixels = npt.NDArray[np.uint8]


def render_image(name: str, split: str, kind: str, index: int, with_defect: bool = True) -> Pixels:
    """One image, uint8 (256, 256, 3).

    Args:
        name: the class.
        split: train or test.
        kind: the defect, or "good".
        index: number of the image within its folder.
        with_defect: False leaves the defect out and changes nothing else.
    """
    key = (EMBEDDED_VERSION, name, split, kind, index)
    image = PAINTERS[name](NoiseSource(*key, "scene"), kind if with_defect else "good", NoiseSource(*key, "defect"))
    camera = NoiseSource(*key, "camera")
    light = camera.between(0.9, 1.1) * (
        1 + 0.07 * value_noise(camera, 200) + camera.between(-0.08, 0.08) * (X - 128) / 128
    )
    exposed = image * light[..., None] + camera.between(2.0, 4.0) * camera.grain(SIZE, SIZE, 3)
    pixels: Pixels = np.floor(np.clip(exposed, 0, 255) + 0.5).astype(np.uint8)
    return pixels


def _save(pixels: Pixels, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)


def render(folder: Path) -> None:
    """Write all classes in the MVTec AD layout: RGB images, and masks of 0 and 255."""
    for name in EMBEDDED_CLASSES:
        root = folder / name
        for index in range(TRAIN_GOOD):
            _save(render_image(name, "train", "good", index), root / f"train/good/{index:03d}.png")
        for index in range(TEST_GOOD):
            _save(render_image(name, "test", "good", index), root / f"test/good/{index:03d}.png")
        for kind, count in DEFECTS[name].items():
            for index in range(count):
                pixels = render_image(name, "test", kind, index)
                changed = (pixels != render_image(name, "test", kind, index, with_defect=False)).any(axis=2)
                _save(pixels, root / f"test/{kind}/{index:03d}.png")
                _save(changed.astype(np.uint8) * 255, root / f"ground_truth/{kind}/{index:03d}_mask.png")
