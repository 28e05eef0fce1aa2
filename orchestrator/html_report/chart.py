"""Charts: a Vega-Lite specification and its numbers, which the page also shows as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Spec = dict[str, Any]

SERIES = 8
"""Most series that a reader can distinguish by colour and shape."""
ACCENT = "#D55E00"
"""Colour of the Pareto front, the best value and the marginal means."""
LINE = 38
"""Characters in a line of a legend; LINE in `page.js` is the same."""
WRAPPED_LABEL = (
    f"length(datum.label) > {LINE} ? replace(datum.label, regexp('(.{{1,{LINE}}}), ', 'g'), '$1,\\n') : datum.label"
)
HAS_CAVEAT = "datum.caveats !== ''"
HAS_INTERVAL = {"filter": "isValid(datum.low)"}


@dataclass(frozen=True)
class Chart:
    """A chart with its numbers.

    Attributes:
        title: the heading.
        note: the meaning of points and bars, and what is left out.
        fields: {field of the specification: column name in the table of numbers}.
        rows: the numbers, one value for each field.
        spec: the Vega-Lite specification without its data.
        wide: true if it takes the whole width of the page.

    """

    title: str
    note: str
    fields: Mapping[str, str]
    rows: Sequence[Sequence[object]]
    spec: Spec = field(repr=False)
    wide: bool = False

    def content(self) -> dict[str, object]:
        """The chart as the page's script reads it."""
        return {
            "title": self.title,
            "fields": list(self.fields),
            "heads": list(self.fields.values()),
            "rows": [
                [float(f"{value:.6g}") if isinstance(value, float) else value for value in row] for row in self.rows
            ],
            "spec": self.drawable(),
        }

    def drawable(self) -> Spec:
        """The specification, without empty layers of intervals: Vega warns of their axes."""
        low = list(self.fields).index("low") if "low" in self.fields else None
        if low is None or "layer" not in self.spec or any(row[low] is not None for row in self.rows):
            return self.spec
        return self.spec | {
            "layer": [layer for layer in self.spec["layer"] if HAS_INTERVAL not in layer.get("transform", ())]
        }


@dataclass(frozen=True)
class ChartGroup:
    """Charts under one heading; `missing` says why charts are left out."""

    title: str
    charts: tuple[Chart, ...]
    missing: str = ""
    folded: bool = False


def quantitative(name: str, title: str, scale: Spec | None = None) -> Spec:
    """A quantitative channel whose axis need not begin at 0."""
    given = scale or {}
    # Vega-Lite drops `zero` from logarithmic scales, with a warning.
    zero = {} if given.get("type") == "log" else {"zero": False}
    return {"field": name, "type": "quantitative", "title": title, "scale": zero | given}


def nominal(name: str, title: str | None, **more: object) -> Spec:
    """A channel of names, in the order of the data."""
    return {"field": name, "type": "nominal", "title": title, "sort": None, **more}


def series(names: Sequence[str], *channels: str, **legend: object) -> Spec:
    """Channels of named series, such as colour and shape, which share one legend.

    Long names are wrapped, not cut, because variants may differ at the ends of their names.
    """
    domain = list(dict.fromkeys(names))
    styled = {"labelExpr": WRAPPED_LABEL, **legend}
    return {channel: nominal("series", None, scale={"domain": domain}, legend=styled) for channel in channels}


def tooltip(fields: Mapping[str, str]) -> list[Spec]:
    """A tooltip with every number of a point, named as in the table."""
    return [{"field": name, "title": head} for name, head in fields.items()]


def layered(height: int, encoding: Spec, layers: Sequence[Spec]) -> Spec:
    """The specification of layers over common axes, as wide as the page allows."""
    return {"width": "container", "height": height, "encoding": encoding, "layer": layers}


def intervals(mark: Spec, title: str, encoding: Spec | None = None, axis: str = "y", only: Sequence[Spec] = ()) -> Spec:
    """A layer of the intervals along an axis, of the rows that the filters `only` leave."""
    bounds = {axis: quantitative("low", title), f"{axis}2": {"field": "high"}}
    return {"transform": [*only, HAS_INTERVAL], "mark": mark, "encoding": bounds | (encoding or {})}


def left_out(shown: int, count: int, chosen: str) -> str:
    """A sentence that says which of `count` things are shown; empty if all are."""
    return f" {shown} of {count} {chosen}." * (shown < count)


POINT: Spec = {"type": "point", "size": 55, "strokeWidth": 1.8, "opacity": 1}


def points(encoding: Spec, any_caveat: bool) -> list[Spec]:
    """Layers of points; those of variants with a caveat are hollow."""
    filled, hollow = ({"mark": {**POINT, "filled": fill}, "encoding": encoding} for fill in (True, False))
    if not any_caveat:
        return [filled]
    return [
        filled | {"transform": [{"filter": "datum.caveats === ''"}]},
        hollow | {"transform": [{"filter": HAS_CAVEAT}]},
    ]


def spans_decades(values: Sequence[float]) -> bool:
    """Return true if values are easier to read on a logarithmic axis."""
    return min(values) > 0 and max(values) / min(values) >= 50
