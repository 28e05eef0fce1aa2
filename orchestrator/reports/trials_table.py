"""The table of trials: one row each, with knobs and final metrics as typed columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, get_args

import pyarrow as pa

from moleflow.settings.knobs import fields
from orchestrator.reports.final_metrics import BY_CLASS, MEAN
from orchestrator.reports.stored_trials import DIGESTS, StoredTrial

_FIRST = (
    ("trial_id", pa.string()),
    ("sweep", pa.string()),
    ("variant", pa.string()),
    ("version", pa.string()),
    ("seed", pa.int64()),
    ("state", pa.string()),
    ("error", pa.string()),
    ("dataset", pa.string()),
    ("split", pa.string()),
)
_LAST = (
    ("seconds_spent", pa.float64()),
    ("started_at", pa.timestamp("us", tz="UTC")),
    ("ended_at", pa.timestamp("us", tz="UTC")),
    ("device", pa.string()),
    ("code_digest", pa.string()),
)
_INT64 = range(-(2**63), 2**63)


def trials_table(trials: Sequence[StoredTrial], sweep: str, split: str) -> pa.Table:
    """Return one row for each trial.

    The columns are: what names the trial and its state, each knob under its dotted name, the final
    metrics as means over the classes with ACC, FM and BWT, and the attempt. Values of trials that
    have not run, and undefined metrics, are null.

    Args:
        trials: the trials.
        sweep: the name of their sweep.
        split: test | validation, the images of the metrics.
    """
    columns: dict[str, pa.Array] = {}
    for name, kind in _FIRST:
        columns[name] = pa.array([_own_value(trial, name, sweep, split) for trial in trials], kind)
    paths = sorted({path for trial in trials for path in trial.settings if not path.startswith(f"{DIGESTS}.")})
    for path in paths:
        if path not in columns:
            columns[path] = knob_column([trial.settings.get(path) for trial in trials], _declared_type(path))
    of_split = [trial.metrics.get(split) for trial in trials]
    for metric in BY_CLASS:
        columns[metric] = pa.array([None if of is None else of[MEAN, metric] for of in of_split], pa.float64())
    for name, kind in _LAST:
        columns[name] = pa.array([trial.attempt.get(name) for trial in trials], kind)
    return pa.table(columns)


def _own_value(trial: StoredTrial, name: str, sweep: str, split: str) -> object:
    own = {
        "trial_id": trial.trial_id,
        "sweep": sweep,
        "variant": trial.variant,
        "seed": trial.seed,
        "state": trial.state,
        "split": split,
    }
    return own[name] if name in own else trial.attempt.get(name)


def _declared_type(path: str) -> pa.DataType:
    """Return the type of a knob's values; text for one that may have several types."""
    kinds: set[Any] = set()
    if path in fields():
        annotation = fields()[path].annotation
        kinds |= set(get_args(annotation)) or {annotation}
    plain = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    kinds -= {type(None)}
    return plain.get(kinds.pop(), pa.string()) if len(kinds) == 1 else pa.string()


def knob_column(values: Sequence[object], without_values: pa.DataType) -> pa.Array:
    """Return a column of the one type that all values have.

    Booleans, whole numbers, reals, texts, and lists of one of these keep their type; whole numbers
    among reals become reals. Other values, and values of several types, become JSON text.

    Args:
        values: one value for each trial; None where it is null or unknown.
        without_values: the type of a column of which every value is None.
    """
    known = [value for value in values if value is not None]
    if not known:
        return pa.array(values, without_values)
    lists = [value for value in known if isinstance(value, list)]
    kind = _type_of([item for value in lists for item in value] if lists else known)
    if kind is None or (lists and len(lists) < len(known)):
        texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
        return pa.array(texts, pa.string())
    if lists:
        return pa.array(values, pa.list_(kind))
    return pa.array(values, kind)


def _type_of(values: Sequence[object]) -> pa.DataType | None:
    """Return the Arrow type of plain values; None if they have none in common."""
    kinds = {type(value) for value in values}
    if kinds <= {bool}:
        return pa.bool_() if kinds else pa.string()
    if kinds == {int} and all(value in _INT64 for value in values):
        return pa.int64()
    if kinds <= {int, float}:
        return pa.float64()
    return pa.string() if kinds == {str} else None
