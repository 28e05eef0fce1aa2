"""Where a search begins: what is tried before the sampler has anything to go by."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import optuna

from moleflow.errors import InvalidInput
from moleflow.settings.config import flatten_config
from moleflow.settings.knob_history import values_before_knob_existed
from orchestrator.reports import published
from orchestrator.results.store import ResultStore
from orchestrator.search.objective import stored_values
from orchestrator.search.space import Space
from orchestrator.sweep.file_schema import SearchKeys

MOST_A_FOLDER = 10
BEGUN = "begun"
OF_NO_ACCOUNT = ("seed", "data.evaluate")


def enqueue_initial_trials(study: optuna.Study, space: Space, search: SearchKeys, near: Path) -> int:
    """Put the first configurations of a new study into its queue, once; how many.

    The base itself comes first: a search that cannot beat it has to show that. Then earlier results, those with validation metrics in
    the order of these, never of test metrics; then the notes' variants, of which only the settings count.

    Args:
        study: the study.
        space: the space of the search.
        search: what the sweep file says of it.
        near: where relative folders start.

    Raises:
        InvalidInput: a folder of earlier results that holds none.

    """
    if study.user_attrs.get(BEGUN):
        return 0
    wanted: dict[tuple[Any, ...], dict[str, Any]] = {}
    for settings in (space.base(), *_earlier(search, near), *(_published() if search.published else ())):
        parameters = space.parameters(settings)
        if parameters:
            wanted.setdefault(tuple(sorted(parameters.items())), parameters)
    first = list(wanted.values())[: search.trials]
    for parameters in first:
        study.enqueue_trial(parameters, skip_if_exists=True)  # A driver may have died in the middle of this.
    study.set_user_attr(BEGUN, True)
    return len(first)


def _earlier(search: SearchKeys, near: Path) -> Iterator[Mapping[str, Any]]:
    """Configurations of earlier results, at most some of each folder, the best by their mean over the seeds first."""
    for name in search.start_from:
        folder = near / name
        if not (folder / "parts").is_dir():
            raise InvalidInput(
                f"search.start_from: {folder}: no results there; give folders that a run printed as 'results'"
            )
        store = ResultStore(folder)
        by_trial = {r["trial_id"]: r["config"] for r in store.read("attempts", ["trial_id", "config"]).to_pylist()}
        values = stored_values(store, list(by_trial))
        metric, direction = next(iter(search.objectives.items()))
        configs: dict[str, Mapping[str, Any]] = {}
        worth: dict[str, list[float]] = {}
        for trial_id, config in by_trial.items():
            flat = {path: value for path, value in _flat(config).items() if path not in OF_NO_ACCOUNT}
            key = str(sorted(flat.items()))
            configs[key] = flat
            worth.setdefault(key, []).extend(v[metric] for v in [values.get(trial_id, {})] if metric in v)
        sign = -1 if direction == "maximize" else 1
        order = sorted(configs, key=lambda key: sign * mean(worth[key]) if worth[key] else math.inf)
        yield from [configs[key] for key in order][:MOST_A_FOLDER]


def _published() -> Iterator[Mapping[str, Any]]:
    for rows in published.load_published().files:
        for run in rows.runs:
            settings = {**rows.settings, **run.settings, "version": run.version}
            yield {path: value for path, value in settings.items() if value != published.NOT_RECORDED}


def _flat(config: str) -> dict[str, Any]:
    settings = values_before_knob_existed() | flatten_config(json.loads(config))
    return {path: tuple(v) if isinstance(v, list) else v for path, v in settings.items()}
