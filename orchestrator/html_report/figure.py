"""A chart of the page as a file for papers and slides: PDF, SVG or PNG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import vl_convert

from moleflow.errors import InvalidInput
from moleflow.files import write_atomically
from moleflow.settings.knobs import version_settings
from moleflow.suggestions import hint_at
from orchestrator.html_report.chart import LINE, Chart, Spec
from orchestrator.html_report.page import charts_of_page
from orchestrator.html_report.page_data import gather_page_data
from orchestrator.records.sweep_folder import read_sweep_folder
from orchestrator.reports.export import check_file
from orchestrator.reports.make import stored_report
from orchestrator.results.store import ResultStore

WIDTH = 460
"""Width of a figure in pixels at 96 per inch: 12 cm."""
PNG_PER_INCH = 300
_INK, _SOFT, _LINE, _STRONG = "#111111", "#444444", "#DDDDDD", "#888888"
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", _INK)  # after Okabe and Ito


def _png(spec: Spec) -> bytes:
    drawn: bytes = vl_convert.vegalite_to_png(spec, ppi=PNG_PER_INCH, allowed_base_urls=[])
    return drawn


def _svg(spec: Spec) -> bytes:
    drawn: str = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    return drawn.encode()


def _pdf(spec: Spec) -> bytes:
    drawn: bytes = vl_convert.vegalite_to_pdf(spec, allowed_base_urls=[])
    return drawn


DRAWN_AS: Mapping[str, Callable[[Spec], bytes]] = MappingProxyType({".pdf": _pdf, ".svg": _svg, ".png": _png})
"""{suffix of a file: the function that draws a specification as one}."""


def write_figure(
    place: Path, path: Path, asked: str | None = None, split: str | None = None, everything: bool = False
) -> Chart:
    """Write one of the charts of a results folder's page, and return the chart.

    Args:
        place: the results folder.
        path: the file, which is replaced; its suffix is one of DRAWN_AS.
        asked: the number of the chart, from 1, or the beginning of its title; None = the first one,
            which is that of the answer.
        split: test | validation, the images that the chart is about; None as for `stored_report`.
        everything: every stored trial, not only those of the latest plan.

    Raises:
        InvalidInput: the suffix is another one, there is no such chart, or the folder holds no
            sweep with finished trials.
        OSError: the folder cannot be written.
    """
    draw = DRAWN_AS.get(path.suffix.lower())
    if draw is None:
        allowed = " | ".join(DRAWN_AS)
        raise InvalidInput(f"--figure: given '{path}', allowed: a file whose name ends in {allowed}")
    check_file(path, "--figure")
    sweep, store = read_sweep_folder(place), ResultStore(place)
    report = stored_report(place, sweep, everything, split=split, store=store)
    page = gather_page_data(report, store, version_settings())
    chart = chosen_chart(charts_of_page(page, place, sweep), asked, place)
    write_atomically(path, draw(printed(chart, page.variant_names)), durable=False)
    return chart


def chosen_chart(charts: Sequence[Chart], asked: str | None, place: Path) -> Chart:
    """Return the chart with a number, from 1, or the only one whose title begins so.

    Raises:
        InvalidInput: there is none, or several titles begin so.
    """
    if not charts:
        raise InvalidInput(f"--figure: {place} has no chart yet: no trial has finished")
    if asked is None:
        return charts[0]
    numbered = {str(number): chart for number, chart in enumerate(charts, start=1)}
    found = [numbered[asked]] if asked in numbered else []
    found = found or [chart for chart in charts if asked and chart.title.lower().startswith(asked.lower())]
    if len(found) != 1:
        titles = "; ".join(f"{number} {chart.title}" for number, chart in numbered.items())
        near = hint_at(asked, [chart.title for chart in charts])
        raise InvalidInput(
            f"--chart: given '{asked}', allowed: a number, or the beginning of one title: {titles}{near}"
        )
    return found[0]


def printed(chart: Chart, names: Sequence[str]) -> Spec:
    """Return the whole specification of a chart on white paper.

    Args:
        chart: the chart.
        names: the variants' names, which stand for their numbers.
    """
    fields = list(chart.fields)
    rows = [[_cell(field, value, names) for field, value in zip(fields, row, strict=True)] for row in chart.rows]
    values = [dict(zip(fields, row, strict=True)) for row in rows]
    longest = max((len(str(row["series"])) for row in values), default=0) if "series" in fields else 0
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": chart.title,
        "data": {"values": values},
        "config": _look(longest),
        **_with_whole_labels(chart.drawable()),
    }
    if spec["width"] == "container":
        spec |= {"width": WIDTH, "autosize": {"type": "fit-x", "contains": "padding"}}
    return spec


def _with_whole_labels(spec: Any) -> Any:
    """Return a specification without limits on labels, as a paper has no tooltips."""
    if isinstance(spec, dict):
        return {key: 0 if key == "labelLimit" else _with_whole_labels(value) for key, value in spec.items()}
    return [_with_whole_labels(item) for item in spec] if isinstance(spec, list) else spec


def _cell(field: str, value: object, names: Sequence[str]) -> object:
    if field == "variant" and isinstance(value, int):
        return names[value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _look(longest: int) -> Spec:
    """Return fonts and colours: those of the page in its light theme, on white."""
    columns = max(1, min(4, (WIDTH - 90) // (min(longest, LINE) * 6 + 32)))
    return {
        "background": "white",
        "lineBreak": "\n",
        "font": "Arial, Helvetica, sans-serif",
        "axis": {
            "labelColor": _SOFT,
            "titleColor": _INK,
            "gridColor": _LINE,
            "domainColor": _STRONG,
            "tickColor": _STRONG,
            "titleFontWeight": 500,
            "labelFontSize": 11,
            "titlePadding": 8,
            "labelSeparation": 8,
            "tickCount": 5,
        },
        "legend": {"orient": "bottom", "columns": columns, "labelColor": _INK, "labelLimit": 0, "symbolOpacity": 1},
        "header": {"labelColor": _INK, "titleColor": _INK},
        "view": {"stroke": None},
        "mark": {"color": _PALETTE[0]},
        "text": {"color": _INK},
        "rule": {"color": _PALETTE[0]},
        "style": {"halo": {"stroke": "white", "strokeWidth": 4, "strokeJoin": "round"}},
        "range": {"ramp": {"scheme": "viridis", "extent": [0, 0.82]}, "category": list(_PALETTE)},
    }
