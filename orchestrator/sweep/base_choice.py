"""The choice of base, images and seeds of a sweep, also when no data root is given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moleflow.errors import InvalidInput
from moleflow.settings.knobs import Layer, base_layers, base_names, flatten_layer
from moleflow.settings.paths import expand_path
from moleflow.settings.yaml_reader import read_mapping, yaml_text
from orchestrator.sweep.axes import check_value
from orchestrator.sweep.file_schema import SweepFile


@dataclass(frozen=True)
class Base:
    """The settings under the axes: a named base, the sweep file's own settings, or both.

    Attributes:
        name: the base's name, or the path of its file relative to `folder`; empty = the defaults.
        settings: the sweep file's own settings, which win over the named base.
        source: the key or option that names the base, for messages.
        folder: the folder that a relative path in `name` starts from.

    """

    name: str
    settings: Mapping[str, Any]
    source: str
    folder: Path

    @property
    def label(self) -> str:
        """The base's name in tables and notes: `demo`, `demo with own settings`."""
        named = Path(self.name).stem if self.name.endswith((".yaml", ".yml")) else self.name
        label = named or "the defaults"
        return f"{label} with own settings" if self.settings else label

    def layers(self, version: str) -> tuple[Layer, ...]:
        """Return the base's layers for one version, with every value checked.

        Raises:
            InvalidInput: no such base, or a mistake in it.

        """
        named = base_layers(self.name, version, self.source, self.folder) if self.name else []
        layers = (*named, Layer(self.source, self.settings))
        for layer in layers:
            for path, value in flatten_layer(layer).items():
                if path in ("version", "seed"):
                    instead = f"`seeds: [{yaml_text(value)}]`" if path == "seed" else f"`version: {value}`"
                    raise InvalidInput(
                        f"{layer.source}: {path} does not belong in a base; give the sweep file {instead}"
                    )
                check_value(path, value, layer.source)
        return layers

    def extends(self, other: str) -> bool:
        """Return true if this base is the one named `other`, or extends it."""
        return any(layer.source == f"base {other}" for layer in self.layers(version=""))


@dataclass(frozen=True)
class BaseChoice:
    """The base and seeds that a sweep runs with.

    Attributes:
        name: the sweep's name, longer than in the file if base or images differ from the file's.
        base: the base.
        seeds: the seeds.
        note: a sentence for readers about what was replaced; may be empty.

    """

    name: str
    base: Base
    seeds: tuple[int, ...]
    note: str


def choose_base(
    keys: SweepFile, source: str, folder: Path, base_option: str | None, data_root: Path | None
) -> BaseChoice:
    """Choose the base, the seeds and the name of a sweep.

    A base is meant for the embedded images if it is the base of `without_data` or extends it.
    Without a data root, the base of `without_data` replaces any other base, unless `--base` names
    one. A sweep on another base, or on images that the base is not meant for, gets its own name
    and so its own results folder:

        own base, its images                  NAME
        without_data, embedded images         NAME-BASE
        another base, real images             NAME-BASE
        base for embedded images, real images NAME-BASE-data, or NAME-data if it is the file's own
        base for real images, embedded images NAME-BASE-embedded, or NAME-embedded likewise

    Args:
        keys: the sweep file.
        source: its name in messages.
        folder: the folder that its relative paths start from.
        base_option: the base that `--base` names.
        data_root: the folder of the images; None = the embedded images.

    Raises:
        InvalidInput: a base that does not exist or holds a mistake, or a seed given twice.

    """
    own = _own_base(keys, source, folder)
    _refuse_sweep_file(folder / expand_path(own.name, own.source), own.name, own.source)
    embedded_name = keys.without_data.base
    base = own
    if base_option is not None:
        # A $ in the path of an option is a plain character, as the shell filled in its variables.
        path = str(Path(base_option).absolute()).replace("$", "$$")
        asked = path if base_option.endswith((".yaml", ".yml")) else base_option
        _refuse_sweep_file(Path(base_option), base_option, "--base")
        base = Base(asked, {}, "--base", folder)
    elif data_root is None and not own.extends(embedded_name):
        base = Base(embedded_name, {}, f"{source}: without_data", folder)
    replaced = (base.name, base.settings) != (own.name, own.settings)
    embedded = base.extends(embedded_name)

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
    return BaseChoice(name, base, seeds, _note(own, base, replaced, data_root, len(full), len(seeds)))


def _refuse_sweep_file(path: Path, named: str, source: str) -> None:
    """Refuse a sweep file given as a base; only sweep files have the key `name`."""
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
    """Return the seeds of a list, or 0 to n - 1 for a count n.

    Raises:
        InvalidInput: a seed is given twice.

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
