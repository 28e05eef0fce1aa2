"""The conditions of `when` and `exclude`: parsing, checking and evaluating them."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moleflow.errors import InvalidInput
from moleflow.settings.knobs import Layer, fields, flatten_layer
from moleflow.settings.yaml_reader import parse, yaml_text
from moleflow.suggestions import hint_at
from orchestrator.sweep.axes import Axis, axis_values, check_value, flat_settings, is_number
from orchestrator.sweep.trial import spell

_COMPARISON = re.compile(r"^(>=|<=|>|<(?!>)|!=)\s*(.+)$")
_MISSPELLED_COMPARISON = re.compile(r"^(=>|=<|<>|==?)\s*(.+)$")
_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


@dataclass(frozen=True)
class Requirement:
    """The part of a condition that is about one knob.

    Attributes:
        sign: "in" (one of `values`), "!=" (none of them), or >, >=, < or <=.
        values: the values; a comparison has one.

    """

    sign: str
    values: tuple[Any, ...]

    def holds(self, value: object) -> bool:
        """Return true if the knob's value meets the requirement; only numbers meet > >= < <=."""
        if self.sign == "in":
            return value in self.values
        if self.sign == "!=":
            return value not in self.values
        return is_number(value) and _OPERATORS[self.sign](value, self.values[0])


Condition = Mapping[str, Requirement]


def parse_condition(settings: object, source: str) -> Condition:
    """Parse `{knob: value | [values] | "> 0"}`, which holds if every knob meets its requirement.

    Raises:
        InvalidInput: an unknown knob, a value that it does not allow, or an empty condition.

    """
    if not isinstance(settings, Mapping) or not settings:
        raise InvalidInput(f'{source}: given {yaml_text(settings)}, allowed: {{knob: value, or [values], or "> 0"}}')
    return {path: _requirement(path, given, source) for path, given in flat_settings(settings, source).items()}


def holds(condition: Condition, values: Mapping[str, Any]) -> bool:
    """Return true if all knobs meet their requirements; `values` are by dotted path."""
    return all(required.holds(values[path]) for path, required in condition.items())


def _requirement(path: str, given: object, source: str) -> Requirement:
    match = _COMPARISON.match(given) if isinstance(given, str) else None
    if match:
        sign, value = match[1], parse(match[2], f"{source}: {path}")
        if sign == "!=":
            return Requirement(sign, (check_value(path, value, source),))
        if not is_number(value):
            raise InvalidInput(f"{source}: {path}: given {yaml_text(given)}, but {sign} needs a number after it")
        return Requirement(sign, (value,))
    if isinstance(given, str) and (wrong := _MISSPELLED_COMPARISON.match(given)):
        meant = {"=>": ">= ", "=<": "<= ", "<>": "!= "}.get(wrong[1], "") + wrong[2]
        raise InvalidInput(
            f"{source}: {path}: given {yaml_text(given)}; allowed: a value, [values], or > >= < <= and a number, "
            f"or != and a value. Did you mean '{meant}'?"
        )
    # For a knob that is itself a list, [1, 2] is one value and [[1], [1, 2]] are two.
    takes_list = isinstance(fields()[path].default, tuple)
    if not isinstance(given, list) or (takes_list and not any(isinstance(value, list) for value in given)):
        return Requirement("in", (check_value(path, given, source),))
    return Requirement("in", axis_values(path, given, source))


def check_conditions(
    layers: Mapping[str, tuple[Layer, ...]],
    axis_of: Mapping[str, Axis],
    when: Mapping[str, Condition],
    exclude: Sequence[Condition],
    source: str,
) -> None:
    """Refuse conditions that no combination meets: most are typing errors and would go unnoticed.

    Args:
        layers: {version: settings under the factors}.
        axis_of: {knob: the axis that varies it}.
        when: {knob: condition under which it is varied}.
        exclude: conditions of the variants to leave out.
        source: the sweep file, for messages.

    Raises:
        InvalidInput: a condition asks for a value that neither the axes nor the base have.

    """
    values = [_possible_values(version, under, axis_of, when) for version, under in layers.items()]
    for knob, condition in when.items():
        _refuse_impossible(condition, values, f"{source}: when.{knob}", "the axis would never apply")
    for number, condition in enumerate(exclude, start=1):
        where, result = f"{source}: exclude, entry {number}", "it would leave nothing out"
        _refuse_impossible(condition, values, where, result)
        for path, required in condition.items():
            if required.sign == "in" and path in axis_of:
                for value in required.values:
                    _refuse_impossible({path: Requirement("in", (value,))}, values, where, result)


def _possible_values(
    version: str, layers: Sequence[Layer], axis_of: Mapping[str, Axis], when: Mapping[str, Condition]
) -> dict[str, list[Any] | None]:
    """The values that each knob can have in the variants of one version; None for a range."""
    base = {path: field.default for path, field in fields().items()}
    for layer in layers:
        base |= {path: check_value(path, value, layer.source) for path, value in flatten_layer(layer).items()}
    base["version"] = version
    values: dict[str, list[Any] | None] = {path: [value] for path, value in base.items()}
    for path, axis in axis_of.items():
        varied = axis.values(path)
        if path != "version":
            # The base's value counts too if some variants leave the knob out.
            in_every_variant = path not in when and axis.always_has(path)
            values[path] = varied if varied is None or in_every_variant else [*varied, base[path]]
    return values


def _refuse_impossible(
    condition: Condition, versions: Sequence[Mapping[str, list[Any] | None]], where: str, consequence: str
) -> None:
    def possible(path: str, required: Requirement, version: Mapping[str, list[Any] | None]) -> bool:
        values = version[path]
        return values is None or any(required.holds(value) for value in values)

    if any(all(possible(path, required, version) for path, required in condition.items()) for version in versions):
        return
    # Each requirement may be possible in some version, while no version meets all of them.
    never = [p for p, required in condition.items() if not any(possible(p, required, v) for v in versions)]
    path = next(iter(never or condition))
    has = [spell(v) for v in dict.fromkeys(v for version in versions for v in version[path] or ())]
    asked = [spell(value) for value in condition[path].values]
    sign = "" if condition[path].sign == "in" else f"{condition[path].sign} "
    raise InvalidInput(
        f"{where}: {path}: given {sign}{' | '.join(asked)}, but its only values are: {', '.join(has)}; "
        f"so {consequence}. Give one of these values, or remove the condition{hint_at(asked[0], has)}"
    )
