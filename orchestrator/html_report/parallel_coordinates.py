"""The parallel coordinates: one line for each configuration, through its values on every axis."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, log

from orchestrator.html_report.chart import Chart, Spec, left_out, nominal, spans_decades, tooltip
from orchestrator.html_report.page_data import QUALITY, PageData
from orchestrator.reports.final_metrics import MAIN, MEAN
from orchestrator.reports.number_format import plain_value, setting_text
from orchestrator.reports.variants import short_factor_names

MOST_LINES = 200
STEP = 92
"""Pixels between axes; `page.js` changes them to fit the page."""
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
    """One configuration: its name or number, {axis: value} of its axes, and its metric."""

    name: str | int
    values: Mapping[str, object]
    quality: float


def variant_lines(page: PageData) -> tuple[Chart, ...]:
    """The chart of the variants over the compared factors; none for fewer than two factors."""
    names = short_factor_names(page.comparison.compared)
    if len(names) < 2:
        return ()
    lines = []
    for k in page.spread_over_ranking(MOST_LINES):
        variant = page.variants[k]
        mean = variant.summary(MEAN, QUALITY).mean
        if mean is not None:
            values = {name: plain_value(variant.factors[key]) for key, name in names.items()}
            lines.append(ConfigurationLine(k, values, mean))
    note = "One line for each variant, with its mean over the seeds. The other charts and the tables have intervals."
    note += left_out(len(lines), len(page.variants), "variants, evenly over their ranking")
    return parallel_chart("Variants, factor by factor", note, tuple(names.values()), lines, f"mean {MAIN[QUALITY]}")


def parallel_chart(
    title: str,
    note: str,
    axes: Sequence[str],
    lines: Sequence[ConfigurationLine],
    quality: str,
    more_is_better: bool = True,
) -> tuple[Chart, ...]:
    """The chart of the lines over the axes, with quality last; none for fewer than two lines."""
    if len(lines) < 2:
        return ()
    rows: list[tuple[object, ...]] = []
    ticks: list[dict[str, object]] = []
    for axis in (*axes, quality):
        held = [(line, {**line.values, quality: line.quality}) for line in lines]
        texts = [(line, setting_text(values[axis])) for line, values in held if axis in values]
        heights = _heights({text for _, text in texts})
        ticks += [{"axis": axis, "at": at, "label": label} for label, at in _ticks(heights)]
        rows += [(line.name, axis, heights[text], text, line.quality) for line, text in texts]
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


def _heights(distinct: Collection[str]) -> dict[str, float]:
    """Return each value's height on its axis, from 0 to 1: numbers by size, texts by alphabet."""
    # A study stores all choices as texts, also those that are numbers.
    numbers = {name: number for name in distinct if (number := _number(name)) is not None}
    if len(numbers) < len(distinct):
        order = sorted(distinct)
        return {name: k / max(1, len(order) - 1) if len(order) > 1 else 0.5 for k, name in enumerate(order)}
    if spans_decades(list(numbers.values())):
        numbers = {name: log(v) for name, v in numbers.items()}
    low, high = min(numbers.values()), max(numbers.values())
    return {name: (v - low) / (high - low) if high > low else 0.5 for name, v in numbers.items()}


def _ticks(heights: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return the labels of an axis: all of up to six values, else the lowest and the highest."""
    ordered = sorted(heights.items(), key=lambda item: item[1])
    few = ordered if len(ordered) <= 6 else [ordered[0], ordered[-1]]
    numbers = [(label, at, _number(label)) for label, at in few]
    return [(label if n is None or len(label) <= 5 else f"{n:.3g}", at) for label, at, n in numbers]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) else None
