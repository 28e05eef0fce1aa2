"""Write solar cells as a folder in the MVTec AD layout: images to choose defaults by.

    pip install elpv-dataset
    python benchmarks/solar_cells.py OUT

The package elpv-dataset (CC BY-NC-SA 4.0) has 2,624 electroluminescence images of solar cells, each
with its probability of a defect. The classes are `mono` and `poly`, the two kinds of cell. Normal
images have probability 0, defective ones probability 1; those between are left out. There are no
masks. The draw has a fixed seed.
"""

from __future__ import annotations

import argparse
import random
import shutil
from importlib.util import find_spec
from pathlib import Path

TRAIN, TEST = 268, 67


def main() -> None:
    """Copy a seeded draw of the package's images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder to write")
    out = parser.parse_args().out
    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise SystemExit("elpv_dataset: not installed; run: pip install elpv-dataset")
    data = Path(spec.origin).parent / "data"
    images: dict[tuple[str, float], list[str]] = {}
    for line in (data / "labels.csv").read_text().splitlines():
        name, probability, kind = line.split()
        images.setdefault((kind, float(probability)), []).append(name)
    for kind in ("mono", "poly"):
        draws = random.Random(kind)
        good = draws.sample(sorted(images[kind, 0.0]), TRAIN + TEST)
        defective = draws.sample(sorted(images[kind, 1.0]), TEST)
        parts = {"train/good": good[:TRAIN], "test/good": good[TRAIN:], "test/defective": defective}
        for part, names in parts.items():
            folder = out / kind / part
            folder.mkdir(parents=True, exist_ok=True)
            for name in names:
                shutil.copyfile(data / name, folder / Path(name).name)


if __name__ == "__main__":
    main()
