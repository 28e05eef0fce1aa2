"""Seconds of `moleflow-sweep data` on a made folder of 15 classes and 5,354 images.

    python benchmarks/data_survey.py [SIDE]

SIDE is the side of the images in pixels, 256 unless given. The folder and the cache are temporary.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 15
TRAINING, GOOD, DEFECTIVE = 3629, 467, 1258  # As MVTec AD has them.


def draw(root: Path, side: int) -> None:
    """A folder of noisy stripes in the MVTec AD layout, with a mask for each defective image."""
    draws = np.random.default_rng(0)

    def save(name: str, pixels: np.ndarray) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, compress_level=1)
        os.utime(path, (1e9, 1e9))  # Digests of files younger than two seconds are not remembered.

    def texture() -> np.ndarray:
        stripes = 60 * np.sin(np.arange(side) * draws.uniform(0.02, 0.2) + draws.uniform(0, 6))
        grey = 128 + stripes[None, :] + 20 * draws.standard_normal((side, side))
        return np.clip(np.repeat(grey[..., None], 3, axis=-1), 0, 255).astype(np.uint8)

    mask = np.zeros((side, side), dtype=np.uint8)
    mask[: side // 4] = 255
    for total, folder in ((TRAINING, "train/good"), (GOOD, "test/good"), (DEFECTIVE, "test/hole")):
        for number in range(total):
            place = f"class{number % CLASSES:02}"
            save(f"{place}/{folder}/{number:04}.png", texture())
            if folder == "test/hole":
                save(f"{place}/ground_truth/hole/{number:04}_mask.png", mask)


def main() -> None:
    """Draw the folder, then time the command cold and warm."""
    side = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    with tempfile.TemporaryDirectory() as place:
        root, cache = Path(place) / "images", Path(place) / "cache"
        draw(root, side)
        runs = {
            "nothing known, without near copies": "--no-near",
            "digests known, near copies for the first time": "--near",
            "all known": "--near",
            "all known, without near copies": "--no-near",
        }
        for name, option in runs.items():
            words = [sys.executable, "-m", "orchestrator.cli", "data", str(root), option, "--cache", str(cache)]
            start = time.perf_counter()
            subprocess.run(words, check=True, capture_output=True)
            print(f"{time.perf_counter() - start:6.1f} s  {name}", flush=True)


if __name__ == "__main__":
    main()
