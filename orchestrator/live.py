"""What a person sees while a sweep runs: a bar with an ETA and a line per running trial, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from orchestrator.events import ENDS, Event


class LiveView:
    """Shows the events of a run.

    Args:
        labels: readable names by trial id.
        total: how many trials this run has to do.

    """

    def __init__(self, console: Console, labels: Mapping[str, str], total: int, quiet: bool = False) -> None:
        self._console, self._labels, self._total, self._quiet = console, labels, total, quiet
        self._start = time.monotonic()
        self._share: dict[str, float] = {}
        self._ended: set[str] = set()
        self._lines: dict[str, TaskID] = {}
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,
        )
        self._bar = self._progress.add_task("trials", total=total, note="")

    def __enter__(self) -> LiveView:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Take an event in."""
        label = self._labels.get(event.trial_id, event.trial_id)
        facts = event.facts
        if event.kind == "features":
            self._line(event.trial_id, label, facts["done"], facts["total"], "features")
        elif event.kind == "epoch":
            done, total = facts["task"] * facts["epochs"] + facts["epoch"], facts["tasks"] * facts["epochs"]
            self._share[event.trial_id] = done / total
            note = f"{facts['task_name']} epoch {facts['epoch']}/{facts['epochs']} loss {facts['loss']:.4g}"
            self._line(event.trial_id, label, done, total, note)
        elif event.kind == "task":
            self._share[event.trial_id] = (facts["task"] + 1) / facts["tasks"]
        elif event.kind in ENDS:
            self._end(event, label)
        self._progress.update(self._bar, completed=len(self._ended), note=self.eta())

    def eta(self) -> str:
        """The time left, from the share of all trials that is done: whole trials and the epochs of running ones."""
        done = len(self._ended) + sum(share for trial, share in self._share.items() if trial not in self._ended)
        elapsed = time.monotonic() - self._start
        if done < 0.05 or elapsed < 1.0:
            return "ETA …"
        return f"ETA {_clock(elapsed * (self._total - done) / done)}"

    def _line(self, trial_id: str, label: str, done: int, total: int, note: str) -> None:
        if trial_id not in self._lines:
            self._lines[trial_id] = self._progress.add_task(label, total=total, note=note)
        self._progress.update(self._lines[trial_id], completed=done, total=total, note=note)

    def _end(self, event: Event, label: str) -> None:
        line = self._lines.pop(event.trial_id, None)
        if line is not None:
            self._progress.remove_task(line)
        self._share.pop(event.trial_id, None)
        if event.kind in ("held", "fatal"):
            return
        if event.kind == "failed":
            self._say(f"[red]failed[/]    {label}: {event.facts.get('error')}")
            return
        self._ended.add(event.trial_id)
        auroc = event.facts.get("image_auroc")
        what = f"image AUROC {auroc:.4f}" if auroc is not None else ""
        seconds = f"{event.facts['seconds']:.1f} s" if "seconds" in event.facts else ""
        word = {"finished": "finished", "elsewhere": "elsewhere", "interrupted": "interrupted"}[event.kind]
        self._say(f"{word:<9} {len(self._ended)}/{self._total}  {label}  {what}  {seconds}  {self.eta()}")

    def _say(self, text: str) -> None:
        if not self._quiet:
            self._console.print(text, highlight=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
