"""The Pareto front, against its definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.html_report.cost_vs_quality import cost_charts, pareto_front

POINT = st.tuples(st.integers(0, 5), st.integers(0, 5))


@given(st.lists(POINT, max_size=12))
def test_on_the_front_is_what_no_other_point_beats(points):
    def beaten(one):
        return any(c <= one[0] and q >= one[1] and (c, q) != one for c, q in points)

    assert pareto_front(points) == [not beaten(point) for point in points]


def test_few_variants_are_told_apart_and_the_front_is_ringed_and_named(keep, grid, evidence_of):
    evidence = evidence_of(keep(grid))
    (hours,) = cost_charts(evidence)  # All have as many parameters, so there is nothing to draw against these.
    rows = [dict(zip(hours.fields, row, strict=True)) for row in hours.rows]
    best = evidence.variants[evidence.ranking[0]].label
    assert [row["series"] for row in rows] == [variant.label for variant in evidence.variants]
    assert next(row for row in rows if row["series"] == best)["front"] == "yes"
    assert f"On the front (ringed): {best}" in hours.note
    assert all(row["low"] < row["mean"] < row["high"] and row["n"] == 3 for row in rows)


def test_of_many_variants_colour_says_what_is_on_the_front(keep, trial, evidence_of):
    evidence = evidence_of(keep([trial(float(gamma)) for gamma in range(9)]))
    (hours,) = cost_charts(evidence)
    assert [row[0] for row in hours.rows] == list(range(9))
    assert "ringed" not in hours.note.lower()
    assert hours.spec["layer"][-1]["encoding"]["color"]["field"] == "front"
