"""Thresholds of the image score at a false-positive rate, from scores of normal images.

They are those of split conformal prediction. With the n scores of one task sorted, the threshold is
the one at place k:

    k = n + 1 - floor((n + 1) * rate)

A new normal image of the same kind then scores above it with a probability of at most `rate`
(Vovk, Gammerman and Shafer 2005). Fewer than 1 / rate - 1 normal images support no such rate: the
largest score then holds for the rate 1 / (n + 1) alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_ROUNDING = 1e-9  # (n + 1) * rate may lie below a whole number by rounding alone.


@dataclass(frozen=True)
class Threshold:
    """A threshold of the image score; what lies above it counts as anomalous.

    Attributes:
        value: the score.
        rate: the false-positive rate that it holds; None for a threshold that the user gave.
        normals: the number of normal images behind it.
    """

    value: float
    rate: float | None = None
    normals: int = 0


def conformal_threshold(scores: Sequence[float], rate: float) -> Threshold:
    """Return the threshold at a false-positive rate.

    Args:
        scores: scores of normal images of one task that took no part in training; at least one.
        rate: the rate, above 0 and below 1.
    """
    count = len(scores)
    above = math.floor((count + 1) * rate + _ROUNDING)
    place = min(count, count + 1 - above)
    held = rate if above >= 1 else 1 / (count + 1)
    return Threshold(sorted(scores)[max(0, place - 1)], held, count)


def thresholds_by_task(scored: Iterable[tuple[int, float]], rate: float) -> dict[int, Threshold]:
    """Return {task: threshold} from the (routed task, score) of normal images.

    Scores of two tasks have no common scale, so each task has its own threshold. A task to which no
    normal image was routed has none.
    """
    of_task: dict[int, list[float]] = {}
    for task, score in scored:
        of_task.setdefault(task, []).append(score)
    return {task: conformal_threshold(scores, rate) for task, scores in sorted(of_task.items())}


def threshold_lines(thresholds: Mapping[int, Threshold], names: Sequence[str], asked: float | None) -> list[str]:
    """Return one line a task about its threshold, for the reader.

    Args:
        thresholds: the thresholds by task.
        names: the name of each task.
        asked: the false-positive rate that was asked for; None for a threshold that was given.
    """
    lines = []
    for task, name in enumerate(names):
        of = thresholds.get(task)
        if of is None:
            lines.append(f"{name}: no threshold, as no normal image was routed to it")
        elif of.rate is None or asked is None:
            lines.append(f"{name}: {of.value:.6g}, as given")
        elif of.rate > asked:
            needed = math.ceil(1 / asked - _ROUNDING) - 1
            lines.append(
                f"{name}: {of.value:.6g}, false-positive rate at most {of.rate:.1%}: {of.normals} normal images support "
                f"no lower rate, {asked:.1%} needs {needed}"
            )
        else:
            lines.append(
                f"{name}: {of.value:.6g}, false-positive rate at most {of.rate:.1%} by {of.normals} normal images"
            )
    return lines
