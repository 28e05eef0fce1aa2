"""A chart: a Vega-Lite specification, and the numbers behind it, which are its data and can be read as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Spec = dict[str, Any]

SERIES = 8
"""Series that colours and shapes can tell apart."""
ACCENT = "#D55E00"
"""What a chart points at: its front, its best, its mean over all."""
LINE = 38
"""Letters of a line of a legend; `page.js` has the same."""
WRAPPED = (
    f"length(datum.label) > {LINE} ? replace(datum.label, regexp('(.{{1,{LINE}}}), ', 'g'), '$1,\\n') : datum.label"
)
UNSURE = "datum.marks !== ''"
VALID = {"filter": "isValid(datum.low)"}


@dataclass(frozen=True)
class Chart:
    """A chart with its numbers.

    Args:
        title: what it shows.
        note: what a reader must know: what points and bars are, and what was left out.
        fields: {field of the specification: its head in the table of the numbers}.
        rows: the numbers, one value for each field.
        spec: the Vega-Lite specification without its data.
        wide: whether it takes the whole width of the page.

    """

    title: str
    note: str
    fields: Mapping[str, str]
    rows: Sequence[Sequence[object]]
    spec: Spec = field(repr=False)
    wide: bool = False

    def content(self) -> dict[str, object]:
        """What the page's script needs to draw it."""
        return {
            "title": self.title,
            "fields": list(self.fields),
            "heads": list(self.fields.values()),
            "rows": [[_rounded(value) for value in row] for row in self.rows],
            "spec": self._drawable(),
        }

    def _drawable(self) -> Spec:
        """The specification without the layers of intervals where no row has one: an axis of nothing has no extent."""
        low = list(self.fields).index("low") if "low" in self.fields else None
        if low is None or "layer" not in self.spec or any(row[low] is not None for row in self.rows):
            return self.spec
        return self.spec | {"layer": [layer for layer in self.spec["layer"] if VALID not in layer.get("transform", ())]}


@dataclass(frozen=True)
class ChartGroup:
    """Charts that belong together, under a heading; `missing` says why there is none."""

    title: str
    charts: tuple[Chart, ...]
    missing: str = ""
    folded: bool = False


def _rounded(value: object) -> object:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def quantitative(name: str, title: str, scale: Spec | None = None) -> Spec:
    """A quantitative channel whose axis need not begin at 0; a logarithmic one never does, and Vega-Lite warns of what it drops."""
    given = scale or {}
    zero = {} if given.get("type") == "log" else {"zero": False}
    return {"field": name, "type": "quantitative", "title": title, "scale": zero | given}


def nominal(name: str, title: str | None, **more: object) -> Spec:
    """A channel of names, in the order in which they stand in the data."""
    return {"field": name, "type": "nominal", "title": title, "sort": None, **more}


def series(names: Sequence[str], *channels: str, **legend: object) -> Spec:
    """A legend's channels, such as colour and shape, for named series; with equal domains they share one legend.

    Names of many factors stand in several lines: what tells variants apart may be at their ends.
    """
    domain = list(dict.fromkeys(names))
    drawn = {"labelExpr": WRAPPED, **legend}
    return {channel: nominal("series", None, scale={"domain": domain}, legend=drawn) for channel in channels}


def tooltip(fields: Mapping[str, str]) -> list[Spec]:
    """Every number of a point, as the table names it."""
    return [{"field": name, "title": head} for name, head in fields.items()]


POINT: Spec = {"type": "point", "size": 55, "strokeWidth": 1.8}


def points(encoding: Spec, marked: bool) -> list[Spec]:
    """Layers of points, which are hollow for variants that have marks, if any has."""
    filled: Spec = {"mark": {**POINT, "filled": True}, "encoding": encoding}
    if not marked:
        return [filled]
    hollow: Spec = {"mark": {**POINT, "filled": False}, "encoding": encoding}
    return [filled | {"transform": [{"filter": "datum.marks === ''"}]}, hollow | {"transform": [{"filter": UNSURE}]}]


def spans_decades(values: Sequence[float]) -> bool:
    """Whether values are better read on a logarithmic axis."""
    return min(values) > 0 and max(values) / min(values) >= 50
