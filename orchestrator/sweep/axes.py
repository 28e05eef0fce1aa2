"""The axes of a sweep: which values they take, how they combine, and under which conditions they apply.

A sweep's space is the product of its *parts*. Each axis of `grid` is a part of its own, and so are `zip` (axes that
move together), `list` (variants written out) and `random` (seeded draws). Every knob belongs to one part only.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, cast, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError

from moleflow.errors import InvalidInput, did_you_mean
from moleflow.settings.knobs import Layer, allowed, choices, fields, flatten_layer
from moleflow.settings.yaml_reader import yaml_text

Kind = Literal["choice", "uniform", "loguniform", "integer"]


@cache
def _adapter(path: str) -> TypeAdapter[Any]:
    strict = ConfigDict(strict=True, allow_inf_nan=False)
    return TypeAdapter(fields()[path].rebuild_annotation(), config=strict)


def check_value(path: str, value: object, source: str) -> Any:
    """`value` as the knob at `path` keeps it: 2 becomes 2.0 where a number is meant, a list becomes a tuple.

    Raises:
        InvalidInput: the knob cannot be that.

    """
    try:
        return _adapter(path).validate_python(value)
    except ValidationError:
        hint = did_you_mean(value, choices(path)) if isinstance(value, str) else ""
        raise InvalidInput(f"{source}: {path}: given {yaml_text(value)}, allowed: {allowed(path)}{hint}") from None


def fits(path: str, value: object) -> bool:
    """Whether the knob at `path` can be `value`."""
    try:
        check_value(path, value, "")
    except InvalidInput:
        return False
    return True


@dataclass(frozen=True)
class ListedAxis:
    """A part whose members are written out: one grid axis, a zip, or a list."""

    knobs: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.rows)

    def values(self, path: str) -> list[Any]:
        """The values that the knob at `path` takes here, each once."""
        return list(dict.fromkeys(row[path] for row in self.rows if path in row))


@dataclass(frozen=True)
class Distribution:
    """Where a random knob's values come from: `bounds` are the choices, or both ends (which may be drawn)."""

    kind: Kind
    bounds: tuple[Any, ...]

    def draw(self, stream: random.Random) -> Any:
        """One value, from exactly one `random()` of the stream."""
        share = stream.random()
        if self.kind == "choice":
            return self.bounds[int(share * len(self.bounds))]
        low, high = self.bounds
        if self.kind == "integer":
            return low + int(share * (high - low + 1))
        if self.kind == "uniform":
            value = low + share * (high - low)
        else:
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        # Six significant digits: a table shows the value in full, and `--set` repeats it.
        return min(max(float(f"{value:.6g}"), low), high)


@dataclass(frozen=True)
class RandomAxis:
    """A part of `count` random members.

    Each knob has a stream of its own, so that neither more knobs nor a larger count change an earlier draw.
    """

    count: int
    seed: int
    distributions: Mapping[str, Distribution]

    @property
    def knobs(self) -> tuple[str, ...]:
        """The knobs that are drawn."""
        return tuple(self.distributions)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        # Draws have to be repeatable, not secret.
        streams = {path: random.Random(f"{self.seed} {path}") for path in self.distributions}  # noqa: S311
        drawn = [(path, of, streams[path], of.kind == "integer") for path, of in self.distributions.items()]
        for _ in range(self.count):
            # Choices and bounds were checked when they were read; a whole number between the bounds need not be allowed.
            yield {
                path: check_value(path, of.draw(stream), "random") if whole else of.draw(stream)
                for path, of, stream, whole in drawn
            }

    def values(self, path: str) -> list[Any] | None:
        """The values that the knob at `path` can take here, or None where they are a range."""
        distribution = self.distributions[path]
        return list(dict.fromkeys(distribution.bounds)) if distribution.kind == "choice" else None


Axis = ListedAxis | RandomAxis


def flat_settings(settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    """{dotted path: what stands there}, with every name an axis may have."""
    flat = flatten_layer(Layer(source, settings))
    if "seed" in flat:
        raise InvalidInput(f"{source}: seed is no axis; write `seeds: [0, 1, 2]`, or `seeds: 3`, beside the axes")
    return flat


def axis_values(path: str, values: object, source: str) -> tuple[Any, ...]:
    if not isinstance(values, list):
        one = values if isinstance(values, str) else yaml_text(values)
        raise InvalidInput(f"{source}: {path}: given {yaml_text(values)}, allowed: a list of values, as in [{one}]")
    if not values:
        raise InvalidInput(f"{source}: {path}: the axis is empty; give it at least one value, or take it away")
    found: dict[Any, None] = {}
    for value in values:
        kept = check_value(path, value, source)
        if kept in found:
            raise InvalidInput(f"{source}: {path}: the value {yaml_text(value)} is given twice; keep one of them")
        found[kept] = None
    return tuple(found)


def grid(settings: Mapping[str, Any], source: str) -> list[Axis]:
    """`{knob: [values]}`: one part per knob.

    Raises:
        InvalidInput: an unknown knob, an impossible value, an empty axis, or a value given twice.

    """
    return [
        ListedAxis((path,), tuple({path: value} for value in axis_values(path, values, source)))
        for path, values in flat_settings(settings, source).items()
    ]


def zipped(settings: Mapping[str, Any], source: str) -> list[Axis]:
    """`{knob: [values], ...}` of equal lengths: one part, the n-th values together.

    Raises:
        InvalidInput: an unknown knob, an impossible value, an empty axis, or axes of different lengths.

    """
    columns: dict[str, list[Any]] = {}
    for path, values in flat_settings(settings, source).items():
        if not isinstance(values, list) or not values:
            axis_values(path, values, source)
        columns[path] = [check_value(path, value, source) for value in values]  # one axis of a zip may repeat a value
    if len({len(values) for values in columns.values()}) > 1:
        lengths = ", ".join(f"{path} has {len(values)}" for path, values in columns.items())
        raise InvalidInput(f"{source}: axes that move together need equally many values: {lengths}")
    if not columns:
        return []
    rows = tuple(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return [_distinct(ListedAxis(tuple(columns), rows), source)]


def listed(settings: Sequence[Any], source: str) -> list[Axis]:
    """`[{knob: value, ...}, ...]`: one part, its members as written; they need not name the same knobs.

    Raises:
        InvalidInput: an unknown knob, an impossible value, or a member given twice.

    """
    rows: list[dict[str, Any]] = []
    for number, entry in enumerate(settings, start=1):
        where = f"{source}, entry {number}"
        if not isinstance(entry, Mapping):
            raise InvalidInput(
                f"{where}: given {yaml_text(entry)}, allowed: a mapping of knobs, as in {{focal_gamma: 2}}"
            )
        rows.append({path: check_value(path, value, where) for path, value in flat_settings(entry, where).items()})
    knobs = tuple(dict.fromkeys(path for row in rows for path in row))
    ordered = tuple({path: row[path] for path in knobs if path in row} for row in rows)
    return [_distinct(ListedAxis(knobs, ordered), source)] if rows else []


def _distinct(part: ListedAxis, source: str) -> ListedAxis:
    seen: set[frozenset[tuple[str, Any]]] = set()
    for number, row in enumerate(part.rows, start=1):
        key = frozenset(row.items())
        if key in seen:
            raise InvalidInput(f"{source}: entry {number} repeats an earlier one; keep one of them")
        seen.add(key)
    return part


def drawn(count: int, seed: int, settings: Mapping[str, Any], source: str) -> list[Axis]:
    """`{knob: {choice: [values]}}` or `{knob: {uniform | loguniform | integer: [a, b]}}`: one part of `count` draws.

    Raises:
        InvalidInput: an unknown knob or distribution, bounds that the knob cannot be, or no knob at all.

    """
    flat = flat_settings(settings, source)
    if not flat:
        raise InvalidInput(f"{source}: names no knob to draw; add one, as in {{focal_gamma: {{uniform: [0, 3]}}}}")
    return [RandomAxis(count, seed, {path: _distribution(path, given, source) for path, given in flat.items()})]


def _distribution(path: str, given: object, source: str) -> Distribution:
    kinds = get_args(Kind)
    where = f"{source}: {path}"
    if not isinstance(given, Mapping) or len(given) != 1 or next(iter(given)) not in kinds:
        hint = did_you_mean(str(next(iter(given), "")), kinds) if isinstance(given, Mapping) else ""
        allowed_kinds = "{choice: [values]}, or {uniform | loguniform | integer: [a, b]}"
        raise InvalidInput(f"{where}: given {yaml_text(given)}, allowed: {allowed_kinds}{hint}")
    kind, bounds = next(iter(given.items()))
    if kind == "choice":
        return Distribution("choice", axis_values(path, bounds, source))
    number = int if kind == "integer" else (int, float)
    if (
        not isinstance(bounds, list)
        or len(bounds) != 2
        or not all(isinstance(b, number) and not isinstance(b, bool) for b in bounds)
        or not bounds[0] < bounds[1]
    ):
        what = "two whole numbers" if kind == "integer" else "two numbers"
        raise InvalidInput(f"{where}: {kind}: given {yaml_text(bounds)}, allowed: [a, b], {what} with a < b")
    if kind == "loguniform" and bounds[0] <= 0:
        raise InvalidInput(f"{where}: loguniform: given {yaml_text(bounds)}, but a logarithm needs a > 0")
    ends = tuple(bounds if kind == "integer" else map(float, bounds))
    for end in ends:
        check_value(path, end, f"{source}: {kind} {bounds}")
    return Distribution(cast(Kind, kind), ends)
