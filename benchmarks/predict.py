"""Images per second of a kept detector, beside its backbone alone, in turns in one run.

    python benchmarks/predict.py [--images 64] [--threads 1] [--rounds 3] [--device cpu]

It trains v7 for one epoch on the embedded images (base demo, EfficientNet-Lite0 at 224 pixels), and
scores their test images. `backbone, 32 at once` has other last digits on a CPU, so scores never go
that way there; it shows what equal digits cost.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from moleflow.data.dataset import open_dataset
from moleflow.data.images import read_image
from moleflow.detection.detector_file import read_detector
from moleflow.detection.trained_detector import TrainedDetector
from moleflow.environment import open_environment
from moleflow.features.backbone import FrozenBackbone
from orchestrator.api import run_sweep
from orchestrator.detectors.choice import choose_detector

SWEEP = """
name: speed
version: v7
base: {extends: demo, epochs: 1}
keep: all
without_data: {base: demo}
"""
AT_ONCE = 32


def seconds(work: Callable[[], object]) -> float:
    """Seconds of wall time that one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ways(detector: TrainedDetector, images: Sequence[Path]) -> dict[str, Callable[[], object]]:
    """The ways of passing all images that are compared, by name."""
    size, interpolation = detector.config.data.image_size, detector.config.data.interpolation
    pixels = np.stack([read_image(path, size, interpolation) for path in images])
    backbone = FrozenBackbone(detector.config, detector.environment)

    def at_once() -> None:
        with torch.no_grad():
            for start in range(0, len(pixels), AT_ONCE):
                backbone._features(pixels[start : start + AT_ONCE])

    return {
        "scores, one image a call": lambda: [list(detector.score(path)) for path in images],
        "scores, all in one call": lambda: list(detector.score(images)),
        "scores and maps, all in one call": lambda: [one.anomaly_map for one in detector.score(images)],
        "reading and checking files": lambda: [detector._sample(path, None) for path in images],
        "backbone, as scores take it": lambda: backbone.extract(pixels),
        f"backbone, {AT_ONCE} at once": at_once,
    }


def main() -> None:
    """Train, measure in turns, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "speed.yaml").write_text(SWEEP)
        results = run_sweep(
            folder / "speed.yaml",
            out=folder / "results",
            cache=folder / "cache",
            backend="inline",
            device=options.device,
            quiet=True,
        )
        found = sorted(open_dataset(None, folder / "cache").root.glob("*/test/*/*.png"))
        images = [found[n % len(found)] for n in range(options.images)]
        path = choose_detector(results.folder).path
        environment = open_environment(options.device, options.threads)
        loading = seconds(lambda: TrainedDetector(read_detector(path), environment))
        detector = TrainedDetector(read_detector(path), environment)
        print(f"{len(images)} images, {options.threads} thread(s), {options.device}; loading took {loading:.2f} s")
        compared = ways(detector, images)
        taken: dict[str, list[float]] = {name: [] for name in compared}
        for _ in range(options.rounds + 1):
            for name, work in compared.items():
                taken[name].append(seconds(work))
        for name, of in taken.items():
            print(f"{name:<34}{len(images) / min(of[1:]):8.1f} images/s")


if __name__ == "__main__":
    main()
