"""The layouts that a data root can have, and the classes that it holds."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from moleflow.data.folders import folders_in
from moleflow.data.layouts import btad, kolektor_sdd2, manifest, mvtec_ad, mvtec_ad_2, mvtec_loco, real_iad, visa
from moleflow.data.layouts.class_folders import ClassFolders, refuse_near_names
from moleflow.data.layouts.layout import ClassFiles, Layout
from moleflow.data.normal_names import is_near_normal, nfc, yaml_list
from moleflow.data.samples import GOOD
from moleflow.data.unsplit_folders import UnsplitClass, unsplit_classes
from moleflow.errors import InvalidInput
from moleflow.suggestions import hint_at

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        layout.name: layout
        for layout in (
            mvtec_ad.LAYOUT,
            mvtec_ad_2.LAYOUT,
            mvtec_loco.LAYOUT,
            visa.LAYOUT,
            btad.LAYOUT,
            real_iad.LAYOUT,
            kolektor_sdd2.LAYOUT,
            manifest.LAYOUT,
        )
    }
)
"""{name for `data.layout`: layout}."""


@dataclass(frozen=True)
class Reading:
    """The knobs that decide how a data root is read.

    Attributes:
        layout: "auto" (look at the folders) or a name of `LAYOUTS`.
        normal_names: names of folders or labels of normal images; None = those of the layout, and
            near names are refused.
    """

    layout: str = "auto"
    normal_names: tuple[str, ...] | None = None


BY_LOOKING = Reading()
"""The defaults of the knobs."""


def find_classes(root: Path, reading: Reading = BY_LOOKING) -> dict[str, Layout]:
    """{class: its layout} of the classes in a data root, sorted by name.

    Raises:
        InvalidInput: there is no class, or nothing at `root`; a class has several layouts; a table
            cannot be read, and no folder is a class.
    """
    try:
        there = root.exists()
    except PermissionError as error:
        raise InvalidInput(f"{root}: cannot be read ({error.strerror}); let this user read it") from None
    if not there:
        raise InvalidInput(f"{root}: no such folder; give the folder that holds <class>/train/{GOOD} and <class>/test")
    layouts = LAYOUTS.values() if reading.layout == "auto" else [LAYOUTS[reading.layout]]
    found: dict[str, list[Layout]] = {}
    refused: list[InvalidInput] = []
    for layout in layouts:
        try:
            names = layout.classes(root, reading.normal_names)
        except InvalidInput as error:
            if isinstance(layout, ClassFolders):
                raise
            refused.append(error)  # A table of another purpose may lie beside folders of classes.
            continue
        for name in names:
            found.setdefault(name, []).append(layout)
    if refused and not found:
        raise refused[0]
    if not found:
        raise InvalidInput(_no_class(root, reading))
    several = next((name for name, fitting in sorted(found.items()) if len(fitting) > 1), None)
    if several is not None:
        both = " and ".join(f"{layout.name} ({layout.structure})" for layout in found[several])
        lines = " or ".join(f"`layout: {layout.name}`" for layout in found[several])
        raise InvalidInput(
            f"{root}: class '{several}' has two layouts, {both}; say under base in the sweep file {lines} "
            f"(or --set layout={found[several][0].name})"
        )
    return {name: found[name][0] for name in sorted(found)}


def class_files(root: Path, name: str, classes: Mapping[str, Layout], reading: Reading = BY_LOOKING) -> ClassFiles:
    """The files of a class, none of them opened: for a scan, and for whoever counts them.

    Args:
        root: the data root.
        name: the class, in NFC.
        classes: the classes of the root, from `find_classes`.
        reading: how the root is read.

    Raises:
        InvalidInput: no such class; files are missing or in doubt.
    """
    if name not in classes:
        raise InvalidInput(_no_such_class(root, name, [*classes], reading))
    return classes[name].files(root, name, reading.normal_names)


def _no_class(root: Path, reading: Reading) -> str:
    """The message about a data root without classes."""
    if not root.is_dir():
        return f"{root}: not a folder; give the folder that holds <class>/train/{GOOD} and <class>/test"
    train = [one.name for one in folders_in(root / "train")]
    if any(name == GOOD or is_near_normal(name) for name in train):
        return f"{root}: this is one class; give the folder above it, {root.absolute().parent}"
    folders = folders_in(root)
    for folder in folders:
        _refuse_near_training(folder, reading)
    there = ", ".join(folder.name for folder in folders[:8]) or "none"
    if reading.layout != "auto":
        return (
            f"{root}: layout {reading.layout}: looked for {LAYOUTS[reading.layout].structure}; folders there: {there}"
            f"{_has_other(root, reading)}; see docs/data.md"
        )
    with contextlib.suppress(InvalidInput):
        unsplit = unsplit_classes(root, reading.normal_names)
        if unsplit:
            return _no_split(root, unsplit)
    normal = (reading.normal_names or (GOOD,))[0]
    others = ", ".join(f"{layout.name} ({layout.structure})" for layout in [*LAYOUTS.values()][3:])
    return (
        f"{root}: not an MVTec AD folder: looked for <class>/train/{normal}; folders there: {there}; "
        f"nor is it one of {others}; give the folder of the classes"
    )


def _no_split(root: Path, classes: Sequence[UnsplitClass]) -> str:
    """The message about classes without training and test folders, with the command that helps."""
    first = classes[0]
    kinds = ", ".join([first.normal.name, *first.kinds])
    file = f"{root.resolve().name}.csv"
    return (
        f"{root}: its images are not split into training and test ({first.name} has the folders {kinds}); "
        f"`moleflow-sweep data {shlex.quote(str(root))} --write-manifest {shlex.quote(file)}` writes a split; give "
        f"{file} as the data then"
    )


def _no_such_class(root: Path, name: str, classes: list[str], reading: Reading) -> str:
    """The message about a class that is not there."""
    listed = f"tasks: {yaml_list(classes[:3])}"
    some = f"; give {listed} under base in the sweep file, or --set '{listed.replace(': ', '=', 1)}'"
    there = f"classes there: {', '.join(classes)}{hint_at(name, classes) or some}"
    folder = next((one for one in folders_in(root) if nfc(one.name) == name), None)
    if reading.layout != "auto":
        other = _has_other(root, reading)
        return f"data.tasks: no class '{name}' of layout {reading.layout} in {root}{other}; {there}"
    if folder is None:
        return f"data.tasks: no class '{name}' in {root}; {there}"
    _refuse_near_training(folder, reading)
    normal = " or ".join(f"train/{one}" for one in reading.normal_names or (GOOD,))
    return f"data.tasks: {folder} has no {normal}, so it is no class; {there}"


def _has_other(root: Path, reading: Reading) -> str:
    """A hint at the layouts that a root has, where another one was asked for."""
    found = []
    for layout in LAYOUTS.values():
        with contextlib.suppress(InvalidInput):
            found += [layout.name] if layout.classes(root, reading.normal_names) else []
    return f"; it has the structure of {' and '.join(found)}" if found else ""


def _refuse_near_training(folder: Path, reading: Reading) -> None:
    """Refuse a folder whose training images have another name than `good`, but a near one."""
    if reading.normal_names is None and any(is_near_normal(one.name) for one in folders_in(folder / "train")):
        refuse_near_names(folder, "test", frozenset({GOOD}))
