"""The table and the details of the trials on the page."""

from __future__ import annotations

import json

import pytest

from orchestrator.html_report.learning_curves import Curve
from orchestrator.html_report.trials import trial_details, trial_table
from orchestrator.records.event_log import event_logs
from orchestrator.reports.final_metrics import MEAN


def test_a_row_for_each_trial(keep, trial, failed, page_data_of):
    finished = trial(0.0, seconds_spent=3000.0, seconds_reused=600.0)
    error = failed("a" * 500 + chr(10) + "more", gamma=1.0, seed=4)
    place = keep([finished, error], not_run=["0123456789ab"])
    page_data = page_data_of(place)
    table = trial_table(page_data)
    by_state = {row[3]: row for row in table.rows}
    assert by_state.keys() == {"finished", "failed", "not run"}
    row = dict(zip(table.head, by_state["finished"], strict=True))
    trial_id = finished.attempt["trial_id"]
    assert row["Trial"] == {"t": trial_id, "trial": trial_id}
    assert (row["Variant"], row["Seed"], row["Hours"]) == (0, "0", "1"), "3,000 s and 600 s reused"
    assert row["Mean Image AUROC"] == f"{page_data.trials[0].values[MEAN, 'image_auroc']:.4f}"
    assert row["Remark"] == "the only trial of its variant"
    row = dict(zip(table.head, by_state["failed"], strict=True))
    assert (row["Seed"], row["Hours"], row["Mean Image AUROC"]) == ("4", "\u2013", "\u2013")
    assert row["Variant"] == "lora.rank=8, loss.focal_gamma=1, training.learning_rate=0.001"
    assert row["Remark"] == "RuntimeError: " + "a" * (400 - len("RuntimeError: "))
    assert by_state["not run"][1:3] == ("\u2013", "\u2013")


def test_details_of_finished_and_failed_trials(keep, trial, failed, page_data_of):
    trials = [trial(0.0), trial(1.0), failed("no", gamma=2.0)]
    page_data = page_data_of(keep(trials))
    ids = [rows.attempt["trial_id"] for rows in trials]
    curve = Curve(ids[1], 0, "leather", (1.23456789, 2.0))
    found = trial_details(page_data, [curve], page_data.store.folder)
    details = [found["trials"][trial_id] for trial_id in ids]
    assert [one["variant"] for one in details] == [0, 1, -1]
    assert details[0]["differs"] == []
    assert details[1]["differs"] == [["loss.focal_gamma", "0", "1"]]
    assert ["loss.focal_gamma", "0", "2"] in details[2]["differs"]
    assert details[1]["curves"] == [{"task": "leather", "nll": [1.2346, 2.0]}]
    assert (details[2]["error"], details[2]["traceback"]) == ("RuntimeError: no", "Traceback: no")
    assert [one["settings"]["loss.focal_gamma"] for one in details] == ["0", "1", "2"]
    assert "lora.rank" not in details[0]["settings"], "all trials share it"
    assert found["shared"]["lora.rank"] == "8"
    assert (found["baselines"], found["isLarge"], found["logs"]) == ([0, 0], False, False)
    assert ["code", f"{page_data.trials[0].code_digest[:12]} ({page_data.trials[0].git})"] in details[0]["facts"]


@pytest.mark.parametrize("lines", [3, 25])
def test_the_last_twenty_lines_of_the_log_are_kept(keep, trial, page_data_of, lines):
    rows = trial()
    place = keep([rows])
    folder = event_logs(place)
    folder.mkdir()
    trial_id = rows.attempt["trial_id"]
    events = [
        {"time": k, "kind": "failed", "trial_id": trial_id, "error": f"number {k} {'x' * 300}", "attempt": 2}
        for k in range(lines)
    ]
    written = [json.dumps(event) for event in events]
    (folder / "worker-1.jsonl").write_text("".join(line + chr(10) for line in written))
    log = trial_details(page_data_of(place), [], place)["trials"][trial_id]["log"]
    assert len(log) == min(lines, 20)
    assert all(len(line) == 240 for line in log)
    assert log[-1].startswith("attempt 2  ")
    assert f"number {lines - 1} " in log[-1]
