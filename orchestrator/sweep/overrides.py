"""The values of `--set knob=value`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from moleflow.errors import InvalidInput
from moleflow.settings.knobs import Layer, allowed, fields, flatten_layer, short_names
from moleflow.settings.yaml_reader import parse, yaml_text
from orchestrator.sweep.axes import check_value
from orchestrator.sweep.file_schema import Resources, SweepFile, parse_sweep_file

_RESOURCES = "resources"


def parse_sets(sets: Sequence[str], refused: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """Parse the `knob=value` of every `--set` to {dotted path: value}.

    Args:
        sets: the options as given.
        refused: {knob that cannot be set: reason}.

    Raises:
        InvalidInput: not of that form, an unknown or refused knob, a value that the knob does not
            allow, or a knob given twice.

    """
    values: dict[str, Any] = {}
    for given in sets:
        source = f"--set {given}"
        for path, value in _parse(given, source).items():
            if path in refused:
                raise InvalidInput(f"{source}: {refused[path]}")
            if path in values:
                raise InvalidInput(f"{source}: {path} is set twice; keep one of them")
            values[path] = check_value(path, value, source)
    return values


def set_resources(sets: Sequence[str], resources: Resources) -> tuple[list[str], Resources]:
    """Apply the `--set resources.KEY=VALUE`; returns the other settings, and the resources.

    Args:
        sets: the options as given.
        resources: the resources that the sweep file gives.

    Raises:
        InvalidInput: an unknown key, a value that it does not allow, or a key given twice.

    """
    others: list[str] = []
    given_keys: set[str] = set()
    for given in sets:
        name, equals, text = (part.strip() for part in given.partition("="))
        if not equals or (name != _RESOURCES and not name.startswith(f"{_RESOURCES}.")):
            others.append(given)
            continue
        source = f"--set {given}"
        value = parse(text, source)
        changed = {name.partition(".")[2]: value} if "." in name else value
        if not isinstance(changed, Mapping):
            raise InvalidInput(f"{source}: give one key of it, as in --set resources.gpus=1")
        if twice := given_keys & changed.keys():
            raise InvalidInput(f"{source}: {_RESOURCES}.{min(twice)} is set twice; keep one of them")
        given_keys |= changed.keys()
        merged = resources.model_dump(exclude_unset=True) | dict(changed)
        resources = parse_sweep_file({"name": _RESOURCES, _RESOURCES: merged}, source).resources
    return others, resources


def _parse(given: str, source: str) -> dict[str, Any]:
    """Parse one `knob=value`, or `group={knob: value}`, to {dotted path: unchecked value}."""
    name, equals, text = (part.strip() for part in given.partition("="))
    if not equals or not name:
        missing = "no knob before '='" if equals else "no '='"
        raise InvalidInput(f"{source}: {missing}; write knob=value, as in --set epochs=5")
    if name in SweepFile.model_fields.keys() - short_names().keys() - {"data"}:
        raise InvalidInput(f"{source}: '{name}' is a key of sweep files, no knob; set it in one")
    value = parse(text, source)
    group = [path for path in fields() if path.startswith(f"{name}.")]
    if group and not isinstance(value, Mapping):
        raise InvalidInput(f"{source}: {name} is a group of knobs; set one of them: {', '.join(group)}")
    flat = flatten_layer(Layer(source, {name: value}))
    for path, one in flat.items():
        default = fields()[path].default
        # check_value() would take a text for a list of its letters.
        if isinstance(default, tuple) and not isinstance(one, list):
            example = f"--set '{name}=[{', '.join(map(str, default[:2]))}]'"
            raise InvalidInput(f"{source}: {path}: given {yaml_text(one)}, allowed: {allowed(path)}, as in {example}")
    return flat
