"""Layouts that hold each class in a folder of its own, with a folder for each kind of image."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moleflow.data.folders import could_be_image, files_in, folders_in, images_in, is_folder
from moleflow.data.layouts.layout import ClassFiles, ListedImage, by_stem, passed_over
from moleflow.data.normal_names import is_near_normal, near_name_message, nfc, yaml_list
from moleflow.data.samples import GOOD
from moleflow.errors import InvalidInput

_AFTER_STEM = re.compile(r"[\W_]*(masks?|gt|ground_?truth|labels?|segmentation|seg|annotation)[\W_]*\d*[\W_]*")


@dataclass(frozen=True)
class ClassFolders:
    """A layout of class folders.

        <class>/train/<normal>/*     normal images
        <class>/<test>/<kind>/*      test images; a kind of another name is a defect
        <class>/<truth>/<defect>/*   masks

    Attributes:
        name: the name for `data.layout`.
        fits: True for a folder that is a class of this layout and of no other.
        normal: names of folders of normal images.
        test: folder of the test images.
        truth: folder of the masks.
        mask_folders: True if the masks of an image are the files in a folder of its name.
        not_kinds: folders in `test` that hold no test images.
    """

    name: str
    fits: Callable[[Path], bool]
    normal: tuple[str, ...] = (GOOD,)
    test: str = "test"
    truth: str = "ground_truth"
    mask_folders: bool = False
    not_kinds: frozenset[str] = field(default_factory=frozenset)

    @property
    def structure(self) -> str:
        """The folders by which it is recognised."""
        return f"<class>/train/{self.normal[0]}"

    def classes(self, root: Path, normal: tuple[str, ...] | None) -> Mapping[str, Path]:
        """{class: its folder}; see `Layout.classes`."""
        names = normal or self.normal
        found: dict[str, Path] = {}
        for folder in folders_in(root):
            if any(is_folder(folder / "train" / name) for name in names) and self.fits(folder):
                name = nfc(folder.name)
                if name in found:
                    both = f"{found[name].name!a} and {folder.name!a}"
                    raise InvalidInput(f"{root}: two folders have the name '{name}' ({both}); rename one of them")
                found[name] = folder
        return found

    def files(self, root: Path, name: str, normal: tuple[str, ...] | None) -> ClassFiles:
        """The files of a class; see `Layout.files`."""
        folder = next(one for one in folders_in(root) if nfc(one.name) == name)
        names = frozenset(map(nfc, normal or self.normal))
        kinds = [one for one in folders_in(folder / self.test) if one.name not in self.not_kinds]
        if normal is None:
            refuse_near_names(folder, self.test, names)
        train_folders = [one for one in folders_in(folder / "train") if nfc(one.name) in names]
        train = [ListedImage(path, GOOD) for part in train_folders for path in images_in(part)]
        truth = folder / self.truth
        test: list[ListedImage] = []
        for kind in [*train_folders, *kinds]:
            _refuse_masks_among(images_in(kind), f"{self.truth}/{kind.name}")
        for kind in kinds:
            images = images_in(kind)
            defect = GOOD if nfc(kind.name) in names else nfc(kind.name)
            masks: Sequence[tuple[Path, ...]] = [()] * len(images)
            if defect != GOOD and truth.is_dir():
                pair = _mask_folders if self.mask_folders else mask_files
                masks = pair(images, _folder_of(truth, kind.name, images, sorted(names)))
            test += map(ListedImage, images, [defect] * len(images), masks)
        used = [file for image in (*train, *test) for file in (image.path, *image.masks)]
        read = [*train_folders, *kinds]
        over = passed_over(folder, used, lambda path: self._reason(path, folder, read))
        wanted = f"{folder / 'train' / sorted(names)[0]}", f"{folder / self.test}"
        return ClassFiles(tuple(train), tuple(test), truth.is_dir(), over, wanted)

    def places(self, root: Path, normal: tuple[str, ...] | None) -> list[Path]:
        """The folders of the classes; see `Layout.places`."""
        return [*self.classes(root, normal).values()]

    def _reason(self, path: Path, folder: Path, read: Sequence[Path]) -> tuple[str, str]:
        """The reason why an image file below a class's folder is passed over, and its place."""
        where = f"{path.parent.relative_to(folder).as_posix()}/"
        if folder / self.truth in path.parents:
            return "masks without a defective image", where
        if any(part in path.parents for part in read):
            return "in nested folders", where
        if path.parent == folder:
            return "outside the folders of images", ""
        if path.parent in (folder / "train", folder / self.test):
            return "outside the folders of images", where
        return "in folders that are not read", where


def mask_files(
    images: Sequence[Path], folder: Path, endings: Sequence[str] = ("_mask", ""), removable: str = "ground_truth"
) -> list[tuple[Path, ...]]:
    """The one mask of each image: the file in `folder` with its stem and one of the endings.

    Args:
        images: images of one folder.
        folder: the folder of their masks, in that of all masks of the class.
        endings: endings of the masks' stems.
        removable: the folder without which a class has no masks; empty if there is none.

    Raises:
        InvalidInput: an image has no mask or several, or shares its mask with another one.
    """
    masks, same = by_stem(images_in(folder)), by_stem(images)
    place = f"{folder.parent.name}/{folder.name}"
    owns = [[path for ending in endings for path in masks.get(nfc(image.stem) + ending, [])] for image in images]
    unclaimed = set(filter(could_be_image, files_in(folder))).difference(images, *owns)
    image_of: dict[Path, Path] = {}
    for image, own in zip(images, owns, strict=True):
        stem = nfc(image.stem)
        near = sorted(path for path in unclaimed if _is_mask_name(path, stem))
        if not own:
            raise _no_mask(
                image, f"{place}/{image.stem}{endings[0]}.png", removable, [f"{place}/{n.name}" for n in near]
            )
        if len(own) + len(near) > 1:
            both = " and ".join(f"{place}/{path.name}" for path in [*own, *near])
            raise InvalidInput(f"{image}: several masks could be its own: {both}; keep one of them")
        others = [path.name for path in same[stem]] if len(same[stem]) > 1 else []
        if own[0] in image_of:
            others = [image_of[own[0]].name, image.name]
        if others:
            raise InvalidInput(
                f"{own[0]}: could be the mask of {' and '.join(others)} in {image.parent}; "
                "give these images different names"
            )
        image_of[own[0]] = image
    return [(own[0],) for own in owns]


def _mask_folders(images: Sequence[Path], folder: Path) -> list[tuple[Path, ...]]:
    """The masks of each image: the files in a folder of its name."""
    folders = {nfc(one.name): one for one in folders_in(folder)}
    found = []
    for image in images:
        own = folders.get(nfc(image.stem))
        masks = tuple(images_in(own)) if own else ()
        if not masks:
            place = f"{folder.parent.name}/{folder.name}/{image.stem}"
            raise _no_mask(image, f"{place}/000.png", "ground_truth")
        found.append(masks)
    return found


def refuse_near_names(folder: Path, test: str, names: frozenset[str]) -> None:
    """Refuse a class with a folder whose name is near to those of normal images.

    Args:
        folder: the folder of the class, in the data root.
        test: its folder of test images.
        names: names of folders of normal images, in NFC.

    Raises:
        InvalidInput: there is such a folder; nobody said what it holds.
    """
    near = _near_names(folder, test, names)
    if near:
        name, place = next(iter(near.items()))
        others = folders_in(folder.parent)  # One list decides about all classes.
        there = sorted(names & {nfc(kind.name) for one in others for kind in _kinds(one, test)})
        for one in others:
            near |= _near_names(one, test, names)
        raise InvalidInput(near_name_message(str(place), name, there, near, "folder"))


def _kinds(folder: Path, test: str) -> list[Path]:
    """The folders of training and test images of a class."""
    return [*folders_in(folder / "train"), *folders_in(folder / test)]


def _near_names(folder: Path, test: str, names: frozenset[str]) -> dict[str, Path]:
    """{name: folder} of those of a class that could hold normal images under another name."""
    kinds = {nfc(kind.name): kind for kind in reversed(_kinds(folder, test))}
    return {name: kind for name, kind in reversed(kinds.items()) if name not in names and is_near_normal(name)}


def _folder_of(truth: Path, kind: str, images: Sequence[Path], normal: Sequence[str]) -> Path:
    """The folder of the masks of one kind of image.

    Args:
        truth: the folder of all masks of the class.
        kind: the name of the folder of the images.
        images: these images.
        normal: names of folders of normal images, for the message.

    Raises:
        InvalidInput: there is none, but there are images of this kind, and masks of other kinds.
    """
    there = {nfc(one.name): one for one in folders_in(truth)}
    exact = there.get(nfc(kind), truth / kind)
    if exact.is_dir() or not images or not there:
        return exact
    looked_for = f"{images[0]}: no mask; there is no folder {truth.name}/{kind}"
    same = next((name for name in there if name.casefold() == nfc(kind).casefold()), None)
    if same is not None:
        raise InvalidInput(f"{looked_for}; rename {truth.name}/{same} to {kind}")
    raise InvalidInput(
        f"{looked_for}; add it, or, if test images in '{kind}' are normal, say under base in the sweep file "
        f"`normal_names: {yaml_list([*normal, kind])}`"
    )


def _refuse_masks_among(images: Sequence[Path], truth: str) -> None:
    """Refuse a mask that is in the folder of its image, where it would count as an image.

    Args:
        images: the images of one folder.
        truth: folder of the masks of these images, for the message.

    Raises:
        InvalidInput: the name of an image is that of another one and a word for masks.
    """
    stems = by_stem(images)
    for path in images:
        stem = nfc(path.stem)
        for end in range(1, len(stem)) if _AFTER_STEM.search(stem.casefold()) else ():
            others = stems.get(stem[:end], [])
            if others and _is_mask_name(path, stem[:end]):
                raise InvalidInput(
                    f"{path}: has the name of a mask of {others[0].name} beside it; move masks to {truth}, "
                    "or give it another name"
                )


def _is_mask_name(path: Path, stem: str) -> bool:
    """True for a file with the name of an image and a word for masks: `000-GT.gif` of 000."""
    own = nfc(path.stem)
    return own.startswith(stem) and bool(_AFTER_STEM.fullmatch(own[len(stem) :].casefold()))


def _no_mask(image: Path, looked_for: str, removable: str, near: Sequence[str] = ()) -> InvalidInput:
    if near:
        return InvalidInput(f"{image}: no mask; looked for {looked_for}; convert or rename {' or '.join(near)} to that")
    without = f", or remove {removable} to go without masks" if removable else ""
    return InvalidInput(f"{image}: no mask; looked for {looked_for}; add it{without}")
