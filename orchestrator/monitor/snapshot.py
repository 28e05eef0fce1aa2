"""A running sweep at one moment, drawn as a picture for a terminal or as one line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from orchestrator.host.durations import duration_text
from orchestrator.records.trial_state import State

BAR_WIDTH = 16
_LEAST_OF_LABEL = 8
"""Characters of a trial's settings that stay in sight in front of its seed."""
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
        split: the images that the best trial was judged by, test or validation.

    """

    counts: Mapping[State, int]
    rows: tuple[RunningTrialRow, ...] = ()
    trials_an_hour: float | None = None
    epochs_a_second: float | None = None
    best: tuple[str, float] | None = None
    use: tuple[str, ...] = ()
    left_s: float | None = None
    over: bool = False
    split: str = "test"

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
        return "" if self.best is None else f"best so far: {self.split} image AUROC {self.best[1]:.4f} ({self.best[0]})"


class TrialLabel:
    """A trial's name, cut before its seed where there is no room.

    Args:
        label: settings and, at the end, the seed.
    """

    def __init__(self, label: str) -> None:
        self._label = label

    @property
    def _end(self) -> str:
        return self._label[self._label.rfind(" ") :] if " seed=" in self._label else ""

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        whole = cell_len(self._label)
        return Measurement(min(whole, cell_len(self._end) + _LEAST_OF_LABEL), whole)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width - cell_len(self._end) - 1
        cut = cell_len(self._label) > options.max_width and self._end and room > 0
        yield _cut(f"{set_cell_size(self._label, room)}…{self._end}" if cut else self._label)


def summary_line(snapshot: ProgressSnapshot, counts: bool = True) -> str:
    """The snapshot without its running trials, in one line."""
    parts = [counts_text(snapshot.counts) if counts else "", snapshot.speed, snapshot.best_so_far, snapshot.eta]
    return "  ".join(part for part in parts if part)


def snapshot_picture(snapshot: ProgressSnapshot, most: int) -> RenderableType:
    """The snapshot for a terminal: at most `most` running trials, then the whole sweep."""
    grid = Table.grid(
        Column(),  # The two of words give way first.
        Column(width=BAR_WIDTH),
        Column(no_wrap=True, justify="right", min_width=4),
        Column(),
        Column(no_wrap=True),
        padding=(0, 2, 0, 0),
    )
    for row in snapshot.rows[:most]:
        share = "" if row.share is None else f"{100 * row.share:.0f}%"
        bar = ProgressBar(total=1.0, completed=row.share or 0.0, width=BAR_WIDTH)
        grid.add_row(
            TrialLabel(row.label), bar, share, _cut(row.activity), "" if row.left_s is None else eta_text(row.left_s)
        )
    rest = snapshot.rows[most:]
    more = [_cut(f"and {len(rest)} more running")] if rest else []
    total = sum(snapshot.counts.values())
    waiting = {*(state for state, n in snapshot.counts.items() if n)} == {"waiting"}
    left = "workers are starting" if waiting else snapshot.eta
    lines = ["  ".join(part for part in (f"trials:   {total}: {counts_text(snapshot.counts)}", left) if part)]
    lines += [f"speed:    {snapshot.speed}"] if snapshot.speed else []
    lines += (
        [f"best:     {snapshot.best[1]:.4f} {snapshot.split} image AUROC  {snapshot.best[0]}"] if snapshot.best else []
    )
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


def _cut(words: str) -> Text:
    return Text(words, no_wrap=True, overflow="ellipsis")
