"""What a task sequence kept of what it learned: ACC, forgetting and backward transfer of an R matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Continual:
    """Average accuracy, forgetting measure and backward transfer, in the metric's own unit, or None where undefined.

    `fm` above 0 means that earlier tasks got worse; `bwt` below 0 means the same, against the state right after
    each task instead of its best one.
    """

    acc: float | None
    fm: float | None
    bwt: float | None


def continual(r: Sequence[Sequence[float | None]] | npt.NDArray[np.floating[Any]]) -> Continual:
    """Summarise R, where R[i, j] is a metric on task j after training task i; T is the last task.

    ACC = 1/T sum_j R[T, j]
    FM  = 1/(T-1) sum_{j<T} (max_{j<=i<T} R[i, j] - R[T, j])
    BWT = 1/(T-1) sum_{j<T} (R[T, j] - R[j, j])

    The last task is in ACC alone: nothing was trained after it, so it can be neither forgotten nor improved. FM looks
    for a task's best value from the row in which it was learned to the last row but one; it is negative when every
    later task helped. With one task FM and BWT are None.

    ACC and BWT: D. Lopez-Paz and M. Ranzato, "Gradient Episodic Memory", NeurIPS 2017. FM: A. Chaudhry et al.,
    "Riemannian Walk", ECCV 2018. In pyCLAD's repository ACC is FinalStepAverage (which skips undefined entries) and FM
    is FinalStepForgettingMeasure. Its BackwardTransfer (0.3.0: mean of R[i, j] - R[i-1, j] over all i > j) and its
    ContinualAverage (mean of the whole triangle) are other numbers than BWT and ACC.

    Args:
        r: T rows; row i has at least i+1 entries, of which only the first i+1 are read (the lower triangle).
            An entry that is undefined, such as a pixel metric of a class without masks, is None or NaN.

    Returns:
        A summary that would need an undefined entry is None: a mean over fewer tasks would look like the mean over all.

    Raises:
        ValueError: no rows, a row too short for its triangle, or an infinite entry.
    """
    tasks = len(r)
    if tasks == 0:
        raise ValueError("R has no rows: give one for each task of the sequence")
    lower = np.full((tasks, tasks), np.nan)
    for i, row in enumerate(r):
        if len(row) < i + 1:
            raise ValueError(f"row {i} of R has {len(row)} entries: after task {i} there are {i + 1} to give")
        lower[i, : i + 1] = [np.nan if value is None else value for value in row[: i + 1]]
    if np.isinf(lower).any():
        raise ValueError("R holds an infinite entry: give a finite number, or None where the metric is undefined")
    acc, fm, bwt = (None if np.isnan(value) else float(value) for value in continual_table(lower[None])[0])
    return Continual(acc, fm, bwt)


def continual_table(r: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """ACC, FM and BWT of many R at once, as `continual` defines them.

    Args:
        r: (N, T, T), NaN where undefined; what is above the diagonal is not read.

    Returns:
        (N, 3), NaN where undefined.
    """
    count, tasks = r.shape[:2]
    found = np.full((count, 3), np.nan)
    last = r[:, -1]
    found[:, 0] = np.mean(last, axis=1)
    if tasks > 1:
        learned = np.diagonal(r, axis1=1, axis2=2)
        best = np.stack([r[:, j:-1, j].max(axis=1) for j in range(tasks - 1)], axis=1)  # NaN wherever one entry is NaN
        found[:, 1] = np.mean(best - last[:, :-1], axis=1)
        found[:, 2] = np.mean(last[:, :-1] - learned[:, :-1], axis=1)
    return found
