"""The values of `--set knob=value`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from moleflow.errors import InvalidInput
from moleflow.settings.knobs import Layer, allowed, fields, flatten_layer
from moleflow.settings.yaml_reader import parse, yaml_text
from orchestrator.sweep.axes import check_value


def parse_sets(sets: Sequence[str], refused: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """Parse the `knob=value` of every `--set` to {dotted path: value}.

    Args:
        sets: the options as given.
        refused: {knob that cannot be set: reason}; `{}` in a reason stands for the given value.

    Raises:
        InvalidInput: not of that form, an unknown or refused knob, a value that the knob does not
            allow, or a knob given twice.

    """
    values: dict[str, Any] = {}
    for given in sets:
        source = f"--set {given}"
        for path, value in _parse(given, source).items():
            if path in refused:
                raise InvalidInput(f"{source}: {refused[path].format(yaml_text(value))}")
            if path in values:
                raise InvalidInput(f"{source}: {path} is set twice; keep one of them")
            values[path] = check_value(path, value, source)
    return values


def _parse(given: str, source: str) -> dict[str, Any]:
    """Parse one `knob=value`, or `group={knob: value}`, to {dotted path: unchecked value}."""
    name, equals, text = (part.strip() for part in given.partition("="))
    if not equals or not name:
        missing = "no knob before '='" if equals else "no '='"
        raise InvalidInput(f"{source}: {missing}; write knob=value, as in --set epochs=5")
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
