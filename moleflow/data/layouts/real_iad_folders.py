"""A class of Real-IAD by its folders, where no JSON file lists its images.

    <class>/OK/S0001/*.jpg            normal images: a sample, seen by up to five cameras
    <class>/NG/<defect>/S0001/*.jpg   images of a defective sample
    <class>/NG/<defect>/S0001/*.png   masks: <stem>.png or <stem>_mask.png

The folders do not say which images are for training. Every other sample of `OK`, in the order of
the names, is: the first, the third and so on. All images of a sample stay together. The published
split is in the JSON files, so figures by this split are not comparable with published ones.

A camera may not see the defect of its sample: such images of `NG` have no mask, and `OK` as their
class in the JSON files. By the folders their label is in doubt, and they are passed over. Where no
image has a mask, all images of `NG` are defective.

C. Wang et al., "Real-IAD: A Real-World Multi-View Dataset for Benchmarking Versatile Industrial
Anomaly Detection", CVPR 2024. The folders are those that anomalib 2.7.0 describes
(data/datasets/image/realiad.py); images of `NG` without a mask are the subject of issue 13 of
github.com/TencentYoutuResearch/AnomalyDetection_Real-IAD.
"""

from __future__ import annotations

import re
from pathlib import Path

from moleflow.data.folders import folders_in, images_in, is_folder
from moleflow.data.layouts.layout import ClassFiles, ListedImage, by_stem, passed_over
from moleflow.data.normal_names import nfc
from moleflow.data.samples import GOOD, PassedOver
from moleflow.errors import InvalidInput

_NORMAL, _DEFECTIVE = "OK", "NG"
_SAMPLE = re.compile(r"S\d+")
_MASK = ".png"


def is_class_folder(folder: Path) -> bool:
    """True for a folder that holds samples in `OK`, and `NG`."""
    return is_folder(folder / _DEFECTIVE) and bool(_samples(folder / _NORMAL))


def files_of_folders(folder: Path, wanted: str) -> ClassFiles:
    """The files of a class.

    Args:
        folder: the folder of the class.
        wanted: the JSON file that would say which images are for training, for messages.

    Raises:
        InvalidInput: two files could be the mask of one image.
    """
    normal = [[*map(_normal, _images(sample))] for sample in _samples(folder / _NORMAL)]
    train = [image for of_sample in normal[::2] for image in of_sample]
    test = [image for of_sample in normal[1::2] for image in of_sample]
    defective: list[ListedImage] = []
    for kind in folders_in(folder / _DEFECTIVE):
        for sample in _samples(kind):
            masks = by_stem(path for path in images_in(sample) if path.suffix.lower() == _MASK)
            defective += [ListedImage(image, nfc(kind.name), _mask(image, masks)) for image in _images(sample)]
    has_masks = any(image.masks for image in defective)
    labelled = [image for image in defective if image.masks or not has_masks]
    in_doubt = len(defective) - len(labelled)
    used = [path for image in (*train, *test, *defective) for path in (image.path, *image.masks)]
    over = passed_over(folder, used, lambda path: _reason(path, folder))
    if in_doubt:
        over = (PassedOver(in_doubt, f"of {_DEFECTIVE} without a mask"), *over)
    split = (
        f"no {wanted}, so every other sample of {_NORMAL} is for training; "
        "figures are not comparable with those of the published split"
    )
    places = f"{folder / _NORMAL}", f"{folder / _DEFECTIVE}"
    return ClassFiles(tuple(train), (*test, *labelled), has_masks, over, places, split)


def _samples(folder: Path) -> list[Path]:
    return [one for one in folders_in(folder) if _SAMPLE.fullmatch(one.name)]


def _images(sample: Path) -> list[Path]:
    return [path for path in images_in(sample) if path.suffix.lower() != _MASK]


def _normal(image: Path) -> ListedImage:
    return ListedImage(image, GOOD)


def _mask(image: Path, masks: dict[str, list[Path]]) -> tuple[Path, ...]:
    """The mask of an image; empty if it has none."""
    stem = nfc(image.stem)
    own = [*masks.get(stem, ()), *masks.get(f"{stem}_mask", ())]
    if len(own) > 1:
        both = " and ".join(path.name for path in own)
        raise InvalidInput(f"{image}: several masks could be its own: {both}; keep one of them")
    return tuple(own)


def _reason(path: Path, folder: Path) -> tuple[str, str]:
    """The reason why an image file below a class's folder is passed over, and its place."""
    if path.suffix.lower() == _MASK and folder / _DEFECTIVE in path.parents and _SAMPLE.fullmatch(path.parent.name):
        return "masks without a defective image", ""
    where = path.parent.relative_to(folder)
    return "outside the folders of samples", "" if path.parent == folder else f"{where.as_posix()}/"
