"""The scene of a sweep that runs elsewhere: states from its status, and all else from what its workers logged."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from orchestrator.monitor.progress import SweepProgress
from orchestrator.monitor.resource_usage import ResourceMonitor
from orchestrator.monitor.snapshot import ProgressSnapshot
from orchestrator.monitor.status import SweepStatus
from orchestrator.records.event_log import LogFollower, event_logs
from orchestrator.records.events import Event

TAIL_BYTES = 256 * 1024
_FINISHED = b'"kind": "finished"'


class LogWatcher:
    """Follows the logs of a results folder.

    Of what was logged before it came it hears the ends of trials and the last `TAIL_BYTES` of each log: a sweep of days has logs of
    hundreds of megabytes.

    Args:
        place: the results folder.
        clock: seconds since 1970.

    """

    def __init__(self, place: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._labels: dict[str, str] = {}
        self._heard = SweepProgress(self._labels)
        self._follower: LogFollower | None = None
        self._logs = event_logs(place)
        self._use = ResourceMonitor()

    def scene(self, status: SweepStatus) -> ProgressSnapshot:
        """What there is to see, given what the trials are doing."""
        now = self._clock()
        self._labels.update({trial.trial_id: trial.label for trial in status.trials})
        if self._follower is None:
            ends = {path.name: max(0, path.stat().st_size - TAIL_BYTES) for path in self._logs.glob("*.jsonl")}
            for event in (event for name, end in ends.items() for event in _finished(self._logs / name, end)):
                if event.trial_id in self._labels:
                    self._heard.learn(event)
            self._follower = LogFollower(self._logs, ends)
        for entry in self._follower.look():
            if entry.event.trial_id in self._labels:
                self._heard.hear(entry.event, entry.time)
        running = {trial.trial_id: trial for trial in status.trials if trial.state == "running"}
        for trial in running.values():
            if trial.progress is not None and not self._heard.knows(trial.trial_id):
                self._heard.hear(trial.progress, now)
        here = [trial.worker for trial in running.values() if trial.worker and trial.host == socket.gethostname()]
        counts = status.counts
        to_come = counts["waiting"] + counts["queued"]
        use = self._use.look(here, now) if here else ()
        scene = self._heard.scene(now, counts, to_come, use, running)
        return replace(scene, over=not status.going)

    def close(self) -> None:
        """Leave nothing running."""
        self._use.close()


def _finished(path: Path, end: int) -> Iterator[Event]:
    """The trials that finished before byte `end` of a log; a line that is cut off is left out."""
    with path.open("rb") as file:
        while file.tell() < end and (line := file.readline()):
            if _FINISHED in line:
                try:
                    content = json.loads(line)
                    yield Event("finished", content.pop("trial_id"), content)
                except (ValueError, KeyError, TypeError):
                    continue
