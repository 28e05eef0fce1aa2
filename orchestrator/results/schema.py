"""The tables: every column with its type and meaning, as results/README.md lists them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from numbers import Integral
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

ATTEMPTS = "attempts"
TABLES = ("metrics", "scores", "curves", ATTEMPTS)
MAPS = "maps"
"""A fifth table, of anomaly maps. No figure of a report depends on it."""
STATUSES = ("finished", "pruned", "failed", "interrupted")
FINISHED, PRUNED = "finished", "pruned"

DETECTION = ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro")
"""The metrics of one class that exist both for routed and for oracle-routed scores."""


@dataclass(frozen=True)
class Column:
    """One column: its name, Arrow type and meaning, and whether it may be null."""

    name: str
    type: Any
    meaning: str
    nullable: bool = False


def _text(name: str, meaning: str, nullable: bool = False) -> Column:
    return Column(name, pa.string(), meaning, nullable)


def _count(name: str, meaning: str, nullable: bool = False) -> Column:
    return Column(name, pa.int32(), meaning, nullable)


def _real(name: str, meaning: str, nullable: bool = False) -> Column:
    return Column(name, pa.float64(), meaning, nullable)


def _time(name: str, meaning: str) -> Column:
    return Column(name, pa.timestamp("us", tz="UTC"), meaning)


COMMON = (
    _text("sweep", "name of the sweep"),
    _text("trial_id", "12 hex digits over the resolved configuration, seed included"),
    _count("attempt", "number of the attempt at this trial, from 1"),
    _text("version", "method version: v1 … v7; memory_bank is the yardstick, which is none"),
    Column("seed", pa.int64(), "seed of the trial"),
    _text("factors", "what the sweep varies, as canonical JSON of {dotted knob: value}, without the seed"),
    _text("dataset", "`embedded` (generated images) or the data set's name, such as `mvtec`"),
    _text("status", "how the attempt ended: finished, pruned, failed or interrupted; compare finished ones only"),
)

_MEANINGS = {
    "image_auroc": "AUROC of image scores",
    "image_ap": "average precision of image scores",
    "image_f1_max": "largest F1 over all thresholds of the image score",
    "pixel_auroc": "AUROC over all pixels; null without masks",
    "pixel_ap": "average precision over all pixels; null without masks",
    "pixel_f1_max": "largest F1 over all thresholds of the pixel score; null without masks",
    "aupro": "mean per-region TPR against global FPR, area up to FPR 0.3 over 0.3; null without masks",
}

_METRICS = (
    _text("split", "images the metrics were taken on: test or validation"),
    _count("after_task", "i of R[i,j]: position in the sequence of the last task trained, from 0"),
    _count("task", "j of R[i,j]: position of the task that was evaluated, from 0"),
    _text("task_name", "class that was evaluated; if task j has several, each has a row"),
    _text("after_task_name", "name of task i: its class, or its classes joined by `+`"),
    _count("n_images", "images evaluated"),
    _count("n_anomalous", "images among them with a defect"),
    _count("n_masks", "defective images among them whose mask is not empty at the evaluated size"),
    _real("routing_accuracy", "share of the images that the router sent to task j's expert", nullable=True),
    *(_real(name, _MEANINGS[name], True) for name in DETECTION),
    *(_real(f"oracle_{name}", f"{name} with the true task's expert, not the routed one", True) for name in DETECTION),
    _real(
        "normal_latent_norm",
        "squared length of the latent z over its width D, mean over the patches of the class's normal images, with the true task's "
        "expert: 1 where z is standard normal, whatever the width; null without normal images, for a memory bank, and in rows "
        "older than the column",
        True,
    ),
    _text("state_digest", "digest of the trained state after task i; equal digests mean equal training"),
    _text("scores_digest", "digest of the scores behind this row"),
    _real("seconds_spent", "seconds this attempt spent on the stage of task i (repeated in each row of that i)"),
    _real("seconds_reused", "seconds that what the stage of task i reused from the store had cost at first"),
)

_SCORES = (
    _text("split", "test or validation"),
    _count("task", "position of the image's task in the sequence, from 0"),
    _text("task_name", "class of the image"),
    _text("image", "path of the image, relative to the data root"),
    _text("image_digest", "digest of the image file"),
    _text("defect", "kind of defect; `good` for normal images"),
    Column("label", pa.int8(), "1 with a defect, 0 without"),
    _real("score", "image score with the routed expert; larger is more anomalous"),
    _real("oracle_score", "image score with the true task's expert"),
    _count("routed_task", "position of the task that the router chose"),
)

_CURVES = (
    _count("task", "position of the task in the sequence, from 0"),
    _text("task_name", "name of the task: its class, or its classes joined by `+`"),
    _count("epoch", "epoch, from 1"),
    _real("loss", "mean training loss of the epoch"),
    _real("nll", "mean negative log-likelihood per patch in the epoch, nats"),
    _real("lr", "learning rate at the end of the epoch"),
    _real("grad_norm", "mean norm of the gradient before clipping"),
    _real("seconds", "seconds the epoch took when it was computed"),
    Column("reused", pa.bool_(), "true when the epoch was not trained by this attempt but taken from the store"),
)

_ATTEMPTS = (
    _text("error", "what went wrong, in one line", nullable=True),
    _text("error_kind", "class of the error", nullable=True),
    _text("traceback", "the whole traceback", nullable=True),
    _time("started_at", "start of the attempt, UTC"),
    _time("ended_at", "end of the attempt, UTC"),
    _real("seconds_spent", "seconds the attempt took"),
    _real("seconds_reused", "seconds that what it reused from the store had cost at first"),
    _text("backend", "backend that ran it: inline, local, slurm, ray"),
    _text("host", "name of the machine"),
    Column("pid", pa.int64(), "process id on that machine"),
    _text("worker", "name of the worker"),
    _text("device", "kind of device: cpu or cuda"),
    _text("device_model", "model of the device"),
    _text("torch", "torch version with its build"),
    _text("cuda", "CUDA version of the torch build", nullable=True),
    Column("tf32", pa.bool_(), "whether TF32 was allowed; null where the device has none", nullable=True),
    _text("dtype", "floating-point type of the computation"),
    _count("threads", "threads a trial"),
    _text("code_digest", "digest of the code that made the result; another one makes it stale"),
    _text("git_commit", "commit of the checkout", nullable=True),
    Column("git_dirty", pa.bool_(), "whether the checkout had uncommitted changes", nullable=True),
    _text("packages", "versions of the packages that matter, as JSON of {name: version}"),
    _text("config", "the whole resolved configuration, digests of data and weights included, as canonical JSON"),
    _real("lora_scaling", "the number that multiplies B A x; null for a memory bank", nullable=True),
    Column(
        "parameters_total",
        pa.int64(),
        "parameters of flow, experts and adapters together, or numbers in banks",
        nullable=True,
    ),
    Column("parameters_per_task", pa.list_(pa.int64()), "parameters each task added, in task order", True),
    _text("flags", "JSON list of notes that a reader of the row must know, such as random weights"),
    _text("data_digest", "digest of the images used", nullable=True),
    _text("state_digest", "digest of the trained state at the end", nullable=True),
    _text("scores_digest", "digest of all scores at the end", nullable=True),
)

_MAPS = (
    _text("split", "test or validation"),
    _count("task", "position of the image's task in the sequence, from 0"),
    _text("task_name", "class of the image"),
    _text("image", "path of the image, relative to the data root"),
    _text("image_digest", "digest of the image file; `pictures/` has it small under this name"),
    _text("defect", "kind of defect; `good` for normal images"),
    Column("label", pa.int8(), "1 with a defect, 0 without"),
    _real("score", "image score with the routed expert; larger is more anomalous"),
    _text(
        "why",
        "drawn (by lot, from the image's content alone, so the same images in every trial), lowest_anomalous (a defective image "
        "with one of the lowest scores of its class) or highest_normal",
    ),
    _count("rank", "position among those kept for the same reason, from 0"),
    Column(
        "map", pa.binary(), "anomaly map with the routed expert, smoothed as for the pixel metrics: grey PNG, 64 x 64"
    ),
    _real(
        "map_low",
        "what grey 0 stands for, nats a patch or distance to the memory bank; the same in all maps of a class and trial",
    ),
    _real("map_high", "what grey 255 stands for"),
)

COLUMNS: Mapping[str, tuple[Column, ...]] = MappingProxyType(
    {
        "metrics": COMMON + _METRICS,
        "scores": COMMON + _SCORES,
        "curves": COMMON + _CURVES,
        ATTEMPTS: COMMON + _ATTEMPTS,
        MAPS: COMMON + _MAPS,
    }
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_JSON_KINDS = {"factors": dict, "packages": dict, "config": dict, "flags": list}


@cache
def arrow_schema(table: str) -> pa.Schema:
    """The Arrow schema of a table; each field holds its meaning as metadata."""
    return pa.schema([pa.field(c.name, c.type, c.nullable, {"meaning": c.meaning}) for c in COLUMNS[table]])


def to_table(table: str, rows: Sequence[Mapping[str, object]]) -> pa.Table:
    """Check rows and make an Arrow table of them. Nullable columns that a row lacks become null.

    Raises:
        ValueError: an unknown column, a missing value, a NaN or infinity, or a value of the wrong
            kind.

    """
    columns = COLUMNS[table]
    known = {c.name for c in columns}
    for row in rows:
        if not row.keys() <= known:
            unknown = ", ".join(sorted(row.keys() - known))
            raise ValueError(f"{table}: unknown column {unknown}; allowed: {', '.join(c.name for c in columns)}")
    values = [[row.get(c.name) for row in rows] for c in columns]
    for column, cells in zip(columns, values, strict=True):
        _check(f"{table}.{column.name}", column, cells)
    try:
        arrays = [pa.array(cells, c.type) for c, cells in zip(columns, values, strict=True)]
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ValueError(f"{table}: {error}") from error
    for column, array in zip(columns, arrays, strict=True):
        if pa.types.is_floating(column.type) and not pc.all(pc.is_finite(array), min_count=0).as_py():
            hint = "null says 'undefined', and a diverged loss is a failed attempt"
            raise ValueError(f"{table}.{column.name}: NaN and infinity are not stored: {hint}")
    return pa.Table.from_arrays(arrays, schema=arrow_schema(table))


def rows_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows of a table. Unlike `Table.to_pylist` this never imports pandas."""
    columns = [_values(column) for column in table.itercolumns()]
    return (dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True))


def numbers(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[Any]:
    """The numbers of a column, with NaN for null. Unlike `to_numpy` this never imports pandas."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if array.null_count == 0:
        return np.from_dlpack(array)
    known = np.from_dlpack(array.is_valid().cast(pa.uint8())).view(np.bool_)
    values = np.frombuffer(array.buffers()[1], array.type.to_pandas_dtype())[array.offset :][: len(array)]
    return np.where(known, values, np.nan)


def holding(column: pa.ChunkedArray, text: str) -> npt.NDArray[np.bool_]:
    """A mask of the rows of a text column that hold `text`."""
    coded = column.combine_chunks().dictionary_encode()
    codes = [code for code, value in enumerate(coded.dictionary.to_pylist()) if value == text]
    mask: npt.NDArray[np.bool_] = numbers(coded.indices) == (codes[0] if codes else -1)
    return mask


def boolean_mask(mask: npt.NDArray[np.bool_]) -> pa.BooleanArray:
    """A NumPy mask as an Arrow array."""
    return pa.Array.from_buffers(pa.uint8(), len(mask), [None, pa.py_buffer(mask.view(np.uint8))]).cast(pa.bool_())


def _values(column: pa.ChunkedArray) -> list[Any]:
    if not pa.types.is_timestamp(column.type):
        values: list[Any] = column.to_pylist()
        return values
    return [None if us is None else _EPOCH + timedelta(microseconds=us) for us in column.cast(pa.int64()).to_pylist()]


def _check(name: str, column: Column, values: Sequence[object]) -> None:
    if not column.nullable and any(value is None for value in values):
        raise ValueError(f"{name}: a value is needed ({column.meaning})")
    fits, allowed = _rule(column)
    if fits is None:
        return
    text = pa.types.is_string(column.type) and all(isinstance(value, str) for value in values)
    # Rows of one attempt repeat its texts: each is checked once.
    for value in dict.fromkeys(values) if text else values:
        if value is not None and not fits(value):
            raise ValueError(f"{name}: given {value!r}, allowed: {allowed}")


@cache
def _rule(column: Column) -> tuple[Callable[[Any], bool] | None, str]:
    """The condition that a column's values must fulfil beyond their Arrow type, and its text."""
    if column.name == "attempt":
        return lambda value: isinstance(value, Integral) and int(value) >= 1, "whole numbers from 1"
    if pa.types.is_integer(column.type):
        return lambda value: isinstance(value, Integral), "whole numbers"  # Arrow would truncate 1.5 to 1
    if column.name == "status":
        return lambda value: value in STATUSES, ", ".join(STATUSES)
    if column.name == "trial_id":
        return lambda value: re.fullmatch("[0-9a-f]{12}", str(value)) is not None, "12 hex digits"
    if pa.types.is_timestamp(column.type):
        return (
            lambda value: not isinstance(value, datetime) or value.tzinfo is not None,
            "times in UTC; it has no time zone",
        )
    if column.name in _JSON_KINDS:
        kind = _JSON_KINDS[column.name]
        return lambda value: isinstance(_parsed(value), kind), f"the JSON text of a {kind.__name__}"
    return None, ""


def _parsed(value: object) -> object:
    try:
        return json.loads(value) if isinstance(value, str) else None
    except ValueError:
        return None


def document(table: str) -> str:
    """The columns of a table as Markdown, as in results/README.md."""
    head = ["| column | type | null | meaning |", "|---|---|---|---|"]
    kinds = {c.name: str(c.type).replace("item: ", "").replace("<element: ", "<") for c in COLUMNS[table]}
    lines = [f"| `{c.name}` | {kinds[c.name]} | {'yes' if c.nullable else ''} | {c.meaning} |" for c in COLUMNS[table]]
    return "\n".join(head + lines)
