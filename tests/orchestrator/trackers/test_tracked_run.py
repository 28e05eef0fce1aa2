"""One trial as a tracker receives it."""

from __future__ import annotations

import math

import pytest

from moleflow.errors import InvalidInput
from orchestrator.results.store import ResultStore
from orchestrator.trackers.export_runs import export_runs
from orchestrator.trackers.tracked_run import plain_name


def test_a_run_holds_configuration_curves_and_metrics_by_task(failed, expected):
    store = ResultStore(failed)
    curves = [row for row in store.read("curves").to_pylist() if row["trial_id"] in expected]
    metrics = store.read("metrics").to_pylist()
    run = next(iter(expected.values()))
    points = {(point.name, point.axis, point.step): point.value for point in run.points}
    for row in curves:
        if row["trial_id"] == run.trial_id:
            assert points[f"curves/{row['task_name']}/loss", "epoch", row["epoch"]] == row["loss"]
    for row in metrics:
        if row["trial_id"] == run.trial_id:
            name = f"{row['split']}/{row['task_name']}/image_auroc"
            assert points[name, "after_task", row["after_task"]] == row["image_auroc"]
    last = [row for row in metrics if row["trial_id"] == run.trial_id and row["after_task"] == 1]
    mean = math.fsum(row["image_auroc"] for row in last) / len(last)
    assert run.summary["test/mean/image_auroc"] == pytest.approx(mean)
    assert run.settings["loss.focal_gamma"] == 0.0
    assert run.settings["seed"] == 0
    assert run.environment["device"] == "cpu"
    assert {"package torch", "code_digest", "state_digest"} < run.environment.keys()


def test_a_failed_trial_is_a_run_too_with_its_error(expected):
    run = list(expected.values())[-1]
    assert (run.status, run.error, run.name) == ("failed", "no memory", "focal_gamma=9 seed=0")
    assert run.summary == {}
    assert len({run.digest for run in expected.values()}) == 5


def test_names_of_other_signs_stay_different():
    names = ["metal_nut/x 1.0-a", "a:b", "a=b", "a:3d:b", "ä", "a|b"]
    plain = [plain_name(name) for name in names]
    assert plain[0] == names[0]
    assert plain[2] == "a:3d:b"
    assert len(set(plain)) == len(names)
    assert all(name.isascii() for name in plain)


def test_a_sweep_without_an_ended_trial_has_nothing_to_export(stored, tmp_path):
    folder = stored().folder
    (folder / "parts/attempts").mkdir(parents=True, exist_ok=True)
    (folder / "sweep.json").write_text(
        '{"name": "s", "title": "s", "baseline": {}, "dataset": "embedded", "trials": ["0123456789ab"]}'
    )
    with pytest.raises(InvalidInput, match="no attempt of a trial has ended yet"):
        export_runs(folder, "tensorboard", tmp_path / "exports")
    assert not (tmp_path / "exports").exists()
