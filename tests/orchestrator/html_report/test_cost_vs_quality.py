"""The charts of cost against quality, and the Pareto front by its definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.html_report.cost_vs_quality import cost_charts, pareto_front

POINT = st.tuples(st.integers(0, 5), st.integers(0, 5))


@given(st.lists(POINT, max_size=12))
def test_the_front_has_the_points_that_no_other_dominates(points):
    def dominated(one):
        return any(c <= one[0] and q >= one[1] and (c, q) != one for c, q in points)

    assert pareto_front(points) == [not dominated(point) for point in points]


def test_few_variants_have_colours_and_the_front_is_ringed_and_named(keep, grid, page_data_of):
    page_data = page_data_of(keep(grid))
    (hours,) = cost_charts(page_data)  # All have equally many parameters, which makes no chart.
    rows = [dict(zip(hours.fields, row, strict=True)) for row in hours.rows]
    best = page_data.variants[page_data.ranking[0]].label
    assert [row["series"] for row in rows] == [variant.label for variant in page_data.variants]
    assert next(row for row in rows if row["series"] == best)["front"] == "yes"
    assert f"On the front (ringed): {best}" in hours.note
    assert all(row["low"] < row["mean"] < row["high"] and row["n"] == 3 for row in rows)


def test_with_many_variants_colour_shows_the_front(keep, trial, page_data_of):
    page_data = page_data_of(keep([trial(float(gamma)) for gamma in range(9)]))
    (hours,) = cost_charts(page_data)
    assert [row[0] for row in hours.rows] == list(range(9))
    assert "ringed" not in hours.note.lower()
    assert hours.spec["layer"][-1]["encoding"]["color"]["field"] == "front"


def test_costs_are_means_over_seeds_of_spent_and_reused_hours(keep, trial, page_data_of):
    trials = [trial(0.0, seed, seconds_spent=3600.0, seconds_reused=1800.0 * seed) for seed in range(3)]
    trials += [trial(1.0, seed, seconds_spent=900.0, parameters_total=10) for seed in range(3)]
    hours, parameters = cost_charts(page_data_of(keep(trials)))
    assert [row[list(hours.fields).index("cost")] for row in hours.rows] == [1.5, 0.25]
    assert parameters.rows[1][list(parameters.fields).index("cost")] == 10
    assert parameters.title == "Image AUROC against parameters"
    assert parameters.spec["encoding"]["x"]["scale"] == {"type": "log"}, "more than fifty times as many"


def test_a_single_variant_and_equal_costs_make_no_chart(keep, trial, page_data_of):
    same = {"seconds_spent": 36.0, "seconds_reused": 0.0}
    assert cost_charts(page_data_of(keep([trial(0.0, **same), trial(1.0, **same)]))) == ()
    assert cost_charts(page_data_of(keep([trial()]))) == ()
