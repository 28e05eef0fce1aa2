"""What a person sees while a sweep runs: a picture on a terminal, plain lines elsewhere, or JSON for programs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from orchestrator.execution.trial_source import RunOutcome
from orchestrator.monitor.json_lines import JsonLines
from orchestrator.monitor.progress import SweepProgress
from orchestrator.monitor.resource_usage import ResourceMonitor
from orchestrator.monitor.snapshot import ProgressSnapshot, snapshot_lines, snapshot_picture, summary_line
from orchestrator.monitor.trial_log import describe_event
from orchestrator.records.events import ENDS, Event
from orchestrator.records.trial_state import State

if TYPE_CHECKING:
    pass

PLAIN_EVERY_S = 30.0
RENEWED_A_SECOND = 2


class LiveView:
    """Shows the events of a run.

    On a terminal each running trial has a line in a picture that renews itself. Elsewhere each trial that ends has a line, and so has,
    twice a minute at most, what is running.

    Args:
        console: where to.
        labels: readable names by trial id.
        total: how many trials this run has to do.
        tally: what became of them so far; it has heard of an event before `show` does.
        quiet: show nothing.
        clock: seconds, from anywhere.
        steps: training steps that each trial does itself, as far as they are known; the time left is learned better with them.
        json: where every event goes as JSON.

    """

    def __init__(
        self,
        console: Console,
        labels: Mapping[str, str],
        total: int,
        tally: RunOutcome,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
        steps: Mapping[str, float] | None = None,
        json: JsonLines | None = None,
    ) -> None:
        self._console, self._total, self._tally, self._quiet, self._json = console, total, tally, quiet, json
        self._clock, self._said = clock, clock()
        self._heard = SweepProgress(labels, steps)
        self._running: set[str] = set()
        self._held: set[str] = set()
        self._hearing = threading.Lock()  # The picture is renewed by a thread of its own.
        self._use = ResourceMonitor()
        self._drawn = console.is_terminal and not quiet
        self._live = self._picture_of_its_own() if self._drawn else None

    def __enter__(self) -> LiveView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        self._use.close()

    def show(self, event: Event) -> None:
        """Take an event in."""
        now = self._clock()
        with self._hearing:
            self._heard.hear(event, now, event.trial_id in self._tally.over)
            if event.kind in ENDS:
                self._running.discard(event.trial_id)
            else:
                self._running.add(event.trial_id)
        if self._json is not None:
            run = {"trials_over": len(self._tally.over), "trials_total": self._total}
            self._json.write(event, self._heard.label(event.trial_id), run | {"seconds_left": self.scene().left_s})
        if self._quiet:
            return
        if event.kind in ENDS:
            self._end(event)
        elif not self._drawn and now - self._said >= PLAIN_EVERY_S and event.kind in ("features", "epoch"):
            self._running_line(event)

    def scene(self) -> ProgressSnapshot:
        """What there is to see now."""
        tally, now = self._tally, self._clock()
        with self._hearing:
            waiting = max(0, self._total - len(tally.over) - len(self._running - tally.over))
            counts: dict[State, int] = {
                "running": len(self._running),
                "failed": len(tally.over & tally.failed.keys()),
                "interrupted": len(tally.interrupted),
                "cancelled": len(tally.cancelled),
                "waiting": waiting,
                "pruned": len(tally.pruned),
                "finished": len(tally.finished) + len(tally.elsewhere),
            }
            use = self._use.look(self._heard.workers, now) if self._drawn else ()
            return self._heard.scene(now, counts, waiting, use)

    def picture(self) -> RenderableType:
        """The scene as a terminal shows it, no higher than that."""
        scene = self.scene()
        return snapshot_picture(scene, max(1, self._console.height - snapshot_lines(scene) - 1))

    def _picture_of_its_own(self) -> Live:
        return Live(
            console=self._console, get_renderable=self.picture, refresh_per_second=RENEWED_A_SECOND, transient=True
        )

    def _end(self, event: Event) -> None:
        label, facts = self._heard.label(event.trial_id), event.facts
        if event.kind == "held" and event.trial_id not in self._held:
            self._held.add(event.trial_id)
            self._say("waiting", label, f"another run is at it ({facts.get('by')})")
        elif event.kind == "failed":
            again = "" if event.trial_id in self._tally.over else "; it will be tried again"
            self._say("failed", label, f"{facts.get('error')}{again}", style="red")
        elif event.kind in ("cancelled", "pruned", "interrupted"):
            self._say(event.kind, label)
        elif event.kind in ("finished", "elsewhere"):
            auroc, seconds = facts.get("image_auroc"), facts.get("seconds")
            found = [f"image AUROC {auroc:.4f}"] if auroc is not None else []
            took = [f"{seconds:.1f} s"] if seconds is not None and event.kind == "finished" else []
            by = ["by another run"] if event.kind == "elsewhere" else []
            self._say("finished", label, *found, *took, *by)

    def _running_line(self, event: Event) -> None:
        scene = self.scene()
        told = f"{self._heard.label(event.trial_id)}: {describe_event(event)}"
        self._said = self._clock()
        self._console.print(Text("  ".join([self._count("running"), summary_line(scene), told])))

    def _say(self, word: str, *parts: str, style: str = "") -> None:
        self._said = self._clock()
        time_left = "" if self._drawn else self.scene().eta
        line = "  ".join(part for part in (self._count(word), *parts, time_left) if part)
        self._console.print(Text(line, style=style))

    def _count(self, word: str) -> str:
        return f"{word:<9} {len(self._tally.over):>{len(str(self._total))}}/{self._total}"
