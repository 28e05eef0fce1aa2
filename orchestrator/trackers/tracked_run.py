"""One trial as a tracker receives it: configuration, environment, curves and metrics."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, NamedTuple

from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.reports.final_metrics import BY_CLASS, MEAN, METRICS
from orchestrator.reports.finished_trials import ENVIRONMENT
from orchestrator.reports.stored_trials import StoredTrial, stored_trials
from orchestrator.results.schema import rows_of
from orchestrator.results.store import ResultStore

SPLITS = ("test", "validation")
CURVES = ("loss", "nll", "lr", "grad_norm")
_FORMAT = 1
"""Counts changes of what a run holds, so that runs of an earlier form are written again."""
_ALSO = ("backend", "host", "git_commit", "git_dirty")
_DIGESTS = ("state_digest", "scores_digest", "data_digest")
_KEY = ("trial_id", "attempt")
Axis = Literal["epoch", "after_task"]
Attempt = tuple[str, int]


class Point(NamedTuple):
    """One number of a curve: its name, its step on an axis, and its value."""

    name: str
    axis: Axis
    step: int
    value: float


@dataclass(frozen=True)
class TrackedRun:
    """One trial of which an attempt has ended.

    Attributes:
        sweep: the sweep's name.
        name: the variant and the seed, such as `focal_gamma=2 seed=0`.
        status: finished | failed | interrupted | pruned.
        settings: {dotted path: value} of the configuration, the seed included.
        environment: {name: text}: device, torch, code, packages, digests of data and results.
        points: `curves/TASK/loss` by epoch, and `SPLIT/CLASS/METRIC` by the last task trained.
        summary: `SPLIT/mean/METRIC` after the final task: means over the classes, ACC, FM and BWT.
        error: what went wrong, in one line; may be empty.
        digest: of all of this.
    """

    sweep: str
    trial_id: str
    name: str
    variant: str
    status: str
    settings: Mapping[str, object]
    environment: Mapping[str, str]
    points: tuple[Point, ...]
    summary: Mapping[str, float]
    started_at: datetime
    ended_at: datetime
    error: str = ""
    digest: str = ""


Outcome = Literal["new", "replaced", "unchanged"]
WriteRun = Callable[[TrackedRun, str], Outcome]
"""Writes a run with a report in Markdown, unless the tracker's folder holds it already."""


def tracked_runs(store: ResultStore, sweep: SweepFolder, everything: bool = False) -> list[TrackedRun]:
    """Return the runs of a results folder's trials, in the order of the plan.

    Args:
        store: the results.
        sweep: its latest plan.
        everything: also the stored trials that are not in the plan.

    Raises:
        InvalidInput: there is no store in the folder.
    """
    trials = [trial for trial in stored_trials(store, sweep, SPLITS, everything) if trial.attempt]
    points = _points(store, {(trial.trial_id, trial.attempt["attempt"]) for trial in trials})
    return [_run(trial, sweep.name, points.get((trial.trial_id, trial.attempt["attempt"]), ())) for trial in trials]


def plain_name(text: str) -> str:
    """Return a name of letters, digits, `_`, `-`, `.`, `/` and spaces; others become `:hex:`.

    MLflow allows no further signs. Different names stay different.
    """
    return re.sub(r"[^\w.\-/ ]", lambda sign: f":{ord(sign[0]):x}:", text, flags=re.ASCII)


def _run(trial: StoredTrial, sweep: str, points: Sequence[Point]) -> TrackedRun:
    row = trial.attempt
    packages = {f"package {name}": str(version) for name, version in json.loads(row["packages"]).items()}
    named = {name: str(row[name]) for name in (*ENVIRONMENT, *_ALSO, *_DIGESTS) if row[name] is not None}
    summary = {
        f"{split}/mean/{metric}": value
        for split, metrics in trial.metrics.items()
        for metric in BY_CLASS
        if (value := metrics[MEAN, metric]) is not None
    }
    run = TrackedRun(
        sweep=sweep,
        trial_id=trial.trial_id,
        name=trial.name,
        variant=trial.variant,
        status=trial.state,
        settings={**trial.settings, "seed": trial.seed},
        environment=named | packages,
        points=tuple(points),
        summary=summary,
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        error=row["error"] or "",
    )
    content = json.dumps([_FORMAT, vars(run)], sort_keys=True, default=datetime.isoformat)
    return replace(run, digest=hashlib.sha256(content.encode()).hexdigest())


def _points(store: ResultStore, attempts: set[Attempt]) -> dict[Attempt, list[Point]]:
    found: dict[Attempt, list[Point]] = {}
    for key, point in (*_curve_points(store), *_metric_points(store)):
        if key in attempts and math.isfinite(point.value):
            found.setdefault(key, []).append(point)
    return {key: sorted(points) for key, points in found.items()}


def _curve_points(store: ResultStore) -> Iterator[tuple[Attempt, Point]]:
    for row in rows_of(store.read("curves", [*_KEY, "task_name", "epoch", *CURVES])):
        for name in CURVES:
            yield _of(row), Point(f"curves/{row['task_name']}/{name}", "epoch", row["epoch"], row[name])


def _metric_points(store: ResultStore) -> Iterator[tuple[Attempt, Point]]:
    for row in rows_of(store.read("metrics", [*_KEY, "split", "after_task", "task_name", *METRICS])):
        for name in METRICS:
            if row[name] is not None:
                path = f"{row['split']}/{row['task_name']}/{name}"
                yield _of(row), Point(path, "after_task", row["after_task"], row[name])


def _of(row: Mapping[str, Any]) -> Attempt:
    return row["trial_id"], row["attempt"]
