"""The schemas: the values that they refuse, and the same columns in results/README.md."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from orchestrator.results.schema import COLUMNS, MAPS, TABLES, arrow_schema, boolean_mask, document, numbers, to_table

README = Path(__file__).parents[3] / "results" / "README.md"


def whole_row(table, make_attempt):
    return next(iter(make_attempt().tables()[table].to_pylist()))


@pytest.mark.parametrize("table", TABLES)
def test_a_whole_row_keeps_its_types(table, make_attempt):
    row = whole_row(table, make_attempt)
    assert to_table(table, [row]).schema == arrow_schema(table)
    assert to_table(table, [row]).to_pylist() == [row]


@pytest.mark.parametrize("table", TABLES)
def test_null_is_taken_exactly_where_the_schema_says_so(table, make_attempt):
    row = whole_row(table, make_attempt)
    for column in COLUMNS[table]:
        without = {k: v for k, v in row.items() if k != column.name}
        if column.nullable:
            assert to_table(table, [without])[column.name].to_pylist() == [None]
        else:
            with pytest.raises(ValueError, match=rf"{table}\.{column.name}: a value is needed"):
                to_table(table, [row | {column.name: None}])


@pytest.mark.parametrize("bad", [float("nan"), np.float64("nan"), np.float32("nan"), float("inf")])
@pytest.mark.parametrize("table", TABLES)
def test_nan_and_infinity_are_refused_in_every_real_column(table, bad, make_attempt):
    row = whole_row(table, make_attempt)
    real = [c.name for c in COLUMNS[table] if pa.types.is_floating(c.type)]
    assert real
    for name in real:
        with pytest.raises(ValueError, match=rf"{table}\.{name}: NaN and infinity are not stored"):
            to_table(table, [row, row | {name: bad}])


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("surprise", 1, "unknown column surprise"),
        ("status", "done", "finished, pruned, failed, interrupted"),
        ("trial_id", "xyz", "12 hex digits"),
        ("attempt", 0, "whole numbers from 1"),
        ("started_at", datetime(2025, 1, 1), "no time zone"),
        ("factors", "gamma=2", "JSON text of a dict"),
        ("flags", "{}", "JSON text of a list"),
        ("threads", "many", "whole numbers"),
        ("threads", 1.5, "whole numbers"),
        ("threads", 2**40, "attempts: "),
        ("device", 3, "attempts: "),
    ],
)
def test_a_wrong_value_is_refused_by_name(column, value, words, make_attempt):
    with pytest.raises(ValueError, match=words):
        to_table("attempts", [dict(make_attempt().attempt) | {column: value}])


def test_metrics_carry_an_oracle_for_each_detection_metric():
    names = [c.name for c in COLUMNS["metrics"]]
    detection = ["image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro"]
    assert [n for n in names if n.startswith("oracle_")] == [f"oracle_{n}" for n in detection]
    assert set(detection) < set(names)


@pytest.mark.parametrize("table", [*TABLES, MAPS])
def test_readme_documents_every_column_of(table):
    section = re.split(r"^### ", README.read_text(), flags=re.M)
    of_table = next(s for s in section if s.startswith(f"`{table}`"))
    assert document(table) in of_table


def test_importing_stays_light():
    check = (
        "import sys, orchestrator; assert 'pyarrow' not in sys.modules;"
        "import orchestrator.results.store, orchestrator.reports.tables;"
        "heavy = {'torch', 'timm', 'sklearn', 'moleflow.settings.config', 'polars', 'duckdb'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", check], check=True, cwd=README.parents[1])


@pytest.mark.parametrize("kind", [pa.int8(), pa.int32(), pa.int64(), pa.float64()])
@pytest.mark.parametrize("values", [[], [1, 2, 3, 4], [1, None, 3, None], [None] * 4])
def test_the_numbers_of_a_column_are_those_of_arrow(kind, values):
    column = pa.chunked_array([pa.array(values[:1], kind), pa.array(values[1:], kind)])
    for part in (column, column.slice(1)):
        np.testing.assert_array_equal(numbers(part), part.to_numpy())


def test_marks_are_the_same_rows_in_arrow():
    rows = np.array([True, False, True, True] * 5)
    assert boolean_mask(rows).to_pylist() == rows.tolist()
    assert boolean_mask(rows[:0]).to_pylist() == []


def test_numbers_and_rows_are_read_without_pandas(tmp_path):
    pytest.importorskip("pandas")
    pa.parquet.write_table(pa.table({"n": [1, 2], "x": [0.5, None], "t": ["a", None]}), tmp_path / "some.parquet")
    code = """
import sys
import pyarrow.parquet as pq
from orchestrator.results.schema import holding, numbers, rows_of
table = pq.ParquetFile(sys.argv[1]).read(use_threads=False)
of = numbers(table["x"])
print((of == 0.5).sum(), holding(table["t"], "a").tolist(), list(rows_of(table))[1], "pandas" in sys.modules)
"""
    words = [sys.executable, "-c", code, str(tmp_path / "some.parquet")]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert said.strip() == "1 [True, False] {'n': 2, 'x': None, 't': None} False"
