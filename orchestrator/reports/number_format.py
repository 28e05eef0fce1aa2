"""Numbers as tables show them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt

pass
from orchestrator.reports.render import ABSENT, Cell

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation (ddof = 1) over n seeds; None where there are too few."""

    mean: float | None
    sd: float | None
    n: int


def summarise(values: Sequence[float] | Reals) -> Summary:
    """The summary of one value for each seed."""
    found = np.asarray(values, dtype=np.float64)
    if not len(found):
        return Summary(None, None, 0)
    mean = fmean(found.tolist())
    return Summary(mean, _about(mean, found) if len(found) > 1 else None, len(found))


def stdev(values: Sequence[float]) -> float:
    """The standard deviation (ddof = 1) of two values or more, in floating point, with sums that are exact but for their last rounding.

    `statistics.stdev` computes in fractions, which takes longer than all the rest of a report of many seeds.
    """
    return _about(fmean(values), np.asarray(values))


def _about(mean: float, values: Reals) -> float:
    if values.min() == values.max():  # Exactly 0, whatever the rounding of the mean.
        return 0.0
    squares: list[float] = ((values - mean) ** 2).tolist()
    return math.sqrt(math.fsum(squares) / (len(values) - 1))


def number(value: float, share: bool = False) -> str:
    """A metric with four decimals, or a `share` in percent (100% only when it is exactly 1)."""
    if not share:
        return f"{value:.4f}"
    return "100%" if value == 1 else f"{100 * value:.1f}%"


def summary_text(summary: Summary, seeds: int, share: bool = False) -> str:
    """`mean ± sd`, with its own n where some of the `seeds` have no value."""
    if summary.mean is None:
        return ABSENT
    spread = "" if summary.sd is None else f" ± {_spread(summary.sd, share)}"
    own_n = "" if summary.n == seeds else f" (n={summary.n})"
    return f"{number(summary.mean, share)}{spread}{own_n}"


def _spread(sd: float, share: bool) -> str:
    return number(sd) if not share else "0%" if sd == 0 else f"{100 * sd:.1f}%"


def metric_cells(summaries: Sequence[Summary], seeds: Sequence[int], share: bool = False) -> tuple[Cell, ...]:
    """One row of a metric, the best mean in bold unless all columns show the same; what shows alike ties."""
    shown = [None if s.mean is None else number(s.mean, share) for s in summaries]
    known = [s.mean for s in summaries if s.mean is not None]
    best = number(max(known), share) if known else None
    differ = len({text for text in shown if text is not None}) > 1
    columns = zip(summaries, seeds, shown, strict=True)
    return tuple(Cell(summary_text(summary, n, share), differ and text == best) for summary, n, text in columns)


def change(baseline: Summary, other: Summary) -> float | None:
    """(b - a) / a of the means; None where one is missing or a is 0."""
    if baseline.mean is None or other.mean is None or baseline.mean == 0:
        return None
    return (other.mean - baseline.mean) / baseline.mean


def change_text(value: float | None) -> str:
    """A change in percent with one decimal, two where one would show nothing."""
    if value is None:
        return ABSENT
    percent = 100 * value
    if abs(percent) < 0.005:
        return "0.0%"
    return f"{percent:+.2f}%" if abs(percent) < 0.05 else f"{percent:+.1f}%"


def setting_text(value: object) -> str:
    """A setting's value as tables show it: 2.0 and 2 are both `2`."""
    value = plain_value(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def plain_value(value: object) -> object:
    """A JSON value in which whole reals are integers, so that values that are equal look equal."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain_value(item) for key, item in value.items()}
    return value
