"""Metrics of every trial after its final task, computed column by column from the stored rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from moleflow.metrics.continual import continual_table, mean_over_classes
from orchestrator.results.schema import DETECTION, boolean_mask, holding, numbers
from orchestrator.results.store import ResultStore

METRICS = ("routing_accuracy", *DETECTION, *(f"oracle_{name}" for name in DETECTION), "normal_latent_norm")
"""The metrics of one class."""
CONTINUAL = ("image_auroc", "pixel_auroc")
"""The metrics of which ACC, FM and BWT are computed."""
MAIN = {"routing_accuracy": "Routing Acc", "image_auroc": "Image AUROC", "pixel_auroc": "Pixel AUROC"}
"""The metrics of the first table with their names in rows."""
MEAN = "Mean"
"""The class name of the row over all classes."""

MEASURES = ("acc", "fm", "bwt")
BY_TASK = tuple(f"task_{measure}_{metric}" for metric in CONTINUAL for measure in MEASURES)
"""ACC, FM and BWT with the mean over the classes of a task first, then over tasks."""
BY_CLASS = (*METRICS, *(f"{measure}_{metric}" for metric in CONTINUAL for measure in MEASURES))
COLUMNS = (*BY_CLASS, *BY_TASK)
_POSITION = {name: k for k, name in enumerate(COLUMNS)}
# Columns that are read of every stored row, and those read only of rows after the final task.
_EVERY_ROW = ["trial_id", "attempt", "split", "after_task", "task", *CONTINUAL]
_FINAL_ROWS = ["task_name", "n_images", "n_anomalous", *METRICS]

Reals = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FinalMetrics(Mapping[tuple[str, str], float | None]):
    """The metrics of one trial after its final task, by (class name, metric); None if undefined.

    The class name `MEAN` stands for the mean over the classes that have the metric. It also has
    ACC, FM and BWT of `CONTINUAL`, which are None if one class lacks the metric. Trials with a task
    of several classes have them by task too (`BY_TASK`).

    Attributes:
        classes: names in task order.
        tasks: the task of each class, from 0.
        images: for each class, how many images were scored and how many of them are defective.
        table: (classes + 1, COLUMNS), NaN where undefined; the last row is that of `MEAN`. Where
            each task is one class, the columns `BY_TASK` equal those by class.
    """

    classes: tuple[str, ...]
    tasks: tuple[int, ...]
    images: tuple[tuple[int, int], ...]
    table: Reals

    @property
    def has_joint_task(self) -> bool:
        """True if some task has several classes."""
        return len(set(self.tasks)) < len(self.tasks)

    @property
    def own_table(self) -> Reals:
        """The table without columns that repeat others."""
        return self.table if self.has_joint_task else self.table[:, : len(BY_CLASS)]

    @cached_property
    def rows(self) -> Mapping[str, int]:
        """The row of each class and of `MEAN` in the table."""
        return {name: k for k, name in enumerate((*self.classes, MEAN))}

    def __getitem__(self, key: tuple[str, str]) -> float | None:
        class_name, metric = key
        value = float(self.table[self.rows[class_name], _POSITION[metric]])
        return None if np.isnan(value) else value

    def __iter__(self) -> Iterator[tuple[str, str]]:
        columns = COLUMNS[: self.own_table.shape[1]]
        yield from ((name, metric) for name in self.rows for metric in columns)

    def __len__(self) -> int:
        return self.own_table.size

    def without_means(self, metrics: Sequence[str]) -> FinalMetrics:
        """Return a copy in which the means of `metrics` over the classes are undefined."""
        table = self.table.copy()
        table[-1, [_POSITION[metric] for metric in metrics]] = np.nan
        return replace(self, table=table)


@dataclass(frozen=True, eq=False)
class FinalMetricsStack:
    """The metrics of several trials of one variant.

    Attributes:
        rows: the row of each class, and of `MEAN`, in the table.
        table: (trials, classes + 1, COLUMNS), NaN also where a trial lacks the class.
    """

    rows: Mapping[str, int]
    table: Reals

    def values(self, class_name: str, metric: str) -> Reals:
        """Return the metric of each trial that has it."""
        if class_name not in self.rows:
            return np.zeros(0)
        column: Reals = self.table[:, self.rows[class_name], _POSITION[metric]]
        return column[~np.isnan(column)]


def stack_metrics(trials: Sequence[FinalMetrics]) -> FinalMetricsStack:
    """Stack the metrics of trials, whose classes may differ."""
    sequences = dict.fromkeys(trial.classes for trial in trials)  # Mostly a single one.
    rows = {name: k for k, name in enumerate(dict.fromkeys(name for of in sequences for name in (*of, MEAN)))}
    targets = {classes: [rows[name] for name in (*classes, MEAN)] for classes in sequences}
    table = np.full((len(trials), len(rows), len(COLUMNS)), np.nan)
    for k, trial in enumerate(trials):
        table[k, targets[trial.classes]] = trial.table
    return FinalMetricsStack(rows, table)


def final_metrics(store: ResultStore, split: str) -> dict[tuple[str, int], FinalMetrics]:
    """Return the final metrics of every stored attempt, by (trial id, number of the attempt).

    Raises:
        InvalidInput, Damaged: as `ResultStore.read`.
    """

    def mark(stored: pa.Table) -> tuple[_Cells, pa.BooleanArray]:
        of_split = holding(stored["split"], split)
        cells = _cells(stored.filter(boolean_mask(of_split)) if not of_split.all() else stored)
        of_split[of_split] = cells.final
        return cells, boolean_mask(of_split)

    # Two reads: only a small share of the rows lies after the final task and needs all columns.
    cells, final_rows = store.read_marked("metrics", _EVERY_ROW, mark, _FINAL_ROWS)
    if not cells.attempts:
        return {}
    tables = _tables(cells, final_rows)
    _set_continual(tables, cells)
    classes = _classes(cells, final_rows)
    return {attempt: FinalMetrics(*classes[n], tables[n]) for n, attempt in enumerate(cells.attempts)}


@dataclass(frozen=True, eq=False)
class _Cells:
    """The cells of R of all attempts for one split: a class of task j scored after task i.

    Attributes:
        attempts: (trial id, number) of each attempt.
        last: (attempts,) the final task of each attempt.
        attempt, after, task: (cells,) position of the attempt in `attempts`, i, and j.
        column: (cells,) position of the class among all classes of its attempt.
        final: (cells,) whether i is the attempt's final task.
        values: {metric of `CONTINUAL`: (cells,) its R[i, j]}.
    """

    attempts: Sequence[tuple[str, int]]
    last: Counts
    attempt: Counts
    after: Counts
    task: Counts
    column: Counts
    final: npt.NDArray[np.bool_]
    values: Mapping[str, Reals]

    @cached_property
    def task_of(self) -> Counts:
        """The task of each attempt's classes (attempts, columns); -1 behind the last class."""
        tasks = np.full((len(self.last), int(self.column.max()) + 1), -1, dtype=np.int64)
        tasks[self.attempt[self.final], self.column[self.final]] = self.task[self.final]
        return tasks

    @property
    def counts(self) -> Counts:
        """The number of classes of each attempt (attempts,)."""
        counts: Counts = (self.task_of >= 0).sum(axis=1)
        return counts


def _cells(stored: pa.Table) -> _Cells:
    trial, number = stored["trial_id"].combine_chunks().dictionary_encode(), numbers(stored["attempt"])
    # One integer for each (trial, attempt); the codes in use, in order, number the attempts.
    base = int(number.max(initial=0)) + 1
    code = numbers(trial.indices) * np.int64(base) + number
    in_use = np.bincount(code) > 0
    attempt = (np.cumsum(in_use) - 1)[code]
    after = numbers(stored["after_task"])
    last = np.zeros(int(in_use.sum()), dtype=np.int64)
    for i in range(int(after.max(initial=-1)) + 1):  # Ascending, so that the final task stays.
        last[attempt[after == i]] = i
    ids = trial.dictionary.to_pylist()
    attempts = [(ids[of // base], of % base) for of in np.flatnonzero(in_use).tolist()]
    values = {metric: numbers(stored[metric]) for metric in CONTINUAL}
    task = numbers(stored["task"]).astype(np.int64)
    column = _columns(attempt, after, task)
    return _Cells(attempts, last, attempt, after, task, column, after == last[attempt], values)


def _columns(attempt: Counts, after: Counts, task: Counts) -> Counts:
    """Return the position of each cell's class among the classes seen, in the order of tasks.

    Within a task they keep the order of the stored rows, which is that of `data.tasks`.
    """
    order = np.lexsort((task, after, attempt))  # Stable.
    column = np.empty_like(task)
    starts = np.flatnonzero(np.diff(attempt[order], prepend=-1) | np.diff(after[order], prepend=-1))
    lengths = np.diff(starts, append=len(order))
    column[order] = np.arange(len(order)) - np.repeat(starts, lengths)
    return column


def _tables(cells: _Cells, final_rows: pa.Table) -> list[Reals]:
    """Return each attempt's table with the means, but without ACC, FM and BWT."""
    counts = cells.counts
    most = int(counts.max())
    table = np.full((len(counts), most + 1, len(COLUMNS)), np.nan)
    target = cells.attempt[cells.final], cells.column[cells.final]
    for k, metric in enumerate(METRICS):
        table[*target, k] = numbers(final_rows[metric])
    # Summed class by class: NumPy's own order of summation, and so the last bits of a mean, would
    # depend on the machine.
    total, known = np.zeros((2, len(counts), len(COLUMNS)))
    for column in range(most):
        total += np.nan_to_num(table[:, column])
        known += ~np.isnan(table[:, column])
    means = np.where(known > 0, total / np.maximum(known, 1), np.nan)
    for n, count in enumerate(counts.tolist()):
        table[n, count] = means[n]
    return [table[n, : count + 1] for n, count in enumerate(counts.tolist())]


def _set_continual(tables: Sequence[Reals], cells: _Cells) -> None:
    """Set ACC, FM and BWT of each attempt from R, by class and by task."""
    last, most = cells.last, cells.task_of.shape[1]
    sequences, group = np.unique(cells.task_of, axis=0, return_inverse=True)
    r = np.empty((len(last), int(last.max()) + 1, most))
    for metric in CONTINUAL:
        r.fill(np.nan)
        r[cells.attempt, cells.after, cells.column] = cells.values[metric]
        by_class, by_task = ([_POSITION[f"{prefix}{of}_{metric}"] for of in MEASURES] for prefix in ("", "task_"))
        for number, sequence in enumerate(sequences):
            task_of = sequence[sequence >= 0]
            members = np.flatnonzero(group == number)
            of_group = r if len(sequences) == 1 else r[members, : int(task_of[-1]) + 1, : len(task_of)]
            measures = _measures(of_group, task_of)
            is_joint = len(np.unique(task_of)) < len(task_of)
            over_tasks = _measures(mean_over_classes(of_group, task_of), np.unique(task_of)) if is_joint else measures
            for n, row, row_by_task in zip(members.tolist(), measures, over_tasks, strict=True):
                tables[n][-1, by_class] = row
                tables[n][-1, by_task] = row_by_task


def _measures(r: Reals, task_of: Counts) -> Reals:
    """Return ACC, FM and BWT (N, 3) of R (N, tasks, columns)."""
    measures = continual_table(r, task_of)
    # FM and BWT do not need the last task, but the three are read together: without ACC none is
    # given.
    measures[np.isnan(measures[:, 0])] = np.nan
    return measures


_Classes = tuple[tuple[str, ...], tuple[int, ...], tuple[tuple[int, int], ...]]


def _classes(cells: _Cells, final_rows: pa.Table) -> list[_Classes]:
    """Return each attempt's class names in task order, with their tasks and their image counts.

    Attempts with equal ones share one object, which saves memory and comparisons.
    """
    encoded = final_rows["task_name"].combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    attempt, column = cells.attempt[cells.final], cells.column[cells.final]
    counts = [numbers(final_rows[name]) for name in ("n_images", "n_anomalous")]
    columns = [numbers(encoded.indices), cells.task[cells.final], *counts]
    ordered = np.stack(columns, axis=1)[np.lexsort((column, attempt))]
    ends = np.cumsum(np.bincount(attempt, minlength=len(cells.attempts)))
    shared: dict[bytes, _Classes] = {}
    found = []
    for rows in np.split(ordered, ends[:-1]):
        key = rows.tobytes()
        if key not in shared:
            values = rows.tolist()
            classes, tasks = tuple(names[n] for n, *_ in values), tuple(task for _, task, *_ in values)
            shared[key] = classes, tasks, tuple((n, bad) for *_, n, bad in values)
        found.append(shared[key])
    return found


def undefined(trials: Sequence[FinalMetrics]) -> Counter[tuple[str, str]]:
    """Count, by (class, metric), the trials that have the class but not the metric."""
    tables: dict[tuple[str, ...], list[Reals]] = {}
    for trial in trials:
        tables.setdefault(trial.classes, []).append(trial.table[:-1, : len(METRICS)])
    total = Counter[tuple[str, str]]()
    for classes, of_classes in tables.items():
        counts = np.isnan(of_classes).sum(axis=0)
        for row, column in np.argwhere(counts).tolist():
            total[classes[row], METRICS[column]] += int(counts[row, column])
    return total


def partial_metrics(trials: Sequence[FinalMetrics]) -> dict[str, set[str]]:
    """Return, by metric, the classes that have it in some trials and lack it in others."""
    having = Counter(name for trial in trials for name in trial.classes)
    partial: dict[str, set[str]] = {}
    for (name, metric), count in undefined(trials).items():
        if count < having[name]:
            partial.setdefault(metric, set()).add(name)
    return partial
