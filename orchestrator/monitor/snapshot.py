"""What is to be seen of a running sweep, and how it is drawn: a picture on a terminal, one line elsewhere."""

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
    """One running trial: its name, what it last told, how much of it is done (0 to 1) and the seconds it has left."""

    label: str
    told: str
    share: float | None = None
    left_s: float | None = None


@dataclass(frozen=True)
class ProgressSnapshot:
    """A sweep at one moment.

    Attributes:
        counts: how many trials are in each state; those of no trial are not shown.
        lines: the running trials.
        trials_an_hour: how fast trials end.
        epochs_a_second: how fast they train.
        best: the label and the mean image AUROC of the best trial that has finished, of those that were heard of.
        use: what is in use of memory and GPUs, in words.
        left_s: seconds to the end; None where nothing tells.
        over: whether there is nothing left to wait for.

    """

    counts: Mapping[State, int]
    lines: tuple[RunningTrialRow, ...] = ()
    trials_an_hour: float | None = None
    epochs_a_second: float | None = None
    best: tuple[str, float] | None = None
    use: tuple[str, ...] = ()
    left_s: float | None = None
    over: bool = False

    @property
    def eta(self) -> str:
        """The time left in words; nothing when it is over."""
        return "" if self.over else eta_text(self.left_s)

    @property
    def speed(self) -> str:
        """The speeds that are known."""
        known = ((self.trials_an_hour, "trials/h"), (self.epochs_a_second, "epochs/s"))
        return ", ".join(
            f"{rate:.3g} {per}" if rate < 100 else f"{rate:,.0f} {per}" for rate, per in known if rate is not None
        )

    @property
    def best_so_far(self) -> str:
        """The best trial so far, in words."""
        return "" if self.best is None else f"best so far: image AUROC {self.best[1]:.4f} ({self.best[0]})"


def summary_line(scene: ProgressSnapshot, counts: bool = True) -> str:
    """The scene without its trials, in one line."""
    parts = [counts_text(scene.counts) if counts else "", scene.speed, scene.best_so_far, scene.eta]
    return "  ".join(part for part in parts if part)


def snapshot_picture(scene: ProgressSnapshot, most: int) -> RenderableType:
    """The scene for a terminal: a line for each of at most `most` running trials, and under them what holds of all."""
    grid = Table.grid(
        Column(no_wrap=True, overflow="ellipsis"),
        Column(width=BAR_WIDTH),
        Column(no_wrap=True, justify="right", min_width=4),
        Column(no_wrap=True, overflow="ellipsis"),
        Column(no_wrap=True),
        padding=(0, 2, 0, 0),
    )
    for line in scene.lines[:most]:
        share = "" if line.share is None else f"{100 * line.share:.0f}%"
        bar = ProgressBar(total=1.0, completed=line.share or 0.0, width=BAR_WIDTH)
        grid.add_row(
            Text(line.label), bar, share, Text(line.told), "" if line.left_s is None else eta_text(line.left_s)
        )
    rest = scene.lines[most:]
    more = [_cut(f"and {len(rest)} more running")] if rest else []
    total = sum(scene.counts.values())
    waiting = {*(state for state, n in scene.counts.items() if n)} == {"waiting"}
    left = "workers are starting" if waiting else scene.eta
    said = ["  ".join(part for part in (f"trials:   {total}: {counts_text(scene.counts)}", left) if part)]
    said += [f"speed:    {scene.speed}"] if scene.speed else []
    said += [f"best:     {scene.best[1]:.4f} image AUROC  {scene.best[0]}"] if scene.best else []
    said += [f"in use:   {', '.join(scene.use)}"] if scene.use else []
    return Group(*([grid] if scene.lines else []), *more, *map(_cut, said))


def snapshot_lines(scene: ProgressSnapshot) -> int:
    """How many lines a picture has beside those of the trials."""
    return 2 + sum(map(bool, (scene.speed, scene.best, scene.use)))


def counts_text(counts: Mapping[State, int]) -> str:
    """How many trials are in each state: `1 running, 3 finished`."""
    return ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "none"


def eta_text(seconds: float | None) -> str:
    """`ETA` and a time left."""
    return UNKNOWN if seconds is None else f"ETA {duration_text(seconds)}"


def duration_text(seconds: float) -> str:
    """A time as 9 s, 3 min 20 s or 2 h 5 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _cut(words: str) -> Text:
    return Text(words, no_wrap=True, overflow="ellipsis")
