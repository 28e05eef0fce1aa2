"""The configurations of a space whose results are stored, as Optuna's finished trials."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from moleflow.errors import InvalidInput
from moleflow.settings.config import flatten_config
from moleflow.settings.knob_history import values_before_knob_existed
from orchestrator.results.schema import FINISHED
from orchestrator.results.store import ResultStore
from orchestrator.search.objective import Values, stored_values, violation
from orchestrator.search.space import Key, Space, key_of
from orchestrator.search.tried_configurations import REASON, TRIALS, UNTRIED
from orchestrator.sweep.file_schema import SELECTION, SearchKeys
from orchestrator.sweep.trial import Trial


def settings_of_row(config: str) -> dict[str, Any]:
    """Return the settings of a stored configuration as {dotted path: value}."""
    settings = values_before_knob_existed() | flatten_config(json.loads(config))
    return {path: _as_knob(value) for path, value in settings.items()}


def _as_knob(value: Any) -> Any:
    return tuple(map(_as_knob, value)) if isinstance(value, list) else value


@dataclass(frozen=True)
class StoredConfiguration:
    """A configuration of the space with at least one stored attempt.

    Attributes:
        factors: its factors.
        trials: its trials, one for each seed.
        ended: {trial id: status of its last attempt}.
        errors: the errors of failed trials.

    """

    factors: Mapping[str, Any]
    trials: Sequence[Trial]
    ended: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        """The ids of its trials."""
        return [trial.id for trial in self.trials]


def stored_configurations(space: Space, store: ResultStore) -> list[StoredConfiguration]:
    """Return the configurations of the space that have results, in the order in which they began.

    Raises:
        InvalidInput: there is no store, or one of another version.

    """
    found: dict[Key, StoredConfiguration] = {}
    columns = ["trial_id", "attempt", "status", "started_at", "config", "error"]
    rows = store.read("attempts", columns).to_pylist()
    for row in sorted(rows, key=lambda row: (row["started_at"], row["trial_id"], row["attempt"])):
        settings = settings_of_row(row["config"])
        factors = space.configuration_of(settings)
        if factors is None or settings.get("data.evaluate") != "validation":
            continue
        key = key_of(factors)
        if key not in found:
            try:
                found[key] = StoredConfiguration(factors, space.trials(factors))
            except InvalidInput:  # It was possible with other settings.
                continue
        one = found[key]
        if row["trial_id"] in one.ids and one.ended.get(row["trial_id"]) != FINISHED:
            one.ended[row["trial_id"]] = row["status"]
            if row["status"] == "failed":
                one.errors.append(row["error"])
    return [one for one in found.values() if one.ended]


def as_optuna_trials(
    space: Space, store: ResultStore, configurations: Sequence[StoredConfiguration]
) -> list[FrozenTrial]:
    """Return stored configurations as trials that can be added to a study.

    One with all values is complete. One that lacks a seed is queued, so that this seed alone runs.
    """
    ids = [trial_id for one in configurations for trial_id in one.ended]
    values = stored_values(store, ids)
    steps = _step_values(space.search, store, ids)
    return [_optuna_trial(space, one, values, steps) for one in configurations]


def _optuna_trial(
    space: Space,
    one: StoredConfiguration,
    values: Mapping[str, Values],
    steps: Mapping[str, Mapping[int, float]],
) -> FrozenTrial:
    search, parameters = space.search, space.parameters(one.factors)
    wanted = {*search.objectives, *search.constraints}
    known = [values[trial_id] for trial_id in one.ids if trial_id in values]
    facts: dict[str, Any] = {"user_attrs": {TRIALS: one.ids}}
    undefined = sorted(name for name in wanted if any(name not in of_trial for of_trial in known))
    if len(known) == len(one.ids) and not undefined:
        means = {name: mean(of_trial[name] for of_trial in known) for name in wanted}
        facts |= {
            "state": TrialState.COMPLETE,
            "values": [means[name] for name in search.objectives],
            "constraints": {name: violation(name, means[name], bound) for name, bound in search.constraints.items()}
            or None,
        }
    elif len(known) == len(one.ids) or one.errors:
        reason = one.errors[0] if one.errors else f"{', '.join(undefined)} is not defined on the validation images"
        facts["state"] = TrialState.FAIL
        facts["user_attrs"] |= {REASON: f"failed: {reason}"}
    elif "pruned" in one.ended.values():
        facts["state"] = TrialState.PRUNED
    else:
        # As Optuna's enqueue_trial() writes it.
        return optuna.trial.create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": parameters})
    untried = [trial_id for trial_id in one.ids if trial_id not in one.ended]
    facts["user_attrs"] |= {UNTRIED: untried} if untried else {}
    if search.pruner != "none":
        tasks = max((len(of_trial) for of_trial in steps.values()), default=0)
        facts["intermediate_values"] = {
            seed * tasks + task + 1: value
            for seed, trial_id in enumerate(one.ids)
            for task, value in steps.get(trial_id, {}).items()
        }
    return optuna.trial.create_trial(params=parameters, distributions=space.optuna_distributions(parameters), **facts)


def _step_values(search: SearchKeys, store: ResultStore, ids: Sequence[str]) -> dict[str, dict[int, float]]:
    """Return {trial id: {task: mean of the pruner's metric over the classes seen}}."""
    if search.pruner == "none":
        return {}
    (metric,) = search.objectives
    assert metric in SELECTION, "a pruner needs a metric of the images"
    rows: dict[str, dict[int, list[float | None]]] = {}
    for row in store.read("metrics", ["trial_id", "split", "after_task", metric]).to_pylist():
        if row["trial_id"] in ids and row["split"] == "validation":
            rows.setdefault(row["trial_id"], {}).setdefault(row["after_task"], []).append(row[metric])
    return {
        trial_id: {task: mean(v for v in of if v is not None) for task, of in by_task.items() if None not in of}
        for trial_id, by_task in rows.items()
    }
