"""The view of a running sweep: a picture on a terminal, else plain lines; JSON for programs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from orchestrator.execution.trial_source import RunOutcome
from orchestrator.monitor.json_lines import JsonLines
from orchestrator.monitor.progress import SweepProgress
from orchestrator.monitor.resource_usage import ResourceMonitor
from orchestrator.monitor.snapshot import ProgressSnapshot, snapshot_lines, snapshot_picture, summary_line
from orchestrator.monitor.terminal import Printable
from orchestrator.monitor.trial_log import auroc_text, describe_event
from orchestrator.records.events import ENDS, Event
from orchestrator.records.trial_state import State

PLAIN_EVERY_S = 30.0
REFRESH_PER_S = 2


class LiveView:
    """Shows the events of a run.

    On a terminal a picture with one line per running trial refreshes itself. Elsewhere each trial
    prints a line when it ends, and at most twice a minute one line tells what is running.

    Args:
        console: the output.
        labels: readable names by trial id.
        total: the number of trials of this run.
        outcome: the ends of trials so far; it must be updated with an event before `show`.
        quiet: show nothing.
        clock: seconds, from any start.
        steps: training steps of each trial's own, as far as they are known; they improve the time
            left.
        json: gets every event.
        done: trials of the sweep that finished before this run; they count as finished.
        is_search: never call a trial the best by its test images.

    """

    def __init__(
        self,
        console: Console,
        labels: Mapping[str, str],
        total: int,
        outcome: RunOutcome,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
        steps: Mapping[str, float] | None = None,
        json: JsonLines | None = None,
        done: int = 0,
        is_search: bool = False,
    ) -> None:
        self._done = done
        self._console, self._total, self._outcome, self._quiet, self._json = console, total, outcome, quiet, json
        self._clock, self._last_line = clock, clock()
        self._progress = SweepProgress(labels, steps, is_search)
        self._running: set[str] = set()
        self._held: set[str] = set()
        # A thread of rich's refreshes the picture while events come.
        self._lock = threading.Lock()
        self._resources = ResourceMonitor()
        self._is_picture = console.is_terminal and not quiet
        self._live = (
            Live(
                console=console,
                get_renderable=lambda: Printable(self.picture()),
                refresh_per_second=REFRESH_PER_S,
                transient=True,
            )
            if self._is_picture
            else None
        )

    def __enter__(self) -> LiveView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        self._resources.close()

    def show(self, event: Event) -> None:
        """Show an event."""
        now = self._clock()
        with self._lock:
            self._progress.on_event(event, now, event.trial_id in self._outcome.over)
            if event.kind in ENDS:
                self._running.discard(event.trial_id)
            else:
                self._running.add(event.trial_id)
        if self._json is not None:
            run = {"trials_over": self._done + len(self._outcome.over), "trials_total": self._done + self._total}
            seconds_left = self.snapshot().left_s
            self._json.write(event, self._progress.label(event.trial_id), run | {"seconds_left": seconds_left})
        if self._quiet:
            return
        if event.kind in ENDS:
            self._print_end(event)
        elif not self._is_picture and now - self._last_line >= PLAIN_EVERY_S and event.kind in ("features", "epoch"):
            self._print_running(event)

    def snapshot(self) -> ProgressSnapshot:
        """The sweep at this moment."""
        outcome, now = self._outcome, self._clock()
        with self._lock:
            waiting = max(0, self._total - len(outcome.over) - len(self._running - outcome.over))
            counts: dict[State, int] = {
                "running": len(self._running),
                "failed": len(outcome.over & outcome.failed.keys()),
                "interrupted": len(outcome.interrupted),
                "cancelled": len(outcome.cancelled),
                "waiting": waiting,
                "pruned": len(outcome.pruned),
                "finished": self._done + len(outcome.finished) + len(outcome.elsewhere),
            }
            use = self._resources.measure(self._progress.workers, now) if self._is_picture else ()
            return self._progress.snapshot(now, counts, waiting, use)

    def picture(self) -> RenderableType:
        """The snapshot for a terminal, no higher than the terminal."""
        snapshot = self.snapshot()
        return snapshot_picture(snapshot, max(1, self._console.height - snapshot_lines(snapshot) - 1))

    def _print_end(self, event: Event) -> None:
        label, facts = self._progress.label(event.trial_id), event.facts
        if event.kind == "held" and event.trial_id not in self._held:
            self._held.add(event.trial_id)
            self._print("waiting", label, f"another run is at it ({facts.get('by')})")
        elif event.kind == "failed":
            again = "" if event.trial_id in self._outcome.over else "; it will be tried again"
            self._print("failed", label, f"{facts.get('error')}{again}", style="red")
        elif event.kind in ("cancelled", "pruned", "interrupted"):
            self._print(event.kind, label)
        elif event.kind in ("finished", "elsewhere"):
            seconds = facts.get("seconds")
            result = [text] if (text := auroc_text(facts)) else []
            took = [f"{seconds:.1f} s"] if seconds is not None and event.kind == "finished" else []
            by = ["by another run"] if event.kind == "elsewhere" else []
            self._print("finished", label, *result, *took, *by)

    def _print_running(self, event: Event) -> None:
        progress = f"{self._progress.label(event.trial_id)}: {describe_event(event)}"
        self._last_line = self._clock()
        self._console.print(Text("  ".join([self._count("running"), summary_line(self.snapshot()), progress])))

    def _print(self, state: str, *parts: str, style: str = "") -> None:
        self._last_line = self._clock()
        time_left = "" if self._is_picture else self.snapshot().eta
        line = "  ".join(part for part in (self._count(state), *parts, time_left) if part)
        self._console.print(Text(line, style=style))

    def _count(self, state: str) -> str:
        total = self._done + self._total
        return f"{state:<9} {self._done + len(self._outcome.over):>{len(str(total))}}/{total}"
