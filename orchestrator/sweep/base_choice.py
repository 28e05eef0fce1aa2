"""What stands under a sweep's axes: base, images and seeds, and what takes their place where no data root is given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moleflow.errors import InvalidInput
from moleflow.settings.knobs import Layer, base_layers, base_names, flatten_layer
from moleflow.settings.yaml_reader import read_mapping, yaml_text
from orchestrator.sweep.axes import check_value
from orchestrator.sweep.file_schema import SweepFile


@dataclass(frozen=True)
class Base:
    """Settings under the axes: a named base, settings of the sweep file's own, or the latter over the former.

    Attributes:
        name: the base's name or its file's path, seen from `folder`; empty = the defaults.
        own: settings over it, from the sweep file.
        source: where the base is named, for messages.
        folder: where a relative path in `name` starts.

    """

    name: str
    own: Mapping[str, Any]
    source: str
    folder: Path

    @property
    def label(self) -> str:
        """A name for people: `demo`, `own settings over demo`."""
        named = Path(self.name).stem if self.name.endswith((".yaml", ".yml")) else self.name
        if self.own:
            return f"own settings over {named or 'the defaults'}"
        return named or "the defaults"

    def layers(self, version: str) -> tuple[Layer, ...]:
        """The base's layers for a version, every value checked.

        Raises:
            InvalidInput: no such base, or a mistake in it.

        """
        named = base_layers(self.name, version, self.source, self.folder) if self.name else []
        layers = (*named, Layer(self.source, self.own))
        for layer in layers:
            for path, value in flatten_layer(layer).items():
                if path in ("version", "seed"):
                    instead = f"`seeds: [{yaml_text(value)}]`" if path == "seed" else f"`version: {value}`"
                    where = "beside `base`" if layer.source == self.source else "in the sweep file"
                    raise InvalidInput(f"{layer.source}: {path} does not belong in a base; write {instead} {where}")
                check_value(path, value, layer.source)
        return layers

    def stands_on(self, other: str) -> bool:
        """Whether this base is, or extends, the one named `other`."""
        return any(layer.source == f"base {other}" for layer in self.layers(version=""))


@dataclass(frozen=True)
class BaseChoice:
    """The choice that was made: see `lay`."""

    name: str
    base: Base
    seeds: tuple[int, ...]
    data_root: Path | None
    note: str


def choose_base(
    keys: SweepFile, source: str, folder: Path, base_option: str | None, data_root: Path | None
) -> BaseChoice:
    """Choose base, seeds and name.

    A base is meant for the embedded images if it is, or extends, that of `without_data`. Without a data root,
    `without_data` takes the place of any other base, unless `base_option` asks for one in so many words. Results on
    another base, or on other images than the base is meant for, get a name, and so a folder, of their own:

        own base, its images           NAME
        without_data, embedded images  NAME-BASE
        another base, real images      NAME-BASE
        the embedded base, real images NAME-BASE-data, or NAME-data where it is the file's own
        a real base, embedded images   NAME-BASE-embedded, or NAME-embedded where it is the file's own

    Raises:
        InvalidInput: a base that does not exist or holds a mistake, or a seed given twice.

    """
    own = _own_base(keys, source, folder)
    _refuse_sweep_file(folder / own.name, own.name, own.source)
    embedded_name = keys.without_data.base
    base = own
    if base_option is not None:
        asked = str(Path(base_option).absolute()) if base_option.endswith((".yaml", ".yml")) else base_option
        _refuse_sweep_file(Path(base_option), base_option, "--base")
        base = Base(asked, {}, "--base", folder)
    elif data_root is None and not own.stands_on(embedded_name):
        base = Base(embedded_name, {}, f"{source}: without_data", folder)
    replaced = (base.name, base.own) != (own.name, own.own)
    embedded = base.stands_on(embedded_name)

    name = f"{keys.name}-{re.sub('[^A-Za-z0-9_.-]', '_', base.label)}" if replaced else keys.name
    if embedded and data_root is not None:
        name += "-data"
    elif not embedded and data_root is None:
        name += "-embedded"

    full = seeds_of(keys.seeds, f"{source}: seeds")
    seeds = full
    if embedded and data_root is None:
        if keys.without_data.seeds is not None:
            seeds = seeds_of(keys.without_data.seeds, f"{source}: without_data.seeds")
        elif replaced:
            seeds = full[:2]
    return BaseChoice(name, base, seeds, data_root, _note(own, base, replaced, data_root, len(full), len(seeds)))


def _refuse_sweep_file(path: Path, named: str, source: str) -> None:
    """See that a base is none of the files that stand on one: those have a name."""
    if named.endswith((".yaml", ".yml")) and path.is_file() and "name" in read_mapping(path):
        known = ", ".join(base_names())
        raise InvalidInput(f"{source}: {named} is a sweep file; give a base: {known}, or a .yaml of knobs")


def _own_base(keys: SweepFile, source: str, folder: Path) -> Base:
    if isinstance(keys.base, str):
        return Base(keys.base, {}, f"{source}: base", folder)
    parent = keys.base.get("extends", "")
    if not isinstance(parent, str):
        raise InvalidInput(
            f"{source}: base.extends: given {yaml_text(parent)}, allowed: a base's name or a .yaml file's path"
        )
    own = {key: value for key, value in keys.base.items() if key != "extends"}
    return Base(parent, own, f"{source}: base", folder)


def seeds_of(given: int | list[int], source: str) -> tuple[int, ...]:
    """The seeds that are meant by a list, or by how many.

    Raises:
        InvalidInput: one is given twice.

    """
    seeds = tuple(range(given)) if isinstance(given, int) else tuple(given)
    if len(set(seeds)) < len(seeds):
        twice = next(seed for seed in seeds if seeds.count(seed) > 1)
        raise InvalidInput(f"{source}: the seed {twice} is given twice; keep one of them")
    return seeds


def _note(own: Base, base: Base, replaced: bool, data_root: Path | None, full: int, seeds: int) -> str:
    if data_root is not None:
        return f"on base {base.label} instead of {own.label}" if replaced else ""
    where = f"the same axes on base {base.label}, " if replaced else ""
    fewer = f", {seeds} seed{'s' if seeds > 1 else ''} instead of {full}" if seeds != full else ""
    return f"no data root given: {where}embedded images (generated){fewer}"
