"""Runs as TensorBoard's event files: a folder for each trial in the folder of its sweep."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.reports.number_format import setting_text
from orchestrator.trackers.tracked_run import Outcome, TrackedRun, WriteRun, plain_name

DIGEST = "moleflow.digest"
"""A file in the folder of each run: the digest of the trial and the report in it."""
LONGEST_NAME = 120


@contextlib.contextmanager
def open_tensorboard(folder: Path, sweep: str) -> Iterator[WriteRun]:
    """Yield the function that writes a run of a sweep below a folder.

    Raises:
        ImportError: TensorBoard is missing.
    """
    from tensorboard.summary.writer import event_file_writer  # noqa: F401 - missing? say so before writing

    place = folder / _folder_name(sweep)
    place.mkdir(parents=True, exist_ok=True)
    for left in place.glob(".writing-*"):
        shutil.rmtree(left)

    def write(run: TrackedRun, report: str) -> Outcome:
        digest = hashlib.sha256(f"{run.digest}\n{report}".encode()).hexdigest()
        stored = [path for path in place.glob(f"*{run.trial_id}") if path.is_dir() and not path.name.startswith(".")]
        if any((path / DIGEST).is_file() and (path / DIGEST).read_text() == digest for path in stored):
            return "unchanged"
        new = place / f".writing-{run.trial_id}"
        _write_events(new, run, report)
        (new / DIGEST).write_text(digest)
        for path in stored:
            shutil.rmtree(path)
        new.rename(place / f"{_folder_name(run.name)} {run.trial_id}")
        return "replaced" if stored else "new"

    yield write


def _folder_name(text: str) -> str:
    """Return a name that every system takes for one folder; TensorBoard shows it as the run's."""
    return re.sub(r'[/\\:*?"<>|\x00-\x1f]', "_", text)[:LONGEST_NAME]


def _write_events(folder: Path, run: TrackedRun, report: str) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import summary_v2 as hparams
    from tensorboard.plugins.text.summary_v2 import text_pb
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    time = run.ended_at.timestamp()
    settings = {name: _hparam(value) for name, value in run.settings.items()}
    about = "\n".join(f"    {name} = {value}" for name, value in _facts(run).items())
    last = max((point.step for point in run.points if point.axis == "after_task"), default=0)
    writer = EventFileWriter(str(folder))
    try:
        for summary in (
            hparams.hparams_pb(settings, trial_id=run.trial_id, start_time_secs=run.started_at.timestamp()),
            text_pb("report", report),
            text_pb("trial", about),
        ):
            writer.add_event(Event(summary=summary, wall_time=time))
        scalars = [(point.name, point.value, point.step) for point in run.points]
        scalars += [(name, value, last) for name, value in run.summary.items()]
        for name, value, step in scalars:
            one = Summary(value=[Summary.Value(tag=plain_name(name), simple_value=value)])
            writer.add_event(Event(summary=one, wall_time=time, step=step))
    finally:
        writer.close()


def _facts(run: TrackedRun) -> dict[str, str]:
    facts = {"trial": run.trial_id, "sweep": run.sweep, "status": run.status, **run.environment}
    return facts | ({"error": run.error} if run.error else {})


def _hparam(value: object) -> Any:
    """Return a setting as TensorBoard's table of settings takes it: lists and null as text."""
    return value if isinstance(value, bool | int | float | str) else setting_text(value)
