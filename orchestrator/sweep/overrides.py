"""`--set knob=value`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from moleflow.errors import InvalidInput
from moleflow.settings.knobs import Layer, allowed, fields, flatten_layer
from moleflow.settings.yaml_reader import parse, yaml_text
from orchestrator.sweep.axes import Axis, check_value, fits


def parse_sets(sets: Sequence[str], refused: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """`key=value` of `--set` as {dotted path: value}.

    Args:
        sets: as they were given.
        refused: knobs that are set elsewhere, with what to say of them; `{}` in it stands for the value.

    Raises:
        InvalidInput: not of that form, an unknown knob, a wrong value, or a knob given twice.

    """
    found: dict[str, Any] = {}
    for given in sets:
        where = f"--set {given}"
        for path, value in _setting(given, where).items():
            if path in refused:
                raise InvalidInput(f"{where}: {refused[path].format(yaml_text(value))}")
            if path in found:
                raise InvalidInput(f"{where}: {path} is set twice; keep one of them")
            found[path] = check_value(path, value, where)
    return found


def _setting(given: str, where: str) -> dict[str, Any]:
    """One `key=value` as {dotted path: value}, before the value is checked."""
    name, equals, text = (part.strip() for part in given.partition("="))
    if not equals or not name:
        missing = "no knob before '='" if equals else "no '='"
        raise InvalidInput(f"{where}: {missing}; write knob=value, as in --set epochs=5")
    value = parse(text, where)
    group = [path for path in fields() if path.startswith(f"{name}.")]
    if group and not isinstance(value, Mapping):
        example = next((path for path in group if fits(path, value)), group[0])
        raise InvalidInput(f"{where}: {name} is a group; name one of its knobs, as in --set {example}={text}")
    found = flatten_layer(Layer(where, {name: value}))
    for path, one in found.items():
        usual = fields()[path].default
        if isinstance(usual, tuple) and not isinstance(one, list):
            example = f"--set '{name}=[{', '.join(map(str, usual[:2]))}]'"
            raise InvalidInput(f"{where}: {path}: given {yaml_text(one)}, allowed: {allowed(path)}, as in {example}")
    return found


def overrides_of(sets: Sequence[str], owners: Mapping[str, Axis], source: str) -> dict[str, Any]:
    refused = {path: f"{path} is an axis of this sweep; edit the axis in {source}" for path in owners}
    return parse_sets(sets, {"seed": f"a sweep's seeds are set by `seeds` in {source}", **refused})
