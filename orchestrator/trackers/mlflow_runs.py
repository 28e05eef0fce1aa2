"""Runs in an MLflow store: a SQLite file and a folder of artifacts, one experiment a sweep."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.reports.number_format import setting_text
from orchestrator.trackers.tracked_run import Outcome, TrackedRun, WriteRun, plain_name

MOST_PARAMS, MOST_METRICS, LONGEST = 100, 1000, 6000
"""MLflow's limits: parameters and metrics in a batch, characters of a value."""
REPORT = "report.md"
_TRIAL, _DIGEST = "moleflow.trial_id", "moleflow.digest"
_ENDS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "pruned": "KILLED"}


@contextlib.contextmanager
def open_mlflow(folder: Path, sweep: str) -> Iterator[WriteRun]:
    """Open `mlflow.db` in a folder and yield the function that writes a run of a sweep.

    Raises:
        ImportError: MLflow's client, SQLAlchemy or alembic is missing.
    """
    # Read when the client is imported. It would report its use, and print each migration.
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of the client about its own dependencies.
        import alembic  # noqa: F401 - the client imports it, and SQLAlchemy, when it opens the file
        from mlflow.tracking import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        yield _MlflowRuns(MlflowClient(f"sqlite:///{folder.resolve() / 'mlflow.db'}"), folder.resolve(), sweep).write


class _MlflowRuns:
    def __init__(self, client: Any, folder: Path, sweep: str) -> None:
        self._client = client
        found = client.get_experiment_by_name(sweep)
        artifacts = (folder / "artifacts").as_uri()
        self._experiment = found.experiment_id if found else client.create_experiment(sweep, artifacts)

    def write(self, run: TrackedRun, report: str) -> Outcome:
        stored = self._client.search_runs([self._experiment], f"tags.`{_TRIAL}` = '{run.trial_id}'")
        same = [one for one in stored if one.data.tags.get(_DIGEST) == run.digest]
        for one in stored:
            if one not in same[:1]:
                self._client.delete_run(one.info.run_id)
        if same:
            self._client.log_text(same[0].info.run_id, report, REPORT)
            return "unchanged"
        self._create(run, report)
        return "replaced" if stored else "new"

    def _create(self, run: TrackedRun, report: str) -> None:
        from mlflow.entities import Metric, Param, RunTag

        tags = {_TRIAL: run.trial_id, "moleflow.sweep": run.sweep, "moleflow.variant": run.variant}
        tags |= {plain_name(f"environment.{name}"): value[:LONGEST] for name, value in run.environment.items()}
        tags |= {"error": run.error[:LONGEST]} if run.error else {}
        created = self._client.create_run(self._experiment, _milliseconds(run.started_at), tags, run.name)
        run_id, end = created.info.run_id, _milliseconds(run.ended_at)
        params = [Param(plain_name(name), setting_text(value)[:LONGEST]) for name, value in run.settings.items()]
        last = max((point.step for point in run.points if point.axis == "after_task"), default=0)
        metrics = [Metric(plain_name(point.name), point.value, end, point.step) for point in run.points]
        metrics += [Metric(plain_name(name), value, end, last) for name, value in run.summary.items()]
        for batch in _batches(params, MOST_PARAMS):
            self._client.log_batch(run_id, params=batch)
        for batch in _batches(metrics, MOST_METRICS):
            self._client.log_batch(run_id, metrics=batch)
        self._client.log_text(run_id, report, REPORT)
        self._client.set_terminated(run_id, _ENDS.get(run.status, "KILLED"), end)
        # Last: a run without it was not written to its end, and is written again.
        self._client.log_batch(run_id, tags=[RunTag(_DIGEST, run.digest)])


def _batches(items: Sequence[Any], most: int) -> Iterator[list[Any]]:
    left = iter(items)
    while batch := list(itertools.islice(left, most)):
        yield batch


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)
