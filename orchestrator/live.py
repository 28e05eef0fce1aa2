"""What a person sees while a sweep runs: bars with an ETA, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from orchestrator.events import ENDS, Event
from orchestrator.runner import Tally

PLAIN_EVERY_S = 30.0


class LiveView:
    """Shows the events of a run.

    On a terminal each running trial has a bar. Elsewhere each trial that ends has a line, and so has, twice a minute at
    most, what is running.

    Args:
        console: where to.
        labels: readable names by trial id.
        total: how many trials this run has to do.
        tally: what became of them so far; it has heard of an event before `show` does.
        quiet: show nothing.
        clock: seconds, from anywhere.

    """

    def __init__(
        self,
        console: Console,
        labels: Mapping[str, str],
        total: int,
        tally: Tally,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._labels, self._total, self._tally, self._quiet = console, labels, total, tally, quiet
        self._clock = clock
        self._said = clock()
        self._start: float | None = None
        self._share: dict[str, float] = {}
        self._lines: dict[str, TaskID] = {}
        self._held: set[str] = set()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,
        )
        self._bar = self._progress.add_task("trials", total=total, note="starting")

    def __enter__(self) -> LiveView:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Take an event in."""
        label = self._labels.get(event.trial_id, event.trial_id)
        facts = event.facts
        if event.kind == "started" and self._start is None:
            self._start = self._clock()  # What it takes to start workers says nothing about the trials.
        elif event.kind == "features":
            self._line(
                event.trial_id, label, facts["done"], facts["total"], f"features {facts['done']}/{facts['total']}"
            )
        elif event.kind == "epoch":
            done, total = facts["task"] * facts["epochs"] + facts["epoch"], facts["tasks"] * facts["epochs"]
            self._share[event.trial_id] = done / total
            note = f"{facts['task_name']} epoch {facts['epoch']}/{facts['epochs']} loss {facts['loss']:.4g}"
            self._line(event.trial_id, label, done, total, note)
        elif event.kind == "task":
            self._share[event.trial_id] = (facts["task"] + 1) / facts["tasks"]
        elif event.kind in ENDS:
            self._end(event, label)
        self._progress.update(self._bar, completed=len(self._tally.over), note=self.eta())

    def eta(self) -> str:
        """The time left, from the share of all trials that is done: whole trials and the epochs of running ones."""
        done = len(self._tally.over) + sum(self._share.values())
        if len(self._tally.over) >= self._total:
            return ""
        elapsed = 0.0 if self._start is None else self._clock() - self._start
        if done < 0.05 or elapsed < 1.0:
            return "ETA …"
        return f"ETA {_spelled(elapsed * (self._total - done) / done)}"

    def _line(self, trial_id: str, label: str, done: int, total: int, note: str) -> None:
        if trial_id not in self._lines:
            self._lines[trial_id] = self._progress.add_task(label, total=total, note=note)
        self._progress.update(self._lines[trial_id], completed=done, total=total, note=note)
        if not self._console.is_terminal and self._clock() - self._said >= PLAIN_EVERY_S:
            self._say("running", label, note)

    def _end(self, event: Event, label: str) -> None:
        line = self._lines.pop(event.trial_id, None)
        if line is not None:
            self._progress.remove_task(line)
        self._share.pop(event.trial_id, None)
        facts = event.facts
        if event.kind == "held" and event.trial_id not in self._held:
            self._held.add(event.trial_id)
            self._say("waiting", label, f"another run is at it ({facts.get('by')})")
        elif event.kind == "failed":
            again = "" if event.trial_id in self._tally.over else "; it will be tried again"
            self._say("failed", label, f"{facts.get('error')}{again}", style="red")
        elif event.kind in ("cancelled", "pruned"):
            self._say(event.kind, label, "")
        elif event.kind in ("finished", "elsewhere", "interrupted"):
            auroc, seconds = facts.get("image_auroc"), facts.get("seconds")
            found = [f"image AUROC {auroc:.4f}"] if auroc is not None else []
            took = [f"{seconds:.1f} s"] if seconds is not None and event.kind == "finished" else []
            by = ["by another run"] if event.kind == "elsewhere" else []
            self._say(
                "interrupted" if event.kind == "interrupted" else "finished", label, "  ".join([*found, *took, *by])
            )

    def _say(self, word: str, label: str, what: str, style: str = "") -> None:
        self._said = self._clock()
        if not self._quiet:
            count = f"{len(self._tally.over):>{len(str(self._total))}}/{self._total}"
            parts = [f"{word:<9} {count}", label, what, self.eta()]
            self._console.print(Text("  ".join(part for part in parts if part), style=style))


def _spelled(seconds: float) -> str:
    """A time left as 9 s, 3 min 20 s or 2 h 5 min."""
    rounded = round(seconds)
    minutes, rest = divmod(rounded, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
