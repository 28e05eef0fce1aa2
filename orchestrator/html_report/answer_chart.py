"""The chart at the top of the page: each variant's difference to its baseline, the best on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.html_report.chart import (
    ACCENT,
    Chart,
    Spec,
    intervals,
    layered,
    left_out,
    nominal,
    points,
    quantitative,
    tooltip,
)
from orchestrator.html_report.mean_interval import MEAN_FIELDS, share_interval
from orchestrator.html_report.page_data import IDENTICAL, QUALITY, PageData
from orchestrator.reports.baseline_table import BaselineComparison
from orchestrator.reports.final_metrics import MAIN, MEAN
from orchestrator.reports.verdicts import LEAST_SEEDS, Outcome

MOST = 20
"""Variants that the chart shows; of more, the best ones."""
FIELDS = {
    "variant": "Variant",
    "mean": "Difference",
    "low": "95 % low",
    "high": "95 % high",
    "n": "n (seeds)",
    "verdict": "Verdict",
    "remark": "Remark",
    "caveats": "Caveats",
}
FIELDS_OF_MEANS = {"variant": "Variant", **MEAN_FIELDS, "caveats": "Caveats"}
_NO_BAR = "; a variant of fewer than three seeds has none"
ROW = 26
"""Pixels for each variant."""
LINE_HEIGHT = 12
COLOURS = {Outcome.ABOVE: "#009E73", Outcome.BELOW: ACCENT, Outcome.WITHIN: "#56B4E9"}
"""Colours of verdicts; the others are undecided, or say that there is nothing to decide."""
GREY = "#8C8C8C"
SHAPES = {Outcome.IDENTICAL: "square", Outcome.SATURATED: "triangle-up"}
"""Shapes that tell verdicts of one colour apart; all others are circles."""


def answer_chart(page: PageData) -> Chart | None:
    """Return the differences in the metric that answers; without a baseline the means.

    None for a single variant and where no variant has the metric.
    """
    for of in page.report.compared:
        rows = _differences(page, of)
        if rows:
            return _chart_of_differences(page, of, rows)
    return _chart_of_means(page)


def _differences(page: PageData, of: BaselineComparison) -> list[tuple[object, ...]]:
    known = [(result.difference, k) for k, result in of.results.items() if result.difference is not None]
    ranked = sorted(known, key=lambda item: (-item[0], item[1]))
    rows: list[tuple[object, ...]] = []
    for difference, k in ranked[:MOST]:
        result = of.results[k]
        bounds = result.joint_low, result.joint_high
        word = "" if result.outcome is None else result.outcome.value
        remark = result.verdict().removeprefix(word).lstrip(": ")
        caveats = page.caveats[k]
        if result.outcome is Outcome.IDENTICAL:  # The verdict says it already.
            caveats = tuple(caveat for caveat in caveats if not caveat.startswith(IDENTICAL))
        rows.append((page.variants[k].label, difference, *bounds, result.n, word, remark, "; ".join(caveats)))
    return rows


def _chart_of_differences(page: PageData, of: BaselineComparison, rows: Sequence[tuple[object, ...]]) -> Chart:
    title = f"difference in mean {MAIN[of.metric]}"
    bases = list(dict.fromkeys(of.baselines[k] for k in of.results))
    base = page.variants[bases[0]].label if len(bases) == 1 else "baseline"
    line = f"the baseline ({base})" if len(bases) == 1 else "each variant's baseline"
    family = max((result.family for result in of.results.values()), default=1)
    held = f", corrected for {family} comparisons" if family > 1 else ""
    few = _NO_BAR if any(result.joint_low is None for result in of.results.values()) else ""
    note = f"Dashed line: {line}. Dots: mean differences; bars: their 95 % intervals over the seeds{held}{few}."
    note += left_out(len(rows), len(of.results), "variants, the best")
    note += page.hollow_points_note * any(row[-1] for row in rows) + page.split_note
    once: Spec = {"data": {"values": [{"base": base}]}}
    zero: Spec = once | {
        "mark": {"type": "rule", "strokeWidth": 1.5, "strokeDash": [4, 3], "color": GREY},
        "encoding": {"x": {"datum": 0}, "y": None},
    }
    name: Spec = once | {
        "mark": {"type": "text", "align": _side_of_zero(rows), "baseline": "bottom", "fontSize": 11},
        "encoding": {"x": {"datum": 0}, "y": {"value": -4}, "text": {"field": "base"}},
    }
    colour = _colour_of_verdicts(rows)
    layers = [
        zero,
        name,
        intervals({"type": "rule", "strokeWidth": 2}, title, colour, axis="x"),
        *_points(title, FIELDS, rows, colour | _shape_of_verdicts(rows)),
    ]
    spec = layered(_row_height(rows) * len(rows), {"y": _names_axis(rows)}, layers)
    return Chart("Variants against the baseline", note, FIELDS, rows, spec, wide=True)


def _names_axis(rows: Sequence[Sequence[object]]) -> Spec:
    """Return the channel of the names in the order of the rows, with one factor a line."""
    # Without names to sort by, Vega takes the order in which the layers of points first have them.
    names = [row[0] for row in rows]
    return nominal("variant", None, sort=names, axis={"labelLimit": 150, "labelExpr": "split(datum.label, ', ')"})


def _row_height(rows: Sequence[Sequence[object]]) -> int:
    """Return the pixels of a row, for the name with the most factors."""
    lines = max(str(row[0]).count(", ") + 1 for row in rows)
    return ROW + LINE_HEIGHT * (lines - 1)


def _side_of_zero(rows: Sequence[Sequence[object]]) -> str:
    """Return how a text at 0 is aligned, so that it stays within the chart."""
    first = list(FIELDS).index("mean")
    numbers = [0.0, *(number for row in rows for number in row[first : first + 3] if isinstance(number, float))]
    low, high = min(numbers), max(numbers)
    share = -low / (high - low) if high > low else 0.5
    return "left" if share < 1 / 3 else "right" if share > 2 / 3 else "center"


def _verdicts(rows: Sequence[Sequence[object]]) -> list[Outcome]:
    """Return the verdicts that occur, in the order of the legend."""
    held = {row[list(FIELDS).index("verdict")] for row in rows}
    return [outcome for outcome in Outcome if outcome.value in held]


def _colour_of_verdicts(rows: Sequence[Sequence[object]]) -> Spec:
    """Return the channel of colours, with a legend of the verdicts that occur."""
    shown = _verdicts(rows)
    scale = {"domain": [of.value for of in shown], "range": [COLOURS.get(of, GREY) for of in shown]}
    return {"color": nominal("verdict", None, scale=scale)}


def _shape_of_verdicts(rows: Sequence[Sequence[object]]) -> Spec:
    """Return the channel of shapes, which shares the legend of the colours."""
    shown = _verdicts(rows)
    scale = {"domain": [of.value for of in shown], "range": [SHAPES.get(of, "circle") for of in shown]}
    return {"shape": nominal("verdict", None, scale=scale)}


def _points(
    title: str, fields: Mapping[str, str], rows: Sequence[Sequence[object]], colour: Spec | None = None
) -> list[Spec]:
    """Return the layers of points; a layer without points would make Vega warn."""
    caveats = [bool(row[-1]) for row in rows]
    encoding = {"x": quantitative("mean", title, {"padding": 10}), "tooltip": tooltip(fields), **(colour or {})}
    layers = points(encoding, any(caveats))
    return layers[1:] if all(caveats) else layers


def _chart_of_means(page: PageData) -> Chart | None:
    ranked = page.ranking[:MOST]
    rows = [
        (page.variants[k].label, *mean, "; ".join(page.caveats[k]))
        for k in ranked
        if (mean := share_interval(page.variants[k].values(MEAN, QUALITY))).mean is not None
    ]
    if len(rows) < 2:
        return None
    title = f"mean {MAIN[QUALITY]}"
    few = _NO_BAR if any(len(page.variants[k].seeds) < LEAST_SEEDS for k in ranked) else ""
    note = f"Dots: means; bars: their 95 % intervals over the seeds{few}. No difference is tested."
    note += left_out(len(rows), len(page.variants), "variants, the best") + page.hollow_points_note + page.split_note
    layers = [
        intervals({"type": "rule", "strokeWidth": 2}, title, axis="x"),
        *_points(title, FIELDS_OF_MEANS, rows),
    ]
    spec = layered(_row_height(rows) * len(rows), {"y": _names_axis(rows)}, layers)
    return Chart(f"Variants by {title}", note, FIELDS_OF_MEANS, rows, spec, wide=True)
