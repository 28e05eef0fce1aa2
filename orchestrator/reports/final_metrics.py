"""What trials reached after their final task: all metrics of all classes, taken from the stored rows a column at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from moleflow.metrics.continual import continual_table
from orchestrator.results.schema import DETECTION, boolean_mask, holding, numbers
from orchestrator.results.store import ResultStore

METRICS = ("routing_accuracy", *DETECTION, *(f"oracle_{name}" for name in DETECTION), "normal_latent_norm")
CONTINUAL = ("image_auroc", "pixel_auroc")
MEAN = "Mean"
"""The name of the row over all classes, beside class names."""

MEASURES = ("acc", "fm", "bwt")
COLUMNS = (*METRICS, *(f"{measure}_{metric}" for metric in CONTINUAL for measure in MEASURES))
_EVERY_ROW = ["trial_id", "attempt", "split", "after_task", "task", *CONTINUAL]
_AFTER_ALL = ["task_name", "n_images", "n_anomalous", *METRICS]
"""The columns of the metrics table that this is made of: some of every row, and others of those after the final task."""

_PLACE = {name: k for k, name in enumerate(COLUMNS)}
Reals = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FinalMetrics(Mapping[tuple[str, str], float | None]):
    """The metrics of one trial after its final task: (class name, metric) to a number, or None where it is undefined.

    The class name `MEAN` holds means over the classes that have the metric, and ACC, FM and BWT of `CONTINUAL`, None where one class
    lacks it.

    Attributes:
        classes: names, in task order.
        images: for each class, how many images the metrics were taken on, and how many of them are defective.
        table: (classes + 1, COLUMNS), NaN where undefined; the last row is `MEAN`'s.

    """

    classes: tuple[str, ...]
    images: tuple[tuple[int, int], ...]
    table: Reals

    @cached_property
    def rows(self) -> Mapping[str, int]:
        """The row of each class, and of `MEAN`."""
        return {name: k for k, name in enumerate((*self.classes, MEAN))}

    def __getitem__(self, place: tuple[str, str]) -> float | None:
        value = float(self.table[self.rows[place[0]], _PLACE[place[1]]])
        return None if np.isnan(value) else value

    def __iter__(self) -> Iterator[tuple[str, str]]:
        yield from ((name, metric) for name in self.rows for metric in COLUMNS)

    def __len__(self) -> int:
        return self.table.size

    def without_means(self, metrics: Sequence[str]) -> FinalMetrics:
        """The same without the means over classes of `metrics`."""
        table = self.table.copy()
        table[-1, [_PLACE[metric] for metric in metrics]] = np.nan
        return replace(self, table=table)


@dataclass(frozen=True, eq=False)
class FinalMetricsStack:
    """The same of the trials of one variant, side by side: (trials, classes + 1, COLUMNS), NaN also where a trial lacks the class."""

    rows: Mapping[str, int]
    table: Reals

    def values(self, class_name: str, metric: str) -> Reals:
        """The metric of each trial that has it."""
        if class_name not in self.rows:
            return np.zeros(0)
        column: Reals = self.table[:, self.rows[class_name], _PLACE[metric]]
        return column[~np.isnan(column)]


def stack_metrics(finals: Sequence[FinalMetrics]) -> FinalMetricsStack:
    """Trials side by side."""
    sequences = dict.fromkeys(of.classes for of in finals)  # Hardly ever more than one.
    rows = {name: k for k, name in enumerate(dict.fromkeys(name for of in sequences for name in (*of, MEAN)))}
    places = {of: [rows[name] for name in (*of, MEAN)] for of in sequences}
    table = np.full((len(finals), len(rows), len(COLUMNS)), np.nan)
    for k, of in enumerate(finals):
        table[k, places[of.classes]] = of.table
    return FinalMetricsStack(rows, table)


def final_metrics(store: ResultStore, split: str) -> dict[tuple[str, int], FinalMetrics]:
    """What each attempt reached, by trial id and number.

    Args:
        store: the results.
        split: test or validation: which rows count.

    Raises:
        InvalidInput, Damaged: as `ResultStore.read`.

    """

    def mark(stored: pa.Table) -> tuple[_Cells, pa.BooleanArray]:
        of_split = holding(stored["split"], split)
        cells = _cells(stored.filter(boolean_mask(of_split)) if not of_split.all() else stored)
        of_split[of_split] = cells.final
        return cells, boolean_mask(of_split)

    cells, after_all = store.read_marked("metrics", _EVERY_ROW, mark, _AFTER_ALL)
    if not cells.attempts:
        return {}
    tables = _tables(cells, after_all)
    _set_continual(tables, cells)
    classes, images = _classes(cells, after_all)
    return {attempt: FinalMetrics(classes[n], images[n], tables[n]) for n, attempt in enumerate(cells.attempts)}


@dataclass(frozen=True, eq=False)
class _Cells:
    """The cells of R of all attempts, of one split.

    Attributes:
        attempts: trial id and number of each.
        last: their final task.
        attempt, after, task: of each cell, the attempt's place in `attempts`, i and j.
        final: whether i is the final task; of the many others only ACC, FM and BWT look at anything.
        values: R[i,j] of each metric of `CONTINUAL`.

    """

    attempts: Sequence[tuple[str, int]]
    last: Counts
    attempt: Counts
    after: Counts
    task: Counts
    final: npt.NDArray[np.bool_]
    values: Mapping[str, Reals]


def _cells(stored: pa.Table) -> _Cells:
    trial, number = stored["trial_id"].combine_chunks().dictionary_encode(), numbers(stored["attempt"])
    most = int(number.max(initial=0)) + 1
    code = numbers(trial.indices) * np.int64(most) + number
    there = np.bincount(code) > 0
    attempt = (np.cumsum(there) - 1)[code]
    after = numbers(stored["after_task"])
    last = np.zeros(int(there.sum()), dtype=np.int64)
    for task in range(int(after.max(initial=-1)) + 1):
        last[attempt[after == task]] = task
    ids = trial.dictionary.to_pylist()
    attempts = [(ids[of // most], of % most) for of in np.flatnonzero(there).tolist()]
    values = {metric: numbers(stored[metric]) for metric in CONTINUAL}
    return _Cells(attempts, last, attempt, after, numbers(stored["task"]), after == last[attempt], values)


def _tables(cells: _Cells, after_all: pa.Table) -> list[Reals]:
    """The tables of all attempts, with the means, but without ACC, FM and BWT."""
    last, tasks = cells.last, int(cells.last.max()) + 1
    table = np.full((len(last), tasks + 1, len(COLUMNS)), np.nan)
    place = cells.attempt[cells.final], cells.task[cells.final]
    for k, metric in enumerate(METRICS):
        table[*place, k] = numbers(after_all[metric])
    total, known = np.zeros((2, len(last), len(COLUMNS)))
    for task in range(tasks):  # In this order whatever the machine, so that the last bits are the same on all.
        total += np.nan_to_num(table[:, task])
        known += ~np.isnan(table[:, task])
    means = np.where(known > 0, total / np.maximum(known, 1), np.nan)
    for n, count in enumerate((last + 1).tolist()):
        table[n, count] = means[n]
    return [table[n, : count + 1] for n, count in enumerate((last + 1).tolist())]


def _set_continual(tables: Sequence[Reals], cells: _Cells) -> None:
    """Set ACC, FM and BWT, from R of each metric of `CONTINUAL`."""
    last, tasks = cells.last, int(cells.last.max()) + 1
    lengths = np.unique(last).tolist()
    r = np.empty((len(last), tasks, tasks))
    for metric in CONTINUAL:
        r.fill(np.nan)
        r[cells.attempt, cells.after, cells.task] = cells.values[metric]
        columns = [_PLACE[f"{measure}_{metric}"] for measure in MEASURES]
        for final in lengths:
            of_length = np.flatnonzero(last == final)
            some = r if len(lengths) == 1 else r[of_length, : final + 1, : final + 1]
            found = continual_table(some)
            # FM and BWT do not need the last task. Without ACC they are left out: the three are read together.
            found[np.isnan(found[:, 0])] = np.nan
            for n, summary in zip(of_length.tolist(), found, strict=True):
                tables[n][-1, columns] = summary


def _classes(cells: _Cells, after_all: pa.Table) -> tuple[list[tuple[str, ...]], list[tuple[tuple[int, int], ...]]]:
    """The names of each attempt's classes in task order, and the counts of their images; equal ones are one object."""
    names = after_all["task_name"].combine_chunks().dictionary_encode()
    texts = names.dictionary.to_pylist()
    attempt, task = cells.attempt[cells.final], cells.task[cells.final]
    columns = [numbers(of) for of in (names.indices, after_all["n_images"], after_all["n_anomalous"])]
    told = np.stack(columns, axis=1)[np.lexsort((task, attempt))]
    ends = np.cumsum(np.bincount(attempt, minlength=len(cells.attempts)))
    known: dict[bytes, tuple[tuple[str, ...], tuple[tuple[int, int], ...]]] = {}
    found = []
    for of_attempt in np.split(told, ends[:-1]):
        key = of_attempt.tobytes()
        if key not in known:
            own = of_attempt.tolist()
            known[key] = (tuple(texts[n] for n, _, _ in own), tuple((n, bad) for _, n, bad in own))
        found.append(known[key])
    return [classes for classes, _ in found], [images for _, images in found]


def undefined(finals: Sequence[FinalMetrics]) -> Counter[tuple[str, str]]:
    """How many trials have a class, but not a metric of it, by (class, metric)."""
    tables: dict[tuple[str, ...], list[Reals]] = {}
    for of in finals:
        tables.setdefault(of.classes, []).append(of.table[:-1, : len(METRICS)])
    found = Counter[tuple[str, str]]()
    for classes, of_classes in tables.items():
        counts = np.isnan(of_classes).sum(axis=0)
        for row, column in np.argwhere(counts).tolist():
            found[classes[row], METRICS[column]] += int(counts[row, column])
    return found


def partial_metrics(finals: Sequence[FinalMetrics]) -> dict[str, set[str]]:
    """By metric, the classes that have it in some trials and lack it in others."""
    having = Counter(name for of in finals for name in of.classes)
    partial: dict[str, set[str]] = {}
    for (name, metric), count in undefined(finals).items():
        if count < having[name]:
            partial.setdefault(metric, set()).add(name)
    return partial
