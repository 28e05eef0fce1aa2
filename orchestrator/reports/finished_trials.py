"""The finished trials of a results folder, as reports read them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moleflow.errors import InvalidInput
from moleflow.settings.knob_history import values_before_knob_existed
from moleflow.settings.task_list import classes_in_order
from orchestrator.reports.final_metrics import FinalMetrics, final_metrics
from orchestrator.reports.number_format import grouped, setting_text
from orchestrator.results.schema import FINISHED, boolean_mask, holding, rows_of
from orchestrator.results.store import ResultStore

ENVIRONMENT = ("dataset", "code_digest", "device", "device_model", "torch", "cuda", "tf32", "dtype", "threads")
"""Columns that have to be equal too, with packages, for one configuration to give equal digits."""
# Columns of the attempts table that a FinishedTrial takes as they are.
_AS_STORED = (
    *("trial_id", "seed", "version", "dataset", "code_digest", "data_digest", "state_digest", "scores_digest"),
    *("lora_scaling", "parameters_total", "seconds_spent", "seconds_reused"),
)
# Columns that its other fields are computed from.
_COMPUTED_FROM = (
    *("attempt", "status", "config", "factors", "flags", "git_commit", "git_dirty", "parameters_per_task"),
    "packages",
)


@dataclass(frozen=True)
class FinishedTrial:
    """One finished trial: its settings, environment, metrics after the final task, and cost.

    Attributes:
        settings: {dotted path: value} of the configuration, without the seed.
        environment: {name: text} of what else must be equal for equal digits.
        values: the metrics.
        seconds_spent: cost of the attempt that finished.
        seconds_reused: cost, when they were trained, of the stages that this attempt reused.
        seconds_saved: the part of `seconds_reused` that other trials certainly paid for. It leaves
            out the cost of the trial's own earlier attempts, which may have trained those stages.
        seconds_lost: cost of its attempts that did not finish.
        unfinished: the status of each of those attempts.
    """

    trial_id: str
    seed: int
    version: str
    dataset: str
    factors: Mapping[str, object]
    settings: Mapping[str, object]
    environment: Mapping[str, str]
    values: FinalMetrics
    flags: tuple[str, ...]
    code_digest: str
    git: str
    data_digest: str | None
    state_digest: str | None
    scores_digest: str | None
    lora_scaling: float | None
    parameters_total: int | None
    parameters_per_task: tuple[int, ...] | None
    seconds_spent: float
    seconds_reused: float
    seconds_saved: float = 0.0
    seconds_lost: float = 0.0
    unfinished: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in task order."""
        return self.values.classes

    @property
    def tasks(self) -> tuple[tuple[str, ...], ...]:
        """The classes of each task."""
        return tuple(tuple(names) for _, names in grouped(zip(self.values.tasks, self.classes, strict=True)).items())

    @property
    def images(self) -> tuple[tuple[int, int], ...]:
        """For each class, how many images were scored and how many of them are defective."""
        return self.values.images


def finished_trials(store: ResultStore, selection: set[str] | None, split: str) -> list[FinishedTrial]:
    """Return the finished trials of `selection` (None: all stored ones), ordered by trial id."""
    # A trial that finishes between the two reads has an attempt but no metrics here. It is left for
    # the next report.
    attempts = store.read("attempts", sorted({*_AS_STORED, *_COMPUTED_FROM, *ENVIRONMENT}))
    finished = holding(attempts["status"], FINISHED)
    others = grouped((row["trial_id"], row) for row in rows_of(attempts.filter(boolean_mask(~finished))))
    metrics, reader = final_metrics(store, split), _AttemptReader(store.folder)
    trials = [
        reader.trial(row, metrics[key], others.get(row["trial_id"], ()))
        for row in rows_of(attempts.filter(boolean_mask(finished)))
        if (key := (row["trial_id"], row["attempt"])) in metrics and (selection is None or row["trial_id"] in selection)
    ]
    return sorted(trials, key=lambda trial: trial.trial_id)


def default_split(store: ResultStore, selection: set[str] | None) -> str:
    """Return `test`, or `validation` if the trials (None: all) scored validation images alone."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = store.read("metrics", ["trial_id", "split"])
    if selection is not None:
        rows = rows.filter(pc.is_in(rows["trial_id"], value_set=pa.array(sorted(selection), pa.string())))
    return "validation" if rows["split"].unique().to_pylist() == ["validation"] else "test"


class _AttemptReader:
    """Turns attempt rows into trials.

    Trials of one configuration share one object of settings, so that it is parsed once and later
    compared by identity. So do trials of one environment, and of the same factors.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._settings: dict[str, dict[str, object]] = {}
        self._environments: dict[tuple[object, ...], dict[str, str]] = {}
        self._factors: dict[str, dict[str, object]] = {}

    def trial(self, row: Mapping[str, Any], values: FinalMetrics, others: Sequence[Mapping[str, Any]]) -> FinishedTrial:
        """Return the trial of a finished attempt; `others` are its attempts that did not finish.

        Raises:
            InvalidInput: a column holds JSON that no worker writes.
        """
        try:
            return self._trial(row, values, others)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InvalidInput(
                f"{self._folder / 'parts'}: the stored attempt of trial {row['trial_id']} is damaged "
                f"({type(error).__name__}: {error!s:.100}); run the sweep again into another folder (--out)"
            ) from None

    def _trial(
        self, row: Mapping[str, Any], values: FinalMetrics, others: Sequence[Mapping[str, Any]]
    ) -> FinishedTrial:
        if (factors := self._factors.get(row["factors"])) is None:
            factors = self._factors[row["factors"]] = json.loads(row["factors"])
        dirty = ", uncommitted changes" if row["git_dirty"] else ""
        code, attempt = row["code_digest"], row["attempt"]
        earlier = sum(of["seconds_spent"] for of in others if of["attempt"] < attempt and of["code_digest"] == code)
        return FinishedTrial(
            factors=factors,
            settings=self._settings_of(row),
            environment=self._environment_of(row),
            values=values,
            flags=tuple(json.loads(row["flags"])),
            git=f"git {row['git_commit'][:12]}{dirty}" if row["git_commit"] else "no git commit",
            seconds_saved=max(0.0, row["seconds_reused"] - earlier),
            seconds_lost=sum(of["seconds_spent"] for of in others),
            unfinished=tuple(of["status"] for of in others),
            parameters_per_task=None if row["parameters_per_task"] is None else tuple(row["parameters_per_task"]),
            **{name: row[name] for name in _AS_STORED},
        )

    def _settings_of(self, row: Mapping[str, Any]) -> dict[str, object]:
        # Configurations that differ in the seed alone share their settings. The seed is cut out of
        # the JSON text where the text names one seed: parsing every row would be slow.
        before_seed, seed, after = row["config"].rpartition('"seed":')
        text_without = row["config"] if seed in before_seed else before_seed + after.lstrip("-0123456789")
        if text_without not in self._settings:
            config = json.loads(row["config"])
            # By class, since the same classes in another order are no other data set.
            if isinstance(digests := config.get("data_digests"), list):
                config["data_digests"] = dict(zip(classes_in_order(config["data"]["tasks"]), digests, strict=True))
            settings = values_before_knob_existed() | flatten_settings(config)
            settings.pop("seed", None)
            self._settings[text_without] = settings
        return self._settings[text_without]

    def _environment_of(self, row: Mapping[str, Any]) -> dict[str, str]:
        key = tuple(row[name] for name in (*ENVIRONMENT, "packages"))
        if key not in self._environments:
            packages = {f"package {name}": str(version) for name, version in json.loads(row["packages"]).items()}
            own = {name: "none" if row[name] is None else setting_text(row[name]) for name in ENVIRONMENT}
            self._environments[key] = own | packages
        return self._environments[key]


def flatten_settings(config: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return nested settings as {dotted path: value}; an empty mapping stays a value."""
    flat: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten_settings(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
