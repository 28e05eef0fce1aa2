"""The axes of a sweep: which values they take, and how a sweep file writes them.

A sweep's variants are the product of its axes. Each knob under `grid` is an axis of its own. `zip`
(knobs that move together), `list` (variants written out) and `random` (seeded draws) are one axis
each, over several knobs. A knob belongs to one axis only.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeGuard, cast, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError

from moleflow.errors import InvalidInput
from moleflow.settings.knobs import Layer, allowed, choices, fields, flatten_layer
from moleflow.settings.yaml_reader import quotes_hint, yaml_text
from moleflow.suggestions import hint_at

Kind = Literal["choice", "uniform", "loguniform", "integer"]
MOST_DRAWN = 2**53
"""The largest bound of an integer range: beyond it floats skip whole numbers, and Optuna fails."""


@cache
def _adapter(path: str) -> TypeAdapter[Any]:
    strict = ConfigDict(strict=True, allow_inf_nan=False)
    return TypeAdapter(fields()[path].rebuild_annotation(), config=strict)


def check_value(path: str, value: object, source: str) -> Any:
    """Check a knob's value, and convert it to the knob's type: 2 becomes 2.0, a list a tuple.

    Args:
        path: the knob's dotted path, such as `loss.focal_gamma`.
        value: the value as YAML gave it.
        source: the file or option that holds it, for the message.

    Raises:
        InvalidInput: the knob does not allow this value.

    """
    try:
        return _adapter(path).validate_python(value)
    except ValidationError as error:
        hint = hint_at(value, choices(path)) if isinstance(value, str) else ""
        if any(one["type"] == "string_type" for one in error.errors(include_url=False)):
            hint = quotes_hint(value)
        raise InvalidInput(f"{source}: {path}: given {yaml_text(value)}, allowed: {allowed(path)}{hint}") from None


def is_number(value: object) -> TypeGuard[int | float]:
    """Return true for integers and floats; Python's bool is an int, but YAML's is no number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class ListedAxis:
    """An axis whose points are written out: a knob of `grid`, a `zip`, or a `list`.

    Attributes:
        knobs: the dotted paths that the axis varies.
        rows: its points as {dotted path: value}; a row of `list` may leave knobs out.

    """

    knobs: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.rows)

    def always_has(self, path: str) -> bool:
        """Return true if every point sets the knob at `path`."""
        return all(path in row for row in self.rows)

    def values(self, path: str) -> list[Any]:
        """The distinct values of the knob at `path`, in file order."""
        return list(dict.fromkeys(row[path] for row in self.rows if path in row))


@dataclass(frozen=True)
class Distribution:
    """The distribution of one knob that is drawn at random or searched.

    Attributes:
        kind: choice, or uniform, loguniform or integer between two bounds, both included.
        bounds: the choices, or the lower and the upper bound.

    """

    kind: Kind
    bounds: tuple[Any, ...]

    def draw(self, stream: random.Random) -> Any:
        """Draw one value. Takes exactly one number from the stream, whatever the kind."""
        fraction = stream.random()
        if self.kind == "choice":
            return self.bounds[int(fraction * len(self.bounds))]
        low, high = self.bounds
        if self.kind == "integer":
            return low + int(fraction * (high - low + 1))
        if self.kind == "uniform":
            return self.rounded(low + fraction * (high - low))
        return self.rounded(math.exp(math.log(low) + fraction * (math.log(high) - math.log(low))))

    def rounded(self, number: float) -> float:
        """Round to six significant digits, so that `--set` can repeat the value in a table."""
        low, high = map(float, self.bounds)
        return min(max(float(f"{number:.6g}"), low), high)  # Rounding may step over a bound.

    @property
    def size(self) -> int | None:
        """The number of values; None for a range of floats."""
        if self.kind == "choice":
            return len(self.bounds)
        return self.bounds[1] - self.bounds[0] + 1 if self.kind == "integer" else None

    @property
    def values(self) -> Sequence[Any]:
        """The values in order; of a range of floats, its bounds."""
        return range(self.bounds[0], self.bounds[1] + 1) if self.kind == "integer" else self.bounds

    def contains(self, value: object) -> bool:
        """Return true if the distribution can give this value."""
        if self.kind == "choice":
            return value in self.bounds
        low, high = self.bounds
        return is_number(value) and low <= value <= high


@dataclass(frozen=True)
class RandomAxis:
    """An axis of `count` random points.

    Each knob is drawn from its own generator, seeded by the seed and the knob's name. More knobs or
    a larger count therefore change no earlier draw.
    """

    count: int
    seed: int
    distributions: Mapping[str, Distribution]

    @property
    def knobs(self) -> tuple[str, ...]:
        """The dotted paths that are drawn."""
        return tuple(self.distributions)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        # Draws have to be repeatable, not secret.
        streams = {path: random.Random(f"{self.seed} {path}") for path in self.distributions}  # noqa: S311
        for _ in range(self.count):
            row = {path: of.draw(streams[path]) for path, of in self.distributions.items()}
            # Choices and bounds were checked when the file was read. An integer between two allowed
            # bounds may still be forbidden, as a batch size that has to be a power of two.
            yield {
                path: check_value(path, value, "random") if self.distributions[path].kind == "integer" else value
                for path, value in row.items()
            }

    def always_has(self, path: str) -> bool:
        """Return true if every point sets the knob at `path`."""
        return path in self.distributions

    def values(self, path: str) -> list[Any] | None:
        """The distinct values of the knob at `path`, or None for a range."""
        distribution = self.distributions[path]
        return list(dict.fromkeys(distribution.bounds)) if distribution.kind == "choice" else None


Axis = ListedAxis | RandomAxis


def flat_settings(settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Flatten settings that name knobs in any spelling to {dotted path: value}.

    Raises:
        InvalidInput: an unknown knob, a knob given twice, or `seed`, which is no axis.

    """
    flat = flatten_layer(Layer(source, settings))
    if "seed" in flat:
        raise InvalidInput(f"{source}: seed is no axis; give the sweep `seeds: [0, 1, 2]` or `seeds: 3`")
    return flat


def axis_values(path: str, values: object, source: str) -> tuple[Any, ...]:
    """Check the values of a grid axis or a condition.

    Raises:
        InvalidInput: no list, an empty list, a value that the knob does not allow or that is given
            twice.

    """
    if not isinstance(values, list):
        one = values if isinstance(values, str) else yaml_text(values)
        raise InvalidInput(f"{source}: {path}: given {yaml_text(values)}, allowed: a list of values, as in [{one}]")
    if not values:
        raise InvalidInput(f"{source}: {path}: the axis is empty; give it at least one value, or remove it")
    checked: dict[Any, None] = {}  # A dict keeps the order.
    for value in values:
        converted = check_value(path, value, source)
        if converted in checked:
            raise InvalidInput(f"{source}: {path}: the value {yaml_text(value)} is given twice; keep one of them")
        checked[converted] = None
    return tuple(checked)


def grid_axes(settings: Mapping[str, Any], source: str) -> list[Axis]:
    """The axes of `grid: {knob: [values]}`, one for each knob.

    Raises:
        InvalidInput: an unknown knob, an impossible value, an empty axis, or a value given twice.

    """
    return [
        ListedAxis((path,), tuple({path: value} for value in axis_values(path, values, source)))
        for path, values in flat_settings(settings, source).items()
    ]


def zipped(settings: Mapping[str, Any], source: str) -> list[Axis]:
    """The axis of `zip: {knob: [values], ...}`, whose n-th point takes the n-th value of each knob.

    Returns:
        One axis, or none for an empty `zip`.

    Raises:
        InvalidInput: an unknown knob, an impossible value, an empty list, lists of different
            lengths, or a point given twice.

    """
    columns: dict[str, list[Any]] = {}
    for path, values in flat_settings(settings, source).items():
        if not isinstance(values, list) or not values:
            axis_values(path, values, source)
        columns[path] = [check_value(path, value, source) for value in values]  # A knob of a zip may repeat a value.
    if len({len(values) for values in columns.values()}) > 1:
        lengths = ", ".join(f"{path} has {len(values)}" for path, values in columns.items())
        raise InvalidInput(f"{source}: knobs of a zip need equally many values, but {lengths}")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return _axis_of_distinct(rows, tuple(columns), source)


def listed(settings: Sequence[Any], source: str) -> list[Axis]:
    """The axis of `list: [{knob: value, ...}, ...]`; its entries need not name the same knobs.

    Returns:
        One axis, or none for an empty `list`.

    Raises:
        InvalidInput: an unknown knob, an impossible value, or an entry given twice.

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
    return _axis_of_distinct([{path: row[path] for path in knobs if path in row} for row in rows], knobs, source)


def _axis_of_distinct(rows: Sequence[Mapping[str, Any]], knobs: tuple[str, ...], source: str) -> list[Axis]:
    """Return one axis, or none without rows; refuse a row that is given twice."""
    seen: set[frozenset[tuple[str, Any]]] = set()
    for number, row in enumerate(rows, start=1):
        key = frozenset(row.items())
        if key in seen:
            raise InvalidInput(f"{source}: entry {number} repeats an earlier one; keep one of them")
        seen.add(key)
    return [ListedAxis(knobs, tuple(rows))] if rows else []


def random_axis(count: int, seed: int, settings: Mapping[str, Any], source: str) -> RandomAxis:
    """The axis of `random`, or the space of `search`.

    Args:
        count: how many points to draw.
        seed: the seed of the draws.
        settings: {knob: {choice: [values]}} or {knob: {uniform | loguniform | integer: [a, b]}}.
        source: the file and key, for messages.

    Raises:
        InvalidInput: an unknown knob or distribution, a bound that the knob does not allow, or no
            knob at all.

    """
    flat = flat_settings(settings, source)
    if not flat:
        raise InvalidInput(f"{source}: names no knob; give one, as in {{focal_gamma: {{uniform: [0, 3]}}}}")
    return RandomAxis(count, seed, {path: _distribution(path, given, source) for path, given in flat.items()})


def _distribution(path: str, given: object, source: str) -> Distribution:
    kinds = get_args(Kind)
    where = f"{source}: {path}"
    if not isinstance(given, Mapping) or len(given) != 1 or next(iter(given)) not in kinds:
        hint = hint_at(str(next(iter(given), "")), kinds) if isinstance(given, Mapping) else ""
        allowed_kinds = "{choice: [values]}, or {uniform | loguniform | integer: [a, b]}"
        raise InvalidInput(f"{where}: given {yaml_text(given)}, allowed: {allowed_kinds}{hint}")
    kind, bounds = next(iter(given.items()))
    if kind == "choice":
        return Distribution("choice", axis_values(path, bounds, source))
    if (
        not isinstance(bounds, list)
        or len(bounds) != 2
        or not all(is_number(b) and (kind != "integer" or isinstance(b, int)) for b in bounds)
        or not bounds[0] < bounds[1]
    ):
        what = "two whole numbers" if kind == "integer" else "two numbers"
        raise InvalidInput(f"{where}: {kind}: given {yaml_text(bounds)}, allowed: [a, b], {what} with a < b")
    if kind == "loguniform" and bounds[0] <= 0:
        raise InvalidInput(f"{where}: loguniform: given {yaml_text(bounds)}, allowed: [a, b] with 0 < a < b")
    if kind == "integer" and max(map(abs, bounds)) > MOST_DRAWN:
        raise InvalidInput(
            f"{where}: integer: given {yaml_text(bounds)}, allowed: whole numbers up to {MOST_DRAWN}, "
            "as draws are computed with floats; give a smaller range"
        )
    ends = tuple(bounds if kind == "integer" else map(float, bounds))
    for end in ends:
        check_value(path, end, f"{source}: {kind} {bounds}")
    return Distribution(cast(Kind, kind), ends)
