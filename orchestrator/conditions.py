"""Conditions of a sweep that can never hold: most of them are a slip of the pen, and would take an axis away without a word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moleflow.errors import InvalidInput, did_you_mean
from moleflow.knobs import Layer, fields, flatten_layer
from orchestrator.axes import Condition, Draws, Part, Requirement, checked
from orchestrator.trial import spell


def check_conditions(
    layers: Mapping[str, tuple[Layer, ...]],
    owners: Mapping[str, Part],
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
        self, version: str, layers: Sequence[Layer], owners: Mapping[str, Part], when: Mapping[str, Condition]
    ) -> None:
        self._base: dict[str, Any] = {}
        for layer in layers:
            found = flatten_layer(layer)
            self._base |= {path: checked(path, value, layer.source) for path, value in found.items()}
        self._base["version"] = version
        self._owners, self._when = owners, when

    def values(self, path: str) -> list[Any] | None:
        """The values of the knob at `path`, or None where they are a range."""
        base = [self._base.get(path, fields()[path].default)]
        if path not in self._owners or path == "version":
            return base
        part = self._owners[path]
        found = part.values(path)
        everywhere = isinstance(part, Draws) or all(path in row for row in part)
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
