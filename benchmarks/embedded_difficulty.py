"""The difficulty of the embedded images: AUROC of a PatchCore-like memory bank that needs no
training.

    python benchmarks/embedded_difficulty.py [FOLDER]

Features are those of base `demo` (efficientnet_lite0 with its ImageNet weights, 224 px, 14x14
patches), standardised with the mean and standard deviation of the training patches. The bank is a
tenth of the training patches, drawn at random; a patch scores its distance to the nearest of them,
an image its largest patch. Which tenth is drawn moves the image AUROC by some hundredths, so
figures are means over five banks. FOLDER may be any folder of the MVTec AD layout; without it the
embedded images are rendered into a temporary folder.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

from moleflow.data.embedded.rendering import render
from moleflow.data.loading import load_mask
from moleflow.data.samples import Sample, TaskData
from moleflow.data.scan import class_names, scan
from moleflow.environment import open_environment
from moleflow.features.feature_cache import FeatureCache
from moleflow.settings.config import TrialConfig
from moleflow.settings.knobs import base_layers, resolve, version_layer

Array = npt.NDArray[np.float32]
BANK_SHARE, BANKS = 0.1, 5


def demo_config() -> TrialConfig:
    """The settings whose features are measured."""
    return resolve([version_layer("v3", "this benchmark"), *base_layers("demo", "v3", "this benchmark")])


def bank_scores(train: Array, test: Array, generator: np.random.Generator) -> Array:
    """Patch scores (N, H, W) of `test`: the euclidean distance to the nearest patch of a random
    tenth of `train`.
    """
    width = train.shape[-1]
    mean, std = train.reshape(-1, width).mean(0), train.reshape(-1, width).std(0) + 1e-6
    patches = ((train - mean) / std).reshape(-1, width)
    bank = patches[generator.choice(len(patches), round(len(patches) * BANK_SHARE), replace=False)]
    queries = torch.from_numpy(((test - mean) / std).reshape(-1, width))
    nearest = torch.cat([torch.cdist(part, torch.from_numpy(bank)).amin(1) for part in torch.split(queries, 4096)])
    return np.asarray(nearest.numpy(), dtype=np.float32).reshape(test.shape[:-1])


def class_scores(task: TaskData, features: FeatureCache) -> tuple[npt.NDArray[np.bool_], Array]:
    """The label (1 = defective) of each test image of a class (N,), and its patch scores under each
    bank (BANKS, N, H, W).
    """
    environment = open_environment("cpu")
    train, test = (features.get(demo_config(), environment, part).numpy() for part in (task.train, task.test))
    banks = [bank_scores(train, test, np.random.default_rng(seed)) for seed in range(BANKS)]
    return np.array([sample.label == 1 for sample in task.test]), np.stack(banks)


def image_auroc(labels: npt.NDArray[np.bool_], patches: Array) -> float:
    """AUROC of the largest patch score of each image, mean over the banks; `patches` (BANKS, N, H,
    W).
    """
    return float(np.mean([roc_auc_score(labels, scores) for scores in patches.max(axis=(2, 3))]))


def pixel_auroc(samples: Sequence[Sample], patches: Array, size: int) -> float:
    """AUROC over all pixels under one bank (N, H, W): scores bilinear, masks nearest, both `size`
    pixels a side.
    """
    maps = F.interpolate(torch.from_numpy(patches)[:, None], size=(size, size), mode="bilinear", align_corners=True)
    masks = np.stack([load_mask(sample, size) for sample in samples])
    return float(roc_auc_score(masks.ravel(), maps.numpy().ravel()))


def report(folder: Path, cache: Path) -> None:
    """Print one line a class: image AUROC, pixel AUROC, and the image AUROC of each defect against
    the good ones.
    """
    features, size = FeatureCache(cache), demo_config().data.mask_size
    for task in scan(folder, class_names(folder)):
        labels, patches = class_scores(task, features)
        kinds = np.array([sample.defect for sample in task.test])
        image = image_auroc(labels, patches)
        pixel = f"{pixel_auroc(task.test, patches[0], size):.3f}" if task.has_masks else "none"
        each = [(kind, (kinds == kind) | ~labels) for kind in sorted(set(kinds[labels]))]
        split = "  ".join(f"{kind} {image_auroc(labels[rows], patches[:, rows]):.3f}" for kind, rows in each)
        print(f"{task.name:12s} image {image:.3f}  pixel {pixel}   {split}", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        if len(sys.argv) > 1:
            report(Path(sys.argv[1]), here / "cache")
        else:
            render(here / "images")
            report(here / "images", here / "cache")
