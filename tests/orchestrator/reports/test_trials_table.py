"""One row a trial: its state, its knobs as typed columns, its final metrics."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pytest

from orchestrator.records.sweep_folder import read_sweep_folder
from orchestrator.reports.export import export_parquet, rows_to_export
from orchestrator.reports.final_metrics import BY_CLASS, MEAN, final_metrics
from orchestrator.reports.stored_trials import NOT_RUN, stored_trials
from orchestrator.reports.trials_table import knob_column
from orchestrator.results.store import ResultStore

README = Path(__file__).parents[3] / "results/README.md"


def test_a_row_a_trial_has_its_knobs_and_the_means_of_the_report(small_run):
    place = small_run / "results/small"
    sweep, store = read_sweep_folder(place), ResultStore(place)
    table = rows_to_export(place, "trials")
    assert table["trial_id"].to_pylist() == list(sweep.trial_ids)
    assert [f"{row['variant']} seed={row['seed']}" for row in table.to_pylist()] == list(sweep.labels.values())
    assert table["loss.focal_gamma"].to_pylist() == [0.0, 0.0, 2.0, 2.0]
    assert set(table["state"].to_pylist()) == {"finished"}
    kinds = {
        "loss.focal_gamma": pa.float64(),
        "training.epochs": pa.int64(),
        "adapter.enabled": pa.bool_(),
        "training.optimizer": pa.string(),
        "backbone.layers": pa.list_(pa.int64()),
        "data.tasks": pa.list_(pa.string()),
        "data.train_images": pa.int64(),  # null in every trial
        "image_auroc": pa.float64(),
        "started_at": pa.timestamp("us", tz="UTC"),
    }
    assert {name: table.schema.field(name).type for name in kinds} == kinds
    metrics = final_metrics(store, "test")
    for row in table.to_pylist():
        for name in ("image_auroc", "pixel_auroc", "fm_image_auroc"):
            assert row[name] == metrics[row["trial_id"], 1][MEAN, name]


def test_trials_without_an_ended_attempt_and_outside_the_plan(finished):
    path = finished / "results/small/sweep.json"
    content = json.loads(path.read_text())
    first, *others = content["trials"]
    labels = {**content["labels"], "0123456789ab": "focal_gamma=3 seed=7"}
    path.write_text(json.dumps(content | {"trials": [first, "0123456789ab", "ba9876543210"], "labels": labels}))
    named, unknown = rows_to_export(path.parent, "trials").to_pylist()[1:]
    assert (named["state"], named["variant"], named["seed"]) == (NOT_RUN, "focal_gamma=3", 7)
    assert (unknown["state"], unknown["variant"], unknown["seed"]) == (NOT_RUN, "ba9876543210", None)
    assert {named[name] for name in ("loss.focal_gamma", "image_auroc", "started_at")} == {None}
    everything = rows_to_export(path.parent, "trials", everything=True)
    assert everything["trial_id"].to_pylist()[3:] == sorted(others)


def test_the_finished_attempt_counts_and_else_the_latest(stored, add):
    finished = add({"loss.focal_gamma": 0.0}, attempt=1)
    add({"loss.focal_gamma": 0.0}, attempt=2, status="failed", error="later")
    failed = add({"loss.focal_gamma": 2.0}, attempt=1, status="interrupted")
    add({"loss.focal_gamma": 2.0}, attempt=2, status="failed", error="no memory")
    store = stored()
    (store.folder / "sweep.json").write_text(
        json.dumps({"name": "s", "title": "s", "baseline": {}, "dataset": "embedded", "trials": [finished, failed]})
    )
    first, second = stored_trials(store, read_sweep_folder(store.folder))
    assert (first.state, first.attempt["attempt"], first.name) == ("finished", 1, "focal_gamma=0 seed=0")
    assert (second.state, second.attempt["attempt"], second.attempt["error"]) == ("failed", 2, "no memory")


def test_the_examples_of_the_readme_print_the_same_means(small_run, tmp_path, monkeypatch, capsys):
    export_parquet(small_run / "results/small", tmp_path / "trials.parquet", "trials")
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    examples = [example for example in examples if "trials.parquet" in example]
    found = []
    for example in examples:
        exec(compile(example, str(README), "exec"), {})
        numbers = re.findall(r"\b[02]\.0\b|\b0\.\d{4}", capsys.readouterr().out)
        found.append([float(number) for number in numbers])
    mean = rows_to_export(small_run / "results/small", "trials").to_pandas()["image_auroc"].iloc[:2].mean()
    assert found == [[0.0, pytest.approx(mean, abs=1e-4), 2.0, pytest.approx(mean, abs=1e-4)]] * 3
    assert ["duckdb" in examples[0], "polars" in examples[1], "pandas" in examples[2]] == [True] * 3


def test_every_column_is_in_the_readme(small_run):
    text = README.read_text()
    section = text[text.index("### One row per trial") : text.index("## Which rows count")]
    table = rows_to_export(small_run / "results/small", "trials")
    names = [name for name in table.column_names if "." not in name and not re.match(r"(acc|fm|bwt)_", name)]
    own = [name for name in names if name not in BY_CLASS]
    assert own == [name for name in own if f"`{name}`" in section]
    assert set(BY_CLASS) <= set(table.column_names)


@pytest.mark.parametrize(
    ("values", "kind", "stored"),
    [
        ([1, None, 2], pa.int64(), [1, None, 2]),
        ([1, 0.5], pa.float64(), [1.0, 0.5]),
        ([True, False], pa.bool_(), [True, False]),
        (["a", None], pa.string(), ["a", None]),
        ([[1, 2], []], pa.list_(pa.int64()), [[1, 2], []]),
        ([[["a", "b"], "c"]], pa.string(), ['[["a", "b"], "c"]']),
        (["full", [0, 5]], pa.string(), ['"full"', "[0, 5]"]),
        ([True, 1], pa.string(), ["true", "1"]),
        ([None], pa.int64(), [None]),
    ],
)
def test_a_column_has_the_one_type_of_its_values_or_is_json(values, kind, stored):
    column = knob_column(values, pa.int64())
    assert (column.type, column.to_pylist()) == (kind, stored)
