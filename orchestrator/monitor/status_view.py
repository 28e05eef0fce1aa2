"""A status as lines or as a picture that refreshes itself, and as JSON for programs."""

from __future__ import annotations

import contextlib
import io
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.host.printable_text import printable, single_line
from orchestrator.monitor.log_watcher import LogWatcher
from orchestrator.monitor.snapshot import (
    ProgressSnapshot,
    counts_text,
    snapshot_lines,
    snapshot_picture,
    summary_line,
)
from orchestrator.monitor.status import SweepStatus, TrialStatus
from orchestrator.monitor.terminal import Printable
from orchestrator.monitor.trial_log import describe_event
from orchestrator.records.trial_state import STATES, State

MOST_LINES = 40
_LONG = ("progress", "where", "note")
EVERY_S = 2.0
_STYLES: Mapping[State, str] = {
    "running": "green",
    "failed": "red",
    "unknown": "yellow",
    "queued": "cyan",
    "finished": "dim",
}


def status_head(status: SweepStatus) -> list[str]:
    """The lines above the trials: the sweep, its counts and its time."""
    lines = [f"sweep:    {single_line(status.title)}", f"trials:   {len(status.trials)}: {status_counts(status)}"]
    if status.started_at is None:
        lines.append("elapsed:  no attempt has begun")
    else:
        since = datetime.fromtimestamp(status.started_at).isoformat(" ", "seconds")
        lines.append(f"elapsed:  {timedelta(seconds=round(status.elapsed_s))} since {since}, pauses included")
    return lines + [f"damaged:  {one.path}: {one.reason}; its trials run again" for one in status.damaged]


def status_counts(status: SweepStatus) -> str:
    """The number of trials in each state, such as `1 running, 3 finished`; stalled ones too."""
    counts, running = counts_text(status.counts), f"{status.counts['running']} running"
    return counts.replace(running, f"{running} ({status.stalled} stalled)", 1) if status.stalled else counts


def status_lines(status: SweepStatus, most: int | None = MOST_LINES) -> list[str]:
    """The whole status, with at most `most` trials and a note of those left out."""
    page = Console(file=io.StringIO(), width=10_000, color_system=None, markup=False, emoji=False, highlight=False)
    with page.capture() as capture:
        page.print(_table(_first(status, most)))
    return [*status_head(status), "", *(line.rstrip() for line in capture.get().splitlines()), *_left_out(status, most)]


def status_picture(status: SweepStatus, most: int | None = MOST_LINES) -> Group:
    """The same for a terminal: in colours, with cells cut that are too wide."""
    return Group(
        Text("\n".join(status_head(status))), "", _table(_first(status, most)), Text("\n".join(_left_out(status, most)))
    )


def status_json(status: SweepStatus) -> dict[str, Any]:
    """The status for programs, with every trial."""
    return {
        "sweep": status.name,
        "title": status.title,
        "dataset": status.dataset,
        "folder": str(status.folder),
        "started_at": status.started_at,
        "elapsed_seconds": round(status.elapsed_s, 3),
        "counts": status.counts,
        "damaged": [{"path": str(one.path), "reason": one.reason} for one in status.damaged],
        "trials": [asdict(trial) | {"progress": _progress(trial)} for trial in status.trials],
    }


def _progress(trial: TrialStatus) -> dict[str, Any] | None:
    if trial.progress is None:
        return None
    facts = trial.progress.facts
    return {"kind": trial.progress.kind, **{name: facts[name] for name in facts if name not in ("attempt", "worker")}}


def watch_status(
    look: Callable[[], SweepStatus], console: Console, show_all: bool = False, every_s: float = EVERY_S
) -> None:
    """Show the status until nothing runs or is queued.

    On a terminal it is a picture; elsewhere the counts are printed when they change.
    """
    watcher: LogWatcher | None = None
    printed = ""
    with Live(console=console, auto_refresh=False) if console.is_terminal else contextlib.nullcontext() as live:
        try:
            for status in _looks(look, every_s):
                watcher = watcher or LogWatcher(status.folder)
                snapshot = watcher.snapshot(status)
                counts = status_counts(status)
                if live is not None:
                    picture = watch_picture(status, snapshot, None if show_all else console.height)
                    live.update(Printable(picture), refresh=True)
                elif counts != printed:
                    line = (f"{datetime.now():%H:%M:%S}  {counts}", summary_line(snapshot, counts=False))
                    console.print("  ".join(part for part in line if part), soft_wrap=True)
                printed = counts
        finally:
            if watcher is not None:
                watcher.close()


def watch_picture(status: SweepStatus, snapshot: ProgressSnapshot, height: int | None = None) -> Group:
    """A running sweep as its driver shows it, then the other trials; at most `height` lines."""
    others = replace(status, trials=tuple(trial for trial in status.trials if trial.state != "running"))
    top = [line for line in status_head(status) if not line.startswith("trials:")]
    most_running, most = len(snapshot.rows), None
    if height is not None:
        room = height - len(top) - snapshot_lines(snapshot) - 1  # The cursor takes a line.
        most_running = min(most_running, max(1, room - 5 * bool(others.trials)))
        most = max(1, room - most_running - (most_running < len(snapshot.rows)) - 4)  # blank, header, what is left out
    parts: list[RenderableType] = [
        Text("\n".join(top), no_wrap=True, overflow="ellipsis"),
        snapshot_picture(snapshot, most_running),
    ]
    if others.trials:
        parts += ["", _table(_first(others, most)), Text("\n".join(_left_out(others, most)))]
    return Group(*parts)


def _looks(look: Callable[[], SweepStatus], every_s: float) -> Iterator[SweepStatus]:
    """Statuses until nothing is active any more.

    Between two trials of a worker nothing runs for a moment. So two idle looks in a row end it,
    unless all trials have finished.
    """
    idle = 0
    while True:
        status = look()
        yield status
        idle = 0 if status.is_active else idle + 1
        if idle == 2 or status.counts["finished"] == len(status.trials):
            return
        time.sleep(every_s)


def _first(status: SweepStatus, most: int | None) -> list[TrialStatus]:
    """The first `most` trials: active and failed ones before those that wait or are done."""
    return sorted(status.trials, key=lambda trial: STATES.index(trial.state))[:most]


def _left_out(status: SweepStatus, most: int | None) -> list[str]:
    left = Counter(trial.state for trial in _first(status, None)[len(_first(status, most)) :])
    states = ", ".join(f"{left[state]} {state}" for state in STATES if left[state])
    return [f"{left.total()} more trials are left out ({states}); --all shows them"] if left else []


def _table(trials: Iterable[TrialStatus]) -> Table:
    """A table with one line per trial, without empty columns.

    On a narrow terminal the last columns are cut first.
    """
    rows = [(trial.state, _cells(trial)) for trial in trials]
    kept = [name for name in ("trial", "label", "state", "attempt", *_LONG) if any(cells[name] for _, cells in rows)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in kept:
        table.add_column(name, no_wrap=name not in _LONG)
    for state, cells in rows:
        style = _STYLES.get(state, "")
        table.add_row(*(Text(cells[name], style=style, no_wrap=True, overflow="ellipsis") for name in kept))
    return table


def _cells(trial: TrialStatus) -> dict[str, str]:
    where = [trial.host, trial.worker, f"job {trial.job.partition('@')[0]}" if trial.job else None]
    cells = {
        "trial": trial.trial_id,
        "label": trial.label,
        "state": trial.state,
        "attempt": str(trial.attempt or ""),
        "progress": describe_event(trial.progress) if trial.progress else "",
        "where": " ".join(filter(None, where)),
        "note": _note(trial),
    }
    return {name: printable(text).replace("\n", " ") for name, text in cells.items()}


def _note(trial: TrialStatus) -> str:
    error = trial.error if trial.state == "failed" or trial.error is None else f"last error: {trial.error}"
    return "; ".join(" ".join(part.split()) for part in (trial.reason, error) if part)
