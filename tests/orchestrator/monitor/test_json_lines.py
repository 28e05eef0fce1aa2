"""`run --log-json`: events and nothing else on stdout, in a real run."""

from __future__ import annotations

import json

import pytest

from orchestrator.monitor.json_lines import JsonLines
from orchestrator.records.events import Event


@pytest.mark.parametrize("backend", ["inline", pytest.param("local", marks=pytest.mark.process)])
def test_stdout_holds_every_event_and_nothing_else(place, features, command, edit, backend):
    edit(seeds=1)
    ended = command("sweep.yaml", "--backend", backend, "--workers", "1", "--log-json")
    assert ended.code == 0
    told = [json.loads(line) for line in ended.out.splitlines()]
    assert all({"time", "kind", "trial_id", "label", "trials_over", "trials_total"} <= set(line) for line in told)
    of = {label: [line for line in told if line["label"] == label] for label in dict.fromkeys(x["label"] for x in told)}
    assert list(of) == ["focal_gamma=0 seed=0", "focal_gamma=2 seed=0"]
    for number, events in enumerate(of.values(), start=1):
        kinds = [event["kind"] for event in events]
        assert (kinds[0], kinds[-1], kinds.count("epoch"), kinds.count("task")) == ("started", "finished", 4, 2)
        assert (events[-1]["trials_over"], events[-1]["trials_total"]) == (number, 2)
        assert 0 <= events[-1]["image_auroc"] <= 1
    assert told[-1]["seconds_left"] == 0
    assert [line["time"] for line in told] == sorted(line["time"] for line in told)
    assert "results: results/small/parts (Parquet)" in ended.err
    assert "**Found:**" in ended.err
    # The events tell each end, so no line on stderr repeats them.
    assert "finished  1/2" not in ended.err


def test_a_line_is_written_at_once_and_no_fact_replaces_what_the_driver_says(tmp_path):
    path = tmp_path / "events.jsonl"
    with path.open("w") as file:
        event = Event("note", "a", {"note": "slow", "label": "the worker's", "trials_over": 9})
        JsonLines(file, lambda: 5.25).write(event, "gamma=0", {"trials_over": 1})
        line = json.loads(path.read_text())
    assert line == {
        "time": 5.25, "kind": "note", "trial_id": "a", "label": "gamma=0", "note": "slow", "trials_over": 1
    }  # fmt: skip


def test_log_json_is_refused_with_detach(place, command):
    ended = command("sweep.yaml", "--backend", "slurm", "--detach", "--log-json")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: --log-json: prints events while the command follows trials")
