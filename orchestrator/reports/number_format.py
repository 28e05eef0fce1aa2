"""Summaries of values over seeds, and the text of numbers and settings in tables."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from moleflow.settings.task_list import sequence_text
from orchestrator.reports.render import ABSENT, Cell

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation (ddof 1) over n seeds; None where there are too few."""

    mean: float | None
    sd: float | None
    n: int


def summarise(values: Sequence[float] | Reals) -> Summary:
    """Return the summary of one value per seed."""
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        return Summary(None, None, 0)
    mean = fmean(array.tolist())
    return Summary(mean, _spread(array, mean) if len(array) > 1 else None, len(array))


def stdev(values: Sequence[float]) -> float:
    """Return the standard deviation (ddof 1) of two or more values.

    `statistics.stdev` computes in fractions. With many seeds that takes longer than the rest of a
    report, so this one computes in floating point and rounds each sum once (`math.fsum`).
    """
    return _spread(np.asarray(values), fmean(values))


def _spread(values: Reals, mean: float) -> float:
    # Equal values give exactly 0, although their rounded mean may differ from them.
    if values.min() == values.max():
        return 0.0
    squares: list[float] = ((values - mean) ** 2).tolist()
    return math.sqrt(math.fsum(squares) / (len(values) - 1))


def metric_text(value: float, share: bool = False) -> str:
    """Return a metric with four decimals, or a `share` in percent.

    A share reads `100%` only when it is exactly 1, so that 0.9999 is not taken for perfect.
    """
    if not share:
        return f"{value:.4f}"
    return "100%" if value == 1 else f"{100 * value:.1f}%"


def summary_text(summary: Summary, seeds: int, share: bool = False) -> str:
    """Return `mean ± sd`, followed by `(n=…)` if fewer than `seeds` seeds have a value."""
    if summary.mean is None:
        return ABSENT
    spread = "" if summary.sd is None else f" ± {_sd_text(summary.sd, share)}"
    own_n = "" if summary.n == seeds else f" (n={summary.n})"
    return f"{metric_text(summary.mean, share)}{spread}{own_n}"


def _sd_text(sd: float, share: bool) -> str:
    return metric_text(sd) if not share else "0%" if sd == 0 else f"{100 * sd:.1f}%"


def metric_cells(
    summaries: Sequence[Summary], seeds: Sequence[int], share: bool = False, bold: Collection[int] | None = None
) -> tuple[Cell, ...]:
    """Return one row of a metric, with the columns `bold` in bold; None = those of the best mean.

    Means that read alike tie. Nothing is bold where all columns read alike.
    """
    columns = list(zip(summaries, seeds, strict=True))
    if bold is not None:
        return tuple(Cell(summary_text(s, n, share), k in bold) for k, (s, n) in enumerate(columns))
    texts = {s.mean: metric_text(s.mean, share) for s in summaries if s.mean is not None}
    best = texts[max(texts)] if len(set(texts.values())) > 1 else None
    return tuple(Cell(summary_text(s, n, share), s.mean is not None and texts[s.mean] == best) for s, n in columns)


def relative_change(baseline: Summary, other: Summary) -> float | None:
    """Return (b - a) / a of the means; None where one is missing or a is 0."""
    if baseline.mean is None or other.mean is None or baseline.mean == 0:
        return None
    return (other.mean - baseline.mean) / baseline.mean


def change_text(value: float | None) -> str:
    """Return a relative change in percent, with a second decimal where one would read as zero."""
    if value is None:
        return ABSENT
    percent = 100 * value
    if abs(percent) < 0.005:
        return "0.0%"
    return f"{percent:+.2f}%" if abs(percent) < 0.05 else f"{percent:+.1f}%"


def difference_text(value: float | None) -> str:
    """Return a difference with its sign and four decimals; zero is `+0.0000`, never `-0.0000`."""
    return ABSENT if value is None else f"{round(value, 4) + 0.0:+.4f}"


def interval_text(low: float | None, high: float | None) -> str:
    """Return an interval of a difference, `+0.0100 to +0.0300`."""
    return ABSENT if low is None or high is None else f"{difference_text(low)} to {difference_text(high)}"


def setting_text(value: object) -> str:
    """Return a setting's value as tables show it: 2.0 and 2 are both `2`.

    Tasks of which one has several classes are a sequence: `bolt+nut -> seal`.
    """
    value = plain_value(value)
    if isinstance(value, list) and any(isinstance(item, list) for item in value):
        return sequence_text(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def plain_value(value: object) -> object:
    """Return a JSON value with whole reals as integers, so that equal values read alike."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain_value(item) for key, item in value.items()}
    return value


def grouped(pairs: Iterable[tuple[K, V]]) -> dict[K, list[V]]:
    """Return the values of each key, in the order of the pairs."""
    groups: dict[K, list[V]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def code_list(names: Sequence[str]) -> str:
    """Return names set as code and separated by commas."""
    return ", ".join(f"`{name}`" for name in names)
