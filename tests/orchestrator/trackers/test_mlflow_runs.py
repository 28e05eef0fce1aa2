"""Runs in an MLflow store, read back with MLflow's own client. Making its tables takes seconds."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from orchestrator.reports.number_format import setting_text
from orchestrator.trackers.export_runs import export_runs

pytestmark = [pytest.mark.process, pytest.mark.filterwarnings("ignore")]  # MLflow's, about its dependencies


def export(place, folder):
    return dict(export_runs(place, "mlflow", folder).outcomes)


def client_of(folder):
    from mlflow.tracking import MlflowClient

    return MlflowClient(f"sqlite:///{folder / 'mlflow/mlflow.db'}")


def artifact(run, name):
    return (Path(urlsplit(run.info.artifact_uri).path) / name).read_text()


def test_each_trial_is_a_run_that_is_read_back_and_never_doubled(failed, expected, tmp_path, ask_anew):
    assert export(failed, tmp_path) == {"new": 5, "replaced": 0, "unchanged": 0}
    client = client_of(tmp_path)
    experiment = client.get_experiment_by_name("small").experiment_id
    stored = {run.data.tags["moleflow.trial_id"]: run for run in client.search_runs([experiment])}
    assert stored.keys() == expected.keys()
    for trial_id, run in stored.items():
        own = expected[trial_id]
        assert (run.info.run_name, run.info.status) == (own.name, "FINISHED" if own.status == "finished" else "FAILED")
        assert run.info.end_time == round(own.ended_at.timestamp() * 1000)
        assert run.data.params == {name: setting_text(value) for name, value in own.settings.items()}
        assert own.summary.items() <= run.data.metrics.items()
        assert run.data.tags["environment.device"] == "cpu"
        assert run.data.tags.get("error", "") == own.error
        assert artifact(run, "report.md").startswith("# small: Does ")
    own = next(iter(expected.values()))
    history = client.get_metric_history(stored[own.trial_id].info.run_id, "curves/bolt/loss")
    curve = {point.step: point.value for point in own.points if point.name == "curves/bolt/loss"}
    assert {one.step: one.value for one in history} == curve
    assert len(curve) == 2

    ask_anew()
    client.delete_tag(stored[own.trial_id].info.run_id, "moleflow.digest")  # As if it was not written to its end.
    assert export(failed, tmp_path) == {"new": 0, "replaced": 1, "unchanged": 4}
    again = client.search_runs([experiment])
    assert {run.data.tags["moleflow.trial_id"] for run in again} == expected.keys()
    assert len(again) == 5
    assert {artifact(run, "report.md").partition("\n")[0] for run in again} == {"# small: Another question?"}
