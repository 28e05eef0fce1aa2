"""Metrics of a task sequence: average accuracy, forgetting and backward transfer of an R matrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def continual_table(
    r: npt.NDArray[np.float64], task_of: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.float64]:
    """Return ACC, FM and BWT of N matrices R at once, in the unit of the metric in R.

    R[i, j] is a metric on task j after training task i. T is the last task.

        ACC = 1/T sum_j R[T, j]
        FM  = 1/(T-1) sum_{j<T} (max_{j<=i<T} R[i, j] - R[T, j])
        BWT = 1/(T-1) sum_{j<T} (R[T, j] - R[j, j])

    The last task enters ACC only: nothing was trained after it, so it can be neither forgotten nor
    improved. FM takes a task's best value from the row in which it was learned to the last row but
    one. FM above 0 means that earlier tasks got worse; FM is negative when every later task helped.
    BWT below 0 means that earlier tasks got worse than right after their training.

    If tasks have several classes, a column of R is a class, and the means above are over classes:
    ACC over all of them, FM and BWT over those of all tasks but the last. `mean_over_classes` gives
    the matrix for means over tasks.

    Sources: D. Lopez-Paz and M. Ranzato, "Gradient Episodic Memory", NeurIPS 2017 (ACC, BWT);
    A. Chaudhry et al., "Riemannian Walk", ECCV 2018 (FM). In pyCLAD, ACC is FinalStepAverage (which
    skips undefined entries) and FM is FinalStepForgettingMeasure. Its BackwardTransfer (0.3.0: mean
    of R[i, j] - R[i-1, j] over i > j) and its ContinualAverage (mean of the triangle) differ from
    BWT and ACC.

    Args:
        r: (N, T, T), or (N, T, C) with `task_of`; NaN where undefined. Entries above the diagonal
            are not read.
        task_of: (C,) the task of each class, ascending from 0; None if each task is one class.

    Returns:
        (N, 3). NaN where a summary needs an undefined entry: a mean over fewer tasks would look
        like the mean over all. With one task FM and BWT are NaN.
    """
    count, tasks = r.shape[:2]
    learned_after = range(tasks) if task_of is None else task_of.tolist()
    table = np.full((count, 3), np.nan)
    last = r[:, -1]
    table[:, 0] = np.mean(last, axis=1)
    if tasks > 1:
        earlier = [(after, j) for j, after in enumerate(learned_after) if after < tasks - 1]
        learned = np.stack([r[:, after, j] for after, j in earlier], axis=1)
        # numpy's max is NaN wherever one entry is.
        best = np.stack([r[:, after:-1, j].max(axis=1) for after, j in earlier], axis=1)
        table[:, 1] = np.mean(best - last[:, : len(earlier)], axis=1)
        table[:, 2] = np.mean(last[:, : len(earlier)] - learned, axis=1)
    return table


def mean_over_classes(r: npt.NDArray[np.float64], task_of: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return matrices (N, T, T) over tasks: the mean over the classes of each task.

    Args:
        r: (N, T, C), NaN where undefined; a task whose class lacks the metric lacks it too.
        task_of: (C,) the task of each class, ascending from 0.
    """
    tasks = range(int(task_of.max()) + 1)
    return np.stack([r[:, :, task_of == task].mean(axis=2) for task in tasks], axis=2)
