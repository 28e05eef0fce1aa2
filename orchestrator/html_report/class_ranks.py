"""The critical-difference diagram: mean ranks over many classes, and groups without difference."""

from __future__ import annotations

from orchestrator.html_report.chart import (
    ACCENT,
    HAS_INTERVAL,
    Chart,
    Spec,
    layered,
    nominal,
    points,
    quantitative,
    tooltip,
)
from orchestrator.html_report.page_data import PageData
from orchestrator.reports.class_ranks import PERMUTATIONS, ClassRanks, rank_over_classes
from orchestrator.reports.final_metrics import MAIN

FIELDS = {"row": "Row", "rank": "Mean rank", "low": "From", "high": "To", "caveats": "Caveats"}
RULER = "critical difference"
GROUP = "no difference"


def class_rank_charts(page: PageData) -> tuple[Chart, ...]:
    """One diagram for each metric with enough classes; routing accuracy has none."""
    found = []
    for metric, title in MAIN.items():
        ranked = None if metric == "routing_accuracy" else rank_over_classes(page.variants, page.classes, metric)
        if ranked is not None:
            found.append(_diagram(page, ranked[0], title))
    return tuple(found)


def _diagram(page: PageData, of: ClassRanks, title: str) -> Chart:
    """Draw the mean ranks, the ruler of the critical difference, and a bar for each group."""
    rows: list[tuple[object, ...]] = [(RULER, None, 1.0, 1.0 + of.critical, "")]
    for k in sorted(range(len(of.ranks)), key=lambda k: (of.ranks[k], k)):
        rows.append((page.variants[k].label, of.ranks[k], None, None, "; ".join(page.caveats[k])))
    for number, group in enumerate(of.groups, start=1):
        ranks = [of.ranks[k] for k in group]
        name = GROUP if len(of.groups) == 1 else f"{GROUP} {number}"
        rows.append((name, None, min(ranks), max(ranks), ""))
    axis = quantitative("rank", "mean rank (1 = best)", scale={"domain": [1, len(of.ranks)], "nice": False})
    # Named in order: layers that filter rows would each add their own to the axis.
    order = {"domain": [row[0] for row in rows], "paddingInner": 0.3}
    y = nominal("row", None, axis={"labelLimit": 150}, scale=order)
    bar: Spec = {
        "transform": [HAS_INTERVAL],
        "mark": {"type": "rule", "strokeWidth": 4, "color": ACCENT},
        "encoding": {
            "x": quantitative("low", "mean rank (1 = best)"),
            "x2": {"field": "high"},
            "tooltip": tooltip(FIELDS),
        },
    }
    variants = points({"x": axis, "tooltip": tooltip(FIELDS)}, any(page.caveats))
    for layer in variants:
        layer["transform"] = [*layer.get("transform", ()), {"filter": "isValid(datum.rank)"}]
    note = (
        f"Ranks within each of {of.classes} classes. Two variants differ if their mean ranks are further apart than the "
        f"{RULER} (Nemenyi, 0.05); bars join those that do not. Friedman's test: p {of.p:.4f} from {PERMUTATIONS:,} drawn "
        "permutations; above 0.05 one bar joins all." + page.hollow_points_note
    )
    height = 22 * len(rows)
    return Chart(
        f"{title}: critical-difference diagram", note, FIELDS, rows, layered(height, {"y": y}, [bar, *variants])
    )
