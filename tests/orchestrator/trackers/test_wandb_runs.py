"""Offline runs of W&B, read back with the reader of its pinned version, `wandb leet inspect`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from orchestrator.trackers.export_runs import export_runs

pytestmark = [pytest.mark.process, pytest.mark.filterwarnings("ignore")]  # W&B's, about its dependencies


def export(place, folder):
    return dict(export_runs(place, "wandb", folder).outcomes)


def records(folder):
    """The records of a run's file, each as {"type": ..., ...}."""
    words = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_each_trial_is_an_offline_run_that_is_read_back_and_never_doubled(
    failed, expected, tmp_path, ask_anew, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "online")  # The user's own runs may be; an export is offline.
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    assert export(failed, tmp_path) == {"new": 5, "replaced": 0, "unchanged": 0}
    assert os.environ["WANDB_MODE"] == "online"
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 5
    failure = next(folder for folder in folders if list(expected)[-1] in folder.name)
    for folder in (folders[0], failure):  # Each call of the reader takes seconds.
        kinds = records(folder)
        (opened,) = [one["run"] for one in kinds if one["type"] == "run"]
        own = expected[opened["config"]["update"]["trial_id"]]
        assert (opened["project"], opened["display_name"], opened["run_group"]) == ("small", own.name, own.variant)
        stored = opened["config"]["update"]
        assert {name: stored[name] for name in own.settings} == dict(own.settings)
        assert stored["environment"] == dict(own.environment)
        assert opened.get("tags") == [own.status]
        read = {}
        for item in (one["history"]["item"] for one in kinds if one["type"] == "history"):
            axis = "epoch" if "epoch" in item else "after_task"
            read |= {(name, axis, item[axis]): value for name, value in item.items() if "/" in name}
        assert read == {(point.name, point.axis, point.step): point.value for point in own.points}
        summary = {}
        for update in (one["summary"].get("update", {}) for one in kinds if one["type"] == "summary"):
            summary |= update
        assert own.summary.items() <= summary.items()
        assert (folder / "files/report.md").read_text().startswith("# small: Does ")
        assert any(
            one["path"] == "report.md" for kind in kinds if kind["type"] == "files" for one in kind["files"]["files"]
        )

    ask_anew()
    (folders[0] / "moleflow.digest").unlink()  # As if it was not written to its end.
    assert export(failed, tmp_path) == {"new": 0, "replaced": 1, "unchanged": 4}
    again = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert sorted(path.name.rpartition("-")[0][-12:] for path in again) == sorted(expected)
    assert {(path / "files/report.md").read_text().partition("\n")[0] for path in again} == {
        "# small: Another question?"
    }
