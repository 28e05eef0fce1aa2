"""`run --log-json`: events and nothing else on stdout, in a real run."""

from __future__ import annotations

import json

import pytest


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
    assert "| Metric |" in ended.err


def test_log_json_is_refused_with_detach(place, command):
    ended = command("sweep.yaml", "--backend", "slurm", "--detach", "--log-json")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: --log-json: prints events while the command follows trials")
