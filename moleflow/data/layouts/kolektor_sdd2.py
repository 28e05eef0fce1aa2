"""Kolektor SDD2: one class, whose masks say which images are defective.

    train/10000.png, train/10000_GT.png
    test/20000.png,  test/20000_GT.png

An image is defective if its mask has any defective pixel. Defective training images are passed
over, as the detector learns from normal ones. The class is called `kolektor_sdd2`.

J. Bozic, D. Tabernik and D. Skocaj, "Mixed supervision for surface-defect detection: from weakly to
fully supervised learning", Computers in Industry 129, 2021, and the authors' loader
(github.com/vicoslab/mixed-segdec-net-comind2021, data/input_ksdd2.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moleflow.data.folders import images_in
from moleflow.data.layouts.class_folders import mask_files
from moleflow.data.layouts.layout import ClassFiles, ListedImage, passed_over
from moleflow.data.normal_names import nfc

_MASK = "_GT"
_CLASS = "kolektor_sdd2"


@dataclass(frozen=True)
class KolektorSDD2:
    """See the module."""

    name: str = _CLASS
    structure: str = "train/*_GT.png"

    def classes(self, root: Path, normal: tuple[str, ...] | None) -> Mapping[str, Path]:
        """{class: the root}; see `Layout.classes`."""
        masks = (path for path in images_in(root / "train") if path.stem.endswith(_MASK))
        return {_CLASS: root} if next(masks, None) and (root / "test").is_dir() else {}

    def files(self, root: Path, name: str, normal: tuple[str, ...] | None) -> ClassFiles:
        """The files of the class; see `Layout.files`."""
        parts = []
        for split in ("train", "test"):
            found = images_in(root / split)
            images = [path for path in found if not nfc(path.stem).endswith(_MASK)]
            parts.append([ListedImage(*pair) for pair in _with_masks(images, root / split)])
        train, test = parts
        used = [path for image in (*train, *test) for path in (image.path, *image.masks)]
        over = passed_over(root, used, lambda path: _reason(path, root))
        return ClassFiles(tuple(train), tuple(test), True, over, (f"{root / 'train'}", f"{root / 'test'}"))

    def places(self, root: Path, normal: tuple[str, ...] | None) -> list[Path]:
        """The root, all of whose files belong to the one class; see `Layout.places`."""
        return [root]


def _with_masks(images: list[Path], folder: Path) -> list[tuple[Path, None, tuple[Path, ...]]]:
    masks = mask_files(images, folder, [_MASK], removable="")
    return [(image, None, of) for image, of in zip(images, masks, strict=True)]


def _reason(path: Path, root: Path) -> tuple[str, str]:
    where = f"{path.parent.relative_to(root).as_posix()}/"
    if path.parent.parent == root:
        return "masks without an image", where
    return "outside the folders of images", "" if path.parent == root else where


LAYOUT = KolektorSDD2()
