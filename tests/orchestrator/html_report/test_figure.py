"""A chart of the page as a file for papers."""

from __future__ import annotations

import json

import pytest

from moleflow.errors import InvalidInput
from orchestrator.html_report.figure import printed, write_figure
from orchestrator.html_report.page import charts_of_page
from orchestrator.html_report.page_data import gather_page_data
from orchestrator.records.sweep_folder import read_sweep_folder
from orchestrator.reports.make import stored_report
from orchestrator.results.store import ResultStore

BEGINS = {"pdf": b"%PDF-", "png": b"\x89PNG", "svg": b"<svg"}


@pytest.mark.parametrize("kind", BEGINS)
def test_the_chart_of_the_answer_is_written_in_each_format(small_run, tmp_path, kind):
    path = tmp_path / f"answer.{kind}"
    chart = write_figure(small_run / "results/small", path)
    assert path.read_bytes().startswith(BEGINS[kind])
    assert chart.title == "Variants against the baseline"
    if kind == "svg":
        assert "focal_gamma=2" in path.read_text()
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_every_chart_of_the_page_can_be_a_figure(small_run, tmp_path):
    """Those with variants' numbers, steps between axes or several layers of data, too."""
    place = small_run / "results/small"
    sweep, store = read_sweep_folder(place), ResultStore(place)
    page = gather_page_data(stored_report(place, sweep), store, {})
    charts = charts_of_page(page, place, sweep)
    titles = [chart.title for chart in charts]
    assert len(charts) > 8
    for number, chart in enumerate(charts, start=1):
        spec = json.dumps(printed(chart, page.variant_names), allow_nan=False)
        assert "container" not in spec
        if number in (1, len(charts) // 2, len(charts)):
            drawn = write_figure(place, tmp_path / f"{number}.svg", str(number))
            assert drawn.title == titles[number - 1]


@pytest.mark.parametrize(
    ("name", "asked", "says"),
    [
        ("answer.jpg", None, r"--figure: given '.*answer.jpg', allowed: a file whose name ends in .pdf | .svg | .png"),
        ("none/answer.pdf", None, "--figure: .*none is no folder"),
        ("answer.pdf", "variant against", r"--chart: given 'variant against', allowed: .*1 Variants against the base"),
        ("answer.pdf", "99", "--chart: given '99'"),
        ("answer.pdf", "", "--chart: given ''"),
    ],
)
def test_a_wrong_file_or_chart_is_refused_in_one_line(small_run, tmp_path, name, asked, says):
    with pytest.raises(InvalidInput, match=says):
        write_figure(small_run / "results/small", tmp_path / name, asked)
    assert list(tmp_path.iterdir()) == []
