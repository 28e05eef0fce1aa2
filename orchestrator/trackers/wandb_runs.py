"""Offline runs of Weights & Biases, which `wandb sync` uploads if the user wants that."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.host.environment_variables import set_variables
from orchestrator.trackers.tracked_run import Outcome, Point, TrackedRun, WriteRun

DIGEST = "moleflow.digest"
"""A file in the folder of each run: the digest of the trial in it."""
REPORT = "report.md"
LONGEST_NAME = 128


@contextlib.contextmanager
def open_wandb(folder: Path, sweep: str) -> Iterator[WriteRun]:
    """Yield the function that writes a run of a sweep into a folder, offline.

    Raises:
        ImportError: W&B's client is missing.
    """
    # Variables of the user, such as WANDB_MODE=online, are for runs of the user's own.
    own = [name for name in os.environ if name.startswith("WANDB_")]
    kept = {name: os.environ.pop(name) for name in own}
    try:
        with set_variables({"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of the client about its own dependencies.
            import wandb

            folder.mkdir(parents=True, exist_ok=True)
            yield _WandbRuns(wandb, folder, sweep).write
            wandb.teardown()
    finally:
        os.environ.update(kept)


class _WandbRuns:
    def __init__(self, client: Any, folder: Path, sweep: str) -> None:
        self._client = client
        self._folder = folder
        self._project = sweep

    def write(self, run: TrackedRun, report: str) -> Outcome:
        # Sweeps may share a trial, and a run's id has to be unique in the folder.
        run_id = f"{run.trial_id}-{hashlib.sha256(run.sweep.encode()).hexdigest()[:6]}"
        stored = list(self._folder.glob(f"offline-run-*-{run_id}"))
        for place in stored:
            if (place / DIGEST).is_file() and (place / DIGEST).read_text() == run.digest:
                (place / "files" / REPORT).write_text(report, encoding="utf-8")
                return "unchanged"
        for place in stored:
            shutil.rmtree(place)
        place = self._log(run, run_id, report)
        (place / DIGEST).write_text(run.digest)
        return "replaced" if stored else "new"

    def _log(self, run: TrackedRun, run_id: str, report: str) -> Path:
        """Write a run; return its folder."""
        settings = self._client.Settings(
            mode="offline",
            root_dir=str(self._folder.parent),  # The client makes a folder `wandb` in it.
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            host=run.environment.get("host", ""),
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            x_start_time=run.started_at.timestamp(),
        )
        opened = self._client.init(
            project=self._project,
            id=run_id,
            name=run.name[:LONGEST_NAME],
            group=run.variant[:LONGEST_NAME],
            config={**run.settings, "environment": dict(run.environment), "trial_id": run.trial_id},
            tags=[run.status],
            notes=run.error or None,
            settings=settings,
            reinit="create_new",
        )
        for axis, names in (("epoch", "curves/*"), ("after_task", "test/*"), ("after_task", "validation/*")):
            opened.define_metric(names, step_metric=axis)
        for (axis, step), points in itertools.groupby(sorted(run.points, key=_axis), key=_axis):
            opened.log({axis: step, **{point.name: point.value for point in points}})
        opened.summary.update(dict(run.summary))
        place = Path(opened.dir)
        (place / REPORT).write_text(report, encoding="utf-8")
        opened.save(str(place / REPORT), base_path=str(place), policy="now")
        opened.finish(exit_code=0 if run.status == "finished" else 1)
        return place.parent


def _axis(point: Point) -> tuple[str, int]:
    return point.axis, point.step
