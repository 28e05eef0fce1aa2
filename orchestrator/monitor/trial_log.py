"""The log of one trial as lines: the events of its workers, and the ends of its attempts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.records.attempts import CANCELLED, DIED, FAILED, RUNNING, AttemptFolder, AttemptRecord
from orchestrator.records.dead_attempts import UNSEEN
from orchestrator.records.event_log import LogFollower, event_logs
from orchestrator.records.events import Event
from orchestrator.records.stalls import read_stall

_ENDS_OF_ATTEMPTS = frozenset({"finished", "failed", "interrupted", "cancelled", "fatal"})


def describe_event(event: Event) -> str:
    """An event in words, without its trial, attempt and worker."""
    facts = event.facts
    if event.kind == "features":
        return f"features {facts['done']}/{facts['total']}"
    if event.kind == "epoch":
        return f"{facts['task_name']}  epoch {facts['epoch']}/{facts['epochs']}  loss {facts['loss']:.4g}"
    if event.kind == "step":
        return "waits for another worker" if facts.get("doing") == "waiting" else f"still {facts.get('doing')}"
    if event.kind == "task":
        source = "taken from the store" if facts.get("reused") else ""
        return "  ".join(filter(None, [facts["task_name"], "done", auroc_text(facts), source]))
    if event.kind == "finished":
        seconds = facts.get("seconds")
        took = "" if seconds is None else f"{seconds:.1f} s"
        return "  ".join(filter(None, ["finished", auroc_text(facts), took]))
    if event.kind == "held":
        return f"another run is at it ({facts.get('by')})"
    if event.kind == "note":
        return str(facts["note"])
    if event.kind == "elsewhere":
        return "another run has finished it"
    error = facts.get("error")
    word = "stopped" if event.kind == "fatal" else event.kind
    return word if error in (None, word) else f"{word}: {error}"


def auroc_text(facts: Mapping[str, Any]) -> str:
    """Return the image AUROC in the facts of an event; empty without one."""
    value = facts.get("image_auroc")
    # A trial that scores no test images reports its validation metric.
    is_validation = value == (facts.get("validation") or {}).get("image_auroc")
    return "" if value is None else f"{'validation ' if is_validation else ''}image AUROC {value:.4f}"


class TrialLog:
    """The log of a trial over all its attempts and workers, read step by step.

    A worker that was killed could not log its end; then only the attempt's record tells it.

    Args:
        sweep_folder: the results folder.
        trial_id: the trial.

    """

    def __init__(self, sweep_folder: Path, trial_id: str) -> None:
        self._trial_id = trial_id
        self._follower = LogFollower(event_logs(sweep_folder))
        self._records = AttemptFolder(sweep_folder / "attempts")
        self._ended: set[int] = set()
        self._unlogged: set[int] = set()

    def read_new(self, last: bool = True) -> list[str]:
        """The lines since the last call, oldest first.

        Args:
            last: whether this is the last call. Otherwise an end that only the record tells waits
                for one more call, because workers close the record a moment before they log the
                end.

        """
        lines = [*self._logged(), *self._recorded(last)]
        return [line for _, _, line in sorted(lines, key=lambda line: line[:2])]

    def _logged(self) -> Iterator[tuple[float, int, str]]:
        for entry in self._follower.read_new():
            facts = entry.event.facts
            number = facts.get("attempt")
            if entry.event.trial_id != self._trial_id:
                continue
            if entry.event.kind in _ENDS_OF_ATTEMPTS and number is not None:
                if number in self._ended:
                    continue
                self._ended.add(number)
            line = _line(entry.time, number, entry.worker, describe_event(entry.event), facts.get("traceback"))
            yield entry.time, number or 0, line

    def _recorded(self, last: bool) -> Iterator[tuple[float, int, str]]:
        for record in self._records.of_trial(self._trial_id):
            state, content = record.state, record.content
            if state == RUNNING or record.attempt in self._ended:
                continue
            if not last and record.attempt not in self._unlogged:
                self._unlogged.add(record.attempt)
                continue
            self._ended.add(record.attempt)
            if state == DIED:
                stall = read_stall(record)
                text = f"{FAILED}: {stall.error if stall else UNSEEN}"
            elif content.get("error_kind") == CANCELLED:
                text = "cancelled"
            else:
                text = ": ".join(filter(None, (state, content.get("error"))))
            ended_at = content.get("ended_at") or _heartbeat(record)
            worker = content.get("row", {}).get("worker")
            yield ended_at, record.attempt, _line(ended_at, record.attempt, worker, text, content.get("traceback"))


def _heartbeat(record: AttemptRecord) -> float:
    """The time of an attempt's last heartbeat, seconds since 1970."""
    try:
        return record.path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _line(seconds: float, attempt: int | None, worker: str | None, text: str, traceback: str | None) -> str:
    when = datetime.fromtimestamp(seconds).isoformat(" ", "seconds")
    number = None if attempt is None else f"attempt {attempt}"
    return "\n".join(filter(None, ("  ".join(filter(None, (when, number, worker, text))), (traceback or "").rstrip())))
