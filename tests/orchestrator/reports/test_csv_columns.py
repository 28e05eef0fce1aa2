"""Other programs read a report's CSV with numbers as numbers."""

from __future__ import annotations

import io

import duckdb
import pandas as pd
import polars as pl
import pytest

from orchestrator.reports.lock import Recipe
from orchestrator.reports.make import published_report
from orchestrator.reports.tables import build_report

GAMMA = "loss.focal_gamma"
REALS, TEXTS = ("mean", "sd", "change"), ("dataset", "variant", "class", "metric", "text")


@pytest.fixture
def report(stored, add, make_images, published):
    """A report with verdicts in words, digests that agree, intervals, and published rows."""
    for seed in range(3):
        images = make_images((1.0, 0.5), seed)
        equal = {"images": images, "state_digest": f"s{seed}", "scores_digest": f"x{seed}"}
        for factors, more in (
            ({"version": "v3", GAMMA: 0.0}, equal),
            ({"version": "v7", GAMMA: 0.0}, equal),
            ({"version": "v7", GAMMA: 2.0}, {"images": make_images((1.1, 0.6), seed)}),
        ):
            add(factors, seed, version=factors["version"], **more)
    return build_report(stored(), Recipe("t", baseline={"version": "v3", GAMMA: 0.0}), published)


def test_polars_pandas_and_duckdb_read_the_numbers_as_numbers(report, tmp_path):
    text = report.csv()
    path = tmp_path / "report.csv"
    path.write_text(text)
    polars, pandas = pl.read_csv(path), pd.read_csv(io.StringIO(text))
    duck = duckdb.sql(f"select * from '{path}'")
    kinds = dict(zip(duck.columns, map(str, duck.types), strict=True))
    for name in REALS:
        assert (polars[name].dtype, pandas[name].dtype, kinds[name]) == (pl.Float64, "float64", "DOUBLE")
    for name in TEXTS:
        assert (polars[name].dtype, kinds[name]) == (pl.String, "VARCHAR")
    verdicts = polars.filter(pl.col("metric") == "image_auroc_verdict").select("variant", "mean", "text").rows()
    assert verdicts[0] == ("version=v7, focal_gamma=0", None, "identical (equal digests)")
    assert [mean for _, mean, _ in verdicts] == [None, None]
    numbers = polars.filter(pl.col("metric") == "image_auroc_difference")["mean"]
    assert numbers.null_count() == 0
    assert len(numbers) == 2


def test_published_rows_are_numbers_too():
    # polars judges a column by its first 100 rows unless told otherwise; few rows have a spread.
    frame = pl.read_csv(io.StringIO(published_report().csv()), infer_schema_length=None)
    assert frame["mean"].dtype == pl.Float64
    assert frame["mean"].null_count() == 0
    spread = frame.filter(pl.col("text") == "98.03% ± 0.19%").select("mean", "sd").rows()
    assert spread == [(0.9803, 0.0019)]
