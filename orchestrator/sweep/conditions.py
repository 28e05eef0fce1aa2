"""Conditions of a sweep that can never hold: most of them are a slip of the pen, and would take an axis away without a word."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moleflow.errors import InvalidInput, did_you_mean
from moleflow.settings.knobs import Layer, fields, flatten_layer
from moleflow.settings.yaml_reader import parse, yaml_text
from orchestrator.sweep.axes import Axis, RandomAxis, axis_values, check_value, flat_settings
from orchestrator.sweep.trial import spell


def check_conditions(
    layers: Mapping[str, tuple[Layer, ...]],
    owners: Mapping[str, Axis],
    when: Mapping[str, Condition],
    exclude: Sequence[Condition],
    source: str,
) -> None:
    """See that each condition can hold for some combination.

    Args:
        layers: {version: settings under the factors}.
        owners: {axis: its part}.
        when: {axis: condition under which it applies}.
        exclude: variants for which one of these holds are left out.
        source: the file, for messages.

    Raises:
        InvalidInput: one asks for what no axis has and what the base does not say.

    """
    possible = [_Possible(version, under, owners, when) for version, under in layers.items()]
    for axis, condition in when.items():
        _refuse(condition, possible, f"{source}: when.{axis}", "the axis would never apply")
    for number, condition in enumerate(exclude, start=1):
        where = f"{source}: exclude, entry {number}"
        _refuse(condition, possible, where, "it would leave nothing out")
        for path, required in condition.items():
            if required.sign == "in" and path in owners:
                for value in required.values:
                    _refuse({path: Requirement("in", (value,))}, possible, where, "it would leave nothing out")


class _Possible:
    """The values that knobs can have in the variants of a version."""

    def __init__(
        self, version: str, layers: Sequence[Layer], owners: Mapping[str, Axis], when: Mapping[str, Condition]
    ) -> None:
        self._base: dict[str, Any] = {}
        for layer in layers:
            found = flatten_layer(layer)
            self._base |= {path: check_value(path, value, layer.source) for path, value in found.items()}
        self._base["version"] = version
        self._owners, self._when = owners, when

    def values(self, path: str) -> list[Any] | None:
        """The values of the knob at `path`, or None where they are a range."""
        base = [self._base.get(path, fields()[path].default)]
        if path not in self._owners or path == "version":
            return base
        part = self._owners[path]
        found = part.values(path)
        everywhere = isinstance(part, RandomAxis) or all(path in row for row in part)
        return found if found is None or (everywhere and path not in self._when) else [*found, *base]


def _refuse(condition: Condition, possible: Sequence[_Possible], where: str, otherwise: str) -> None:
    def holds(path: str, required: Requirement, of: _Possible) -> bool:
        values = of.values(path)
        return values is None or any(required.holds(value) for value in values)

    if any(all(holds(path, required, of) for path, required in condition.items()) for of in possible):
        return
    # Each may be possible with one version or another, and none with all of them.
    lone = [p for p, required in condition.items() if not any(holds(p, required, of) for of in possible)]
    path = next(iter(lone or condition))
    has = [spell(v) for v in dict.fromkeys(v for of in possible for v in of.values(path) or ())]
    asked = [spell(value) for value in condition[path].values]
    sign = "" if condition[path].sign == "in" else f"{condition[path].sign} "
    raise InvalidInput(
        f"{where}: {path}: given {sign}{' | '.join(asked)}, but it is only: {', '.join(has)}; so {otherwise}. "
        f"Give a value that it has, or take the condition away{did_you_mean(asked[0], has)}"
    )


_COMPARISON = re.compile(r"^(>=|<=|>|<(?!>)|!=)\s*(.+)$")


_NO_SIGN = re.compile(r"^(=>|=<|<>|==?)\s*(.+)$")


_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


@dataclass(frozen=True)
class Requirement:
    """What a condition asks of one knob: to be one of `values` ("in"), none of them ("!="), or a comparison."""

    sign: str
    values: tuple[Any, ...]

    def holds(self, value: object) -> bool:
        """Whether the knob's value passes. A comparison of size with something that is no number does not hold."""
        if self.sign == "in":
            return value in self.values
        if self.sign == "!=":
            return value not in self.values
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return _OPERATORS[self.sign](value, self.values[0])


Condition = Mapping[str, Requirement]


def parse_condition(settings: object, source: str) -> Condition:
    """`{knob: value | [values] | "> 0"}`: holds where every knob is as required.

    Raises:
        InvalidInput: an unknown knob, an impossible value, or an empty condition.

    """
    if not isinstance(settings, Mapping) or not settings:
        raise InvalidInput(f'{source}: given {yaml_text(settings)}, allowed: {{knob: value, or [values], or "> 0"}}')
    return {path: _requirement(path, given, source) for path, given in flat_settings(settings, source).items()}


def holds(condition: Condition, values: Mapping[str, Any]) -> bool:
    """Whether the condition's knobs, which have these values, are all as required."""
    return all(required.holds(values[path]) for path, required in condition.items())


def _requirement(path: str, given: object, source: str) -> Requirement:
    match = _COMPARISON.match(given) if isinstance(given, str) else None
    if match:
        sign, value = match[1], parse(match[2], f"{source}: {path}")
        if sign == "!=":
            return Requirement(sign, (check_value(path, value, source),))
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidInput(f"{source}: {path}: given {yaml_text(given)}, but {sign} needs a number after it")
        return Requirement(sign, (value,))
    if isinstance(given, str) and (wrong := _NO_SIGN.match(given)):
        meant = {"=>": ">= ", "=<": "<= ", "<>": "!= "}.get(wrong[1], "") + wrong[2]
        raise InvalidInput(
            f"{source}: {path}: given {yaml_text(given)}; allowed: a value, [values], or > >= < <= and a number, "
            f"or != and a value. Did you mean '{meant}'?"
        )
    takes_list = isinstance(fields()[path].default, tuple)
    if not isinstance(given, list) or (takes_list and not any(isinstance(value, list) for value in given)):
        return Requirement("in", (check_value(path, given, source),))
    return Requirement("in", axis_values(path, given, source))
