"""Parallel coordinates: one line a configuration, through its values on every axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, log

from orchestrator.html_report.chart import Chart, Spec, nominal, spans_decades, tooltip
from orchestrator.html_report.page_data import QUALITY, PageData
from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.number_format import plain_value, setting_text
from orchestrator.reports.tables import MAIN
from orchestrator.reports.variants import short_names

MOST = 200
STEP = 92
"""Pixels between axes, which `page.js` makes fewer or more so that all of them are in sight."""
TICK: Spec = {"type": "text", "align": "left", "dx": 5, "fontSize": 10}
FIELDS = {
    "variant": "Configuration",
    "axis": "Axis",
    "at": "Height on the axis",
    "value": "Value",
    "quality": "Quality",
}


@dataclass(frozen=True)
class ConfigurationLine:
    """A configuration, by name or as the place of a variant: what it is worth, and its values by axis, of the axes that apply to it."""

    name: str | int
    values: Mapping[str, object]
    quality: float


def variant_lines(evidence: PageData) -> tuple[Chart, ...]:
    """The variants over the factors that are compared; nothing for fewer than two factors."""
    names = short_names(evidence.comparison.compared)
    if len(names) < 2:
        return ()
    lines = []
    for k in evidence.spread(MOST):
        variant = evidence.variants[k]
        mean = variant.summary(MEAN, QUALITY).mean
        if mean is not None:
            values = {name: plain_value(variant.factors[key]) for key, name in names.items()}
            lines.append(ConfigurationLine(k, values, mean))
    note = "One line a variant, its mean over the seeds; intervals stand in the other charts and in the tables."
    if len(lines) < len(evidence.variants):
        note += f" {len(lines)} of {len(evidence.variants)} variants, evenly over their ranking."
    return parallel_chart("Variants, factor by factor", note, tuple(names.values()), lines, f"mean {MAIN[QUALITY]}")


def parallel_chart(
    title: str,
    note: str,
    axes: Sequence[str],
    lines: Sequence[ConfigurationLine],
    quality: str,
    more_is_better: bool = True,
) -> tuple[Chart, ...]:
    """The lines over the axes and, last, over what they are worth; nothing for fewer than two lines."""
    if len(lines) < 2:
        return ()
    with_quality = [
        ConfigurationLine(line.name, {**line.values, quality: line.quality}, line.quality) for line in lines
    ]
    rows: list[tuple[object, ...]] = []
    ticks: list[dict[str, object]] = []
    for axis in (*axes, quality):
        values = [line.values[axis] for line in with_quality if axis in line.values]
        heights = _heights(values)
        ticks += [{"axis": axis, "at": at, "label": label} for label, at in _ticks(heights)]
        rows += [
            (line.name, axis, heights[setting_text(line.values[axis])], setting_text(line.values[axis]), line.quality)
            for line in with_quality
            if axis in line.values
        ]
    colour = {
        "field": "quality",
        "type": "quantitative",
        "title": quality,
        "scale": {"reverse": not more_is_better},
        "legend": {"orient": "bottom", "gradientLength": 160},
    }
    height: Spec = {"field": "at", "type": "quantitative", "axis": None, "scale": {"domain": [-0.02, 1.02]}}
    x = nominal(
        "axis",
        None,
        axis={"labelAngle": -30, "labelLimit": 120, "grid": True, "domain": False},
        scale={"padding": 0.25},
    )
    spec: Spec = {
        "width": {"step": STEP},
        "height": 280,
        "encoding": {"x": x, "y": height},
        "layer": [
            {
                "mark": {"type": "line", "strokeWidth": 1.4, "opacity": 0.75},
                "encoding": {"detail": {"field": "variant"}, "color": colour, "tooltip": tooltip(FIELDS)},
            },
            {"data": {"values": ticks}, "mark": {**TICK, "style": "halo"}, "encoding": {"text": {"field": "label"}}},
            {"data": {"values": ticks}, "mark": TICK, "encoding": {"text": {"field": "label"}}},
        ],
    }
    return (Chart(title, note, FIELDS, rows, spec, wide=True),)


def _heights(values: Sequence[object]) -> dict[str, float]:
    """Where each value stands on its axis, between 0 and 1: numbers by size, others side by side in the order given."""
    distinct = {setting_text(value) for value in values}
    # A study keeps the choices of a knob as words, numbers too.
    numbers = {name: number for name in distinct if (number := _number(name)) is not None}
    if len(numbers) < len(distinct):
        order = sorted(distinct)
        return {name: k / max(1, len(order) - 1) if len(order) > 1 else 0.5 for k, name in enumerate(order)}
    if spans_decades(list(numbers.values())):
        numbers = {name: log(v) for name, v in numbers.items()}
    low, high = min(numbers.values()), max(numbers.values())
    return {name: (v - low) / (high - low) if high > low else 0.5 for name, v in numbers.items()}


def _ticks(heights: Mapping[str, float]) -> list[tuple[str, float]]:
    """The labels of an axis: all of a few values, else the lowest and the highest."""
    ordered = sorted(heights.items(), key=lambda item: item[1])
    few = ordered if len(ordered) <= 6 else [ordered[0], ordered[-1]]
    return [(_shorter(label), at) for label, at in few]


def _shorter(label: str) -> str:
    number = _number(label)
    return label if number is None or len(label) <= 5 else f"{number:.3g}"


def _number(words: str) -> float | None:
    try:
        number = float(words)
    except ValueError:
        return None
    return number if isfinite(number) else None
