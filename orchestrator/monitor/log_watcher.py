"""The snapshot of a sweep that another process runs, from its status and its workers' logs."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from moleflow.errors import InvalidInput
from moleflow.passing_errors import open_file
from orchestrator.monitor.progress import SweepProgress
from orchestrator.monitor.resource_usage import ResourceMonitor
from orchestrator.monitor.snapshot import ProgressSnapshot
from orchestrator.monitor.status import SweepStatus
from orchestrator.records.event_log import LogFollower, event_logs, parse_line
from orchestrator.records.events import Event
from orchestrator.records.sweep_folder import read_sweep_folder

TAIL_BYTES = 256 * 1024
_FINISHED = b'"kind": "finished"'


class LogWatcher:
    """Follows the logs of a results folder.

    Of events before its start it reads the ends of trials and the last `TAIL_BYTES` of each log: a
    sweep of days has logs of hundreds of megabytes.

    Args:
        folder: the results folder.
        clock: seconds since 1970.

    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._labels: dict[str, str] = {}
        self._progress = SweepProgress(self._labels, is_search=_is_search(folder))
        self._follower: LogFollower | None = None
        self._logs = event_logs(folder)
        self._resources = ResourceMonitor()

    def snapshot(self, status: SweepStatus) -> ProgressSnapshot:
        """The sweep at this moment, given the states of its trials."""
        now = self._clock()
        self._labels.update({trial.trial_id: trial.label for trial in status.trials})
        if self._follower is None:
            ends = {path.name: max(0, path.stat().st_size - TAIL_BYTES) for path in self._logs.glob("*.jsonl")}
            for event in (event for name, end in ends.items() for event in _finished(self._logs / name, end)):
                if event.trial_id in self._labels:
                    self._progress.learn(event)
            self._follower = LogFollower(self._logs, ends)
        for entry in self._follower.read_new():
            if entry.event.trial_id in self._labels:
                self._progress.on_event(entry.event, entry.time)
        running = {trial.trial_id: trial for trial in status.trials if trial.state == "running"}
        for trial in running.values():
            if trial.progress is not None and not self._progress.is_running(trial.trial_id):
                self._progress.on_event(trial.progress, now)
        here = [trial.worker for trial in running.values() if trial.worker and trial.host == socket.gethostname()]
        counts = status.counts
        to_come = counts["waiting"] + counts["queued"]
        use = self._resources.measure(here, now) if here else ()
        stalled = {trial.trial_id: trial.stalled for trial in running.values() if trial.stalled}
        snapshot = self._progress.snapshot(now, counts, to_come, use, running, stalled)
        return replace(snapshot, over=not status.is_active)

    def close(self) -> None:
        """Release what measuring memory and GPUs holds."""
        self._resources.close()


def _is_search(folder: Path) -> bool:
    """Say whether a results folder is that of a search; false if its plan cannot be read."""
    with contextlib.suppress(InvalidInput):
        return read_sweep_folder(folder).tabled is not None
    return False


def _finished(path: Path, end: int) -> Iterator[Event]:
    """The trials that finished before byte `end` of a log; incomplete lines are skipped."""
    with contextlib.suppress(OSError), open_file(path) as file:
        while file.tell() < end and (line := file.readline()):
            if _FINISHED in line and (entry := parse_line(path.stem, line)) and entry.event.kind == "finished":
                yield entry.event
