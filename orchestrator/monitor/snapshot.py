"""A running sweep at one moment, drawn as a picture for a terminal or as one line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from orchestrator.records.trial_state import State

BAR_WIDTH = 16
UNKNOWN = "ETA …"


@dataclass(frozen=True)
class RunningTrialRow:
    """A running trial: its name, activity, the share that is done (0 to 1) and the seconds left."""

    label: str
    activity: str
    share: float | None = None
    left_s: float | None = None


@dataclass(frozen=True)
class ProgressSnapshot:
    """A sweep at one moment.

    Attributes:
        counts: the number of trials in each state; states without trials are not shown.
        rows: the running trials.
        trials_an_hour: trials that end per hour.
        epochs_a_second: epochs trained per second.
        best: label and mean image AUROC of the best finished trial, of those whose end was seen.
        use: memory and GPUs in use, in words.
        left_s: seconds to the end; None while it is unknown.
        over: whether nothing runs or waits.

    """

    counts: Mapping[State, int]
    rows: tuple[RunningTrialRow, ...] = ()
    trials_an_hour: float | None = None
    epochs_a_second: float | None = None
    best: tuple[str, float] | None = None
    use: tuple[str, ...] = ()
    left_s: float | None = None
    over: bool = False

    @property
    def eta(self) -> str:
        """The time left in words; empty when the sweep is over."""
        return "" if self.over else eta_text(self.left_s)

    @property
    def speed(self) -> str:
        """The known speeds in words."""
        speeds = ((self.trials_an_hour, "trials/h"), (self.epochs_a_second, "epochs/s"))
        return ", ".join(
            f"{rate:.3g} {per}" if rate < 100 else f"{rate:,.0f} {per}" for rate, per in speeds if rate is not None
        )

    @property
    def best_so_far(self) -> str:
        """The best trial so far in words."""
        return "" if self.best is None else f"best so far: image AUROC {self.best[1]:.4f} ({self.best[0]})"


def summary_line(snapshot: ProgressSnapshot, counts: bool = True) -> str:
    """The snapshot without its running trials, in one line."""
    parts = [counts_text(snapshot.counts) if counts else "", snapshot.speed, snapshot.best_so_far, snapshot.eta]
    return "  ".join(part for part in parts if part)


def snapshot_picture(snapshot: ProgressSnapshot, most: int) -> RenderableType:
    """The snapshot for a terminal: at most `most` running trials, then the whole sweep."""
    grid = Table.grid(
        Column(no_wrap=True, overflow="ellipsis"),
        Column(width=BAR_WIDTH),
        Column(no_wrap=True, justify="right", min_width=4),
        Column(no_wrap=True, overflow="ellipsis"),
        Column(no_wrap=True),
        padding=(0, 2, 0, 0),
    )
    for row in snapshot.rows[:most]:
        share = "" if row.share is None else f"{100 * row.share:.0f}%"
        bar = ProgressBar(total=1.0, completed=row.share or 0.0, width=BAR_WIDTH)
        grid.add_row(
            Text(row.label), bar, share, Text(row.activity), "" if row.left_s is None else eta_text(row.left_s)
        )
    rest = snapshot.rows[most:]
    more = [_cut(f"and {len(rest)} more running")] if rest else []
    total = sum(snapshot.counts.values())
    waiting = {*(state for state, n in snapshot.counts.items() if n)} == {"waiting"}
    left = "workers are starting" if waiting else snapshot.eta
    lines = ["  ".join(part for part in (f"trials:   {total}: {counts_text(snapshot.counts)}", left) if part)]
    lines += [f"speed:    {snapshot.speed}"] if snapshot.speed else []
    lines += [f"best:     {snapshot.best[1]:.4f} image AUROC  {snapshot.best[0]}"] if snapshot.best else []
    lines += [f"in use:   {', '.join(snapshot.use)}"] if snapshot.use else []
    return Group(*([grid] if snapshot.rows else []), *more, *map(_cut, lines))


def snapshot_lines(snapshot: ProgressSnapshot) -> int:
    """The number of lines of a picture without those of the running trials."""
    return 2 + sum(map(bool, (snapshot.speed, snapshot.best, snapshot.use)))


def counts_text(counts: Mapping[State, int]) -> str:
    """The number of trials in each state, such as `1 running, 3 finished`."""
    return ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "none"


def eta_text(seconds: float | None) -> str:
    """`ETA` and the time left."""
    return UNKNOWN if seconds is None else f"ETA {duration_text(seconds)}"


def duration_text(seconds: float) -> str:
    """A duration such as 9 s, 3 min 20 s or 2 h 5 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _cut(words: str) -> Text:
    return Text(words, no_wrap=True, overflow="ellipsis")
