"""The Pareto front, against its definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.page.cost import cost_charts, front

POINT = st.tuples(st.integers(0, 5), st.integers(0, 5))


@given(st.lists(POINT, max_size=12))
def test_on_the_front_is_what_no_other_point_beats(points):
    def beaten(one):
        return any(c <= one[0] and q >= one[1] and (c, q) != one for c, q in points)

    assert front(points) == [not beaten(point) for point in points]


def test_a_variant_on_the_front_is_named(keep, grid, evidence_of):
    evidence = evidence_of(keep(grid))
    (hours,) = cost_charts(evidence)  # All have as many parameters, so there is nothing to draw against these.
    rows = [dict(zip(hours.fields, row, strict=True)) for row in hours.rows]
    best = evidence.variants[evidence.ranking[0]].label
    assert {row["variant"] for row in rows} == {0, 1, 2}
    assert next(row for row in rows if row["variant"] == evidence.ranking[0])["front"] == "yes"
    assert best in hours.note
    assert all(row["low"] < row["mean"] < row["high"] and row["n"] == 3 for row in rows)
