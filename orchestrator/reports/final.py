"""What trials reached after their final task: all metrics of all classes, taken from the stored rows a column at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from moleflow.metrics.continual import continual_table
from orchestrator.results.schema import DETECTION

METRICS = ("routing_accuracy", *DETECTION, *(f"oracle_{name}" for name in DETECTION), "normal_latent_norm")
CONTINUAL = ("image_auroc", "pixel_auroc")
MEAN = "Mean"
"""The name of the row over all classes, beside class names."""

MEASURES = ("acc", "fm", "bwt")
COLUMNS = (*METRICS, *(f"{measure}_{metric}" for metric in CONTINUAL for measure in MEASURES))
STORED = ["trial_id", "attempt", "split", "after_task", "task", "task_name", "n_images", "n_anomalous", *METRICS]
"""The columns of the metrics table that this is made of."""

_PLACE = {name: k for k, name in enumerate(COLUMNS)}
Reals = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Final(Mapping[tuple[str, str], float | None]):
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

    def without_means(self, metrics: Sequence[str]) -> Final:
        """The same without the means over classes of `metrics`."""
        table = self.table.copy()
        table[-1, [_PLACE[metric] for metric in metrics]] = np.nan
        return replace(self, table=table)


@dataclass(frozen=True, eq=False)
class FinalStack:
    """The same of the trials of one variant, side by side: (trials, classes + 1, COLUMNS), NaN also where a trial lacks the class."""

    rows: Mapping[str, int]
    table: Reals

    def values(self, class_name: str, metric: str) -> list[float]:
        """The metric of each trial that has it."""
        if class_name not in self.rows:
            return []
        column = self.table[:, self.rows[class_name], _PLACE[metric]]
        known: list[float] = column[~np.isnan(column)].tolist()
        return known


def stack(finals: Sequence[Final]) -> FinalStack:
    """Trials side by side."""
    rows = {name: k for k, name in enumerate(dict.fromkeys(name for of in finals for name in of.rows))}
    table = np.full((len(finals), len(rows), len(COLUMNS)), np.nan)
    for k, of in enumerate(finals):
        table[k, [rows[name] for name in of.rows]] = of.table
    return FinalStack(rows, table)


def finals(stored: pa.Table, split: str) -> dict[tuple[str, int], Final]:
    """What each attempt reached, by trial id and number.

    Args:
        stored: rows of the metrics table, with the columns `STORED`.
        split: test or validation: which of them count.

    """
    if stored["split"].unique().to_pylist() != [split]:
        stored = stored.filter(pc.equal(stored["split"], split))
    if not stored.num_rows:
        return {}
    trial = stored["trial_id"].combine_chunks().dictionary_encode()
    number = stored["attempt"].to_numpy().astype(np.int64)
    most = int(number.max()) + 1
    keys, place = np.unique(trial.indices.to_numpy() * most + number, return_inverse=True)
    after, task = stored["after_task"].to_numpy(), stored["task"].to_numpy()
    last = np.zeros(len(keys), dtype=np.int64)
    np.maximum.at(last, place, after)
    rows = after == last[place]  # Those after the final task; of the many others only R looks at anything.
    tables = _tables(stored, place, task, last, rows)
    _set_continual(tables, stored, place, after, task, last)
    classes, images = _classes(stored, rows, len(keys), place[rows], task[rows])
    return {
        (trial.dictionary[key // most].as_py(), key % most): Final(classes[n], images[n], tables[n])
        for n, key in enumerate(keys.tolist())
    }


def _tables(stored: pa.Table, place: Counts, task: Counts, last: Counts, rows: npt.NDArray[np.bool_]) -> list[Reals]:
    """The tables of all attempts, with the means, but without ACC, FM and BWT."""
    tasks = int(last.max()) + 1
    table = np.full((len(last), tasks + 1, len(COLUMNS)), np.nan)
    for k, metric in enumerate(METRICS):
        table[place[rows], task[rows], k] = stored[metric].to_numpy()[rows]
    total, known = np.zeros((2, len(last), len(COLUMNS)))
    for of_task in range(tasks):  # In this order whatever the machine, so that the last bits are the same on all.
        total += np.nan_to_num(table[:, of_task])
        known += ~np.isnan(table[:, of_task])
    means = np.where(known > 0, total / np.maximum(known, 1), np.nan)
    for n, count in enumerate((last + 1).tolist()):
        table[n, count] = means[n]
    return [table[n, : count + 1] for n, count in enumerate((last + 1).tolist())]


def _set_continual(
    tables: Sequence[Reals], stored: pa.Table, place: Counts, after: Counts, task: Counts, last: Counts
) -> None:
    """Set ACC, FM and BWT, from R of each metric of `CONTINUAL`."""
    tasks = int(last.max()) + 1
    for metric in CONTINUAL:
        r = np.full((len(last), tasks, tasks), np.nan)
        r[place, after, task] = stored[metric].to_numpy()
        columns = [_PLACE[f"{measure}_{metric}"] for measure in MEASURES]
        for final in np.unique(last).tolist():
            of_length = np.flatnonzero(last == final)
            found = continual_table(r[of_length, : final + 1, : final + 1])
            # FM and BWT do not need the last task. Without ACC they are left out: the three are read together.
            found[np.isnan(found[:, 0])] = np.nan
            for n, summary in zip(of_length.tolist(), found, strict=True):
                tables[n][-1, columns] = summary


def _classes(
    stored: pa.Table, rows: npt.NDArray[np.bool_], attempts: int, place: Counts, task: Counts
) -> tuple[list[tuple[str, ...]], list[tuple[tuple[int, int], ...]]]:
    """The names of each attempt's classes in task order, and the counts of their images; equal ones are one object."""
    names = stored["task_name"].combine_chunks().dictionary_encode()
    columns = (names.indices, stored["n_images"], stored["n_anomalous"])
    order = np.lexsort((task, place))
    told = np.stack([column.to_numpy()[rows][order] for column in columns], axis=1)
    ends = np.cumsum(np.bincount(place, minlength=attempts))
    known: dict[bytes, tuple[tuple[str, ...], tuple[tuple[int, int], ...]]] = {}
    found = []
    for of_attempt in np.split(told, ends[:-1]):
        key = of_attempt.tobytes()
        if key not in known:
            own = of_attempt.tolist()
            known[key] = (tuple(names.dictionary[n].as_py() for n, _, _ in own), tuple((n, bad) for _, n, bad in own))
        found.append(known[key])
    return [classes for classes, _ in found], [images for _, images in found]


def undefined(finals: Sequence[Final]) -> Counter[tuple[str, str]]:
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


def partial_metrics(finals: Sequence[Final]) -> dict[str, set[str]]:
    """By metric, the classes that have it in some trials and lack it in others."""
    having = Counter(name for of in finals for name in of.classes)
    partial: dict[str, set[str]] = {}
    for (name, metric), count in undefined(finals).items():
        if count < having[name]:
            partial.setdefault(metric, set()).add(name)
    return partial
