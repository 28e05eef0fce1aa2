"""The finished trials of a results folder, as reports read them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moleflow.settings.knob_history import values_before_knob_existed
from orchestrator.reports.final_metrics import FinalMetrics, final_metrics
from orchestrator.reports.number_format import setting_text
from orchestrator.results.schema import FINISHED, boolean_mask, holding, rows_of
from orchestrator.results.store import ResultStore

# What has to be equal for two trials to give the same digits, beside their configuration.
_ENVIRONMENT = (
    "dataset",
    "code_digest",
    "device",
    "device_model",
    "torch",
    "cuda",
    "tf32",
    "dtype",
    "threads",
)


# What a finished trial has of its attempt as it is stored, and what the rest of it is made of.
_OWN = (
    *("trial_id", "seed", "version", "dataset", "code_digest", "data_digest", "state_digest", "scores_digest"),
    *("lora_scaling", "parameters_total", "seconds_spent", "seconds_reused"),
)


_TOLD = (
    "attempt",
    "status",
    "config",
    "factors",
    "flags",
    "git_commit",
    "git_dirty",
    "parameters_per_task",
    "packages",
)


@dataclass(frozen=True)
class FinishedTrial:
    """One finished trial: its settings, where it ran, its metrics after the final task, and what it cost.

    Attributes:
        seconds_spent: of the attempt that finished.
        seconds_reused: what had the stages cost that this attempt took from the store.
        seconds_saved: the part of that which other trials had surely paid: what the trial's own earlier attempts spent is left out, as
            they may have trained what it took.
        seconds_lost: of its attempts that did not finish.
        unfinished: how those ended, one word each.

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
    def images(self) -> tuple[tuple[int, int], ...]:
        """Of each class how many images the metrics were taken on, and how many of them are defective."""
        return self.values.images


def finished_trials(store: ResultStore, selection: set[str] | None, split: str) -> list[FinishedTrial]:
    """The finished trials of `selection` (all when None), by trial id."""
    # A trial that finishes between the two reads has an attempt and no metrics yet, and is left for the next report.
    attempts = store.read("attempts", sorted({*_OWN, *_TOLD, *_ENVIRONMENT}))
    finished = holding(attempts["status"], FINISHED)
    others: dict[str, list[dict[str, Any]]] = {}
    for row in rows_of(attempts.filter(boolean_mask(~finished))):
        others.setdefault(row["trial_id"], []).append(row)
    metrics, told = final_metrics(store, split), _AttemptReader()
    found = [
        told.trial(row, metrics[key], others.get(row["trial_id"], ()))
        for row in rows_of(attempts.filter(boolean_mask(finished)))
        if (key := (row["trial_id"], row["attempt"])) in metrics and (selection is None or row["trial_id"] in selection)
    ]
    return sorted(found, key=lambda trial: trial.trial_id)


class _AttemptReader:
    """What rows of attempts tell of their trials. Trials of one configuration share one object of settings, read once."""

    def __init__(self) -> None:
        self._settings: dict[str, dict[str, object]] = {}
        self._environments: dict[tuple[object, ...], dict[str, str]] = {}
        self._factors: dict[str, dict[str, object]] = {}

    def trial(
        self, row: Mapping[str, Any], values: FinalMetrics, others: Sequence[Mapping[str, Any]] = ()
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
            **{name: row[name] for name in _OWN},
        )

    def _settings_of(self, row: Mapping[str, Any]) -> dict[str, object]:
        before_seed, seed, after = row["config"].rpartition('"seed":')
        text_without = row["config"] if seed in before_seed else before_seed + after.lstrip("-0123456789")
        if text_without not in self._settings:
            config = json.loads(row["config"])
            # Images are compared class by class: another order of the tasks is no other data set.
            if isinstance(digests := config.get("data_digests"), list):
                config["data_digests"] = dict(zip(config["data"]["tasks"], digests, strict=True))
            settings = values_before_knob_existed() | flatten_settings(config)
            settings.pop("seed", None)
            self._settings[text_without] = settings
        return self._settings[text_without]

    def _environment_of(self, row: Mapping[str, Any]) -> dict[str, str]:
        key = tuple(row[name] for name in (*_ENVIRONMENT, "packages"))
        if key not in self._environments:
            packages = {f"package {name}": str(version) for name, version in json.loads(row["packages"]).items()}
            own = {name: "none" if row[name] is None else setting_text(row[name]) for name in _ENVIRONMENT}
            self._environments[key] = own | packages
        return self._environments[key]


def flatten_settings(config: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings as {dotted path: value}."""
    flat: dict[str, object] = {}
    for key, value in config.items():
        flat |= (
            flatten_settings(value, f"{prefix}{key}.")
            if isinstance(value, Mapping) and value
            else {f"{prefix}{key}": value}
        )
    return flat
