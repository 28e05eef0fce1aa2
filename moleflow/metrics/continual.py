"""Metrics of a task sequence: average accuracy, forgetting and backward transfer of an R matrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def continual_table(r: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return ACC, FM and BWT of N matrices R at once, in the unit of the metric in R.

    R[i, j] is a metric on task j after training task i. T is the last task.

        ACC = 1/T sum_j R[T, j]
        FM  = 1/(T-1) sum_{j<T} (max_{j<=i<T} R[i, j] - R[T, j])
        BWT = 1/(T-1) sum_{j<T} (R[T, j] - R[j, j])

    The last task enters ACC only: nothing was trained after it, so it can be neither forgotten nor
    improved. FM takes a task's best value from the row in which it was learned to the last row but
    one. FM above 0 means that earlier tasks got worse; FM is negative when every later task helped.
    BWT below 0 means that earlier tasks got worse than right after their training.

    Sources: D. Lopez-Paz and M. Ranzato, "Gradient Episodic Memory", NeurIPS 2017 (ACC, BWT);
    A. Chaudhry et al., "Riemannian Walk", ECCV 2018 (FM). In pyCLAD, ACC is FinalStepAverage (which
    skips undefined entries) and FM is FinalStepForgettingMeasure. Its BackwardTransfer (0.3.0: mean
    of R[i, j] - R[i-1, j] over i > j) and its ContinualAverage (mean of the triangle) differ from
    BWT and ACC.

    Args:
        r: (N, T, T), NaN where undefined; entries above the diagonal are not read.

    Returns:
        (N, 3). NaN where a summary needs an undefined entry: a mean over fewer tasks would look
        like the mean over all. With one task FM and BWT are NaN.
    """
    count, tasks = r.shape[:2]
    table = np.full((count, 3), np.nan)
    last = r[:, -1]
    table[:, 0] = np.mean(last, axis=1)
    if tasks > 1:
        learned = np.diagonal(r, axis1=1, axis2=2)
        # numpy's max is NaN wherever one entry is.
        best = np.stack([r[:, j:-1, j].max(axis=1) for j in range(tasks - 1)], axis=1)
        table[:, 1] = np.mean(best - last[:, :-1], axis=1)
        table[:, 2] = np.mean(last[:, :-1] - learned[:, :-1], axis=1)
    return table
