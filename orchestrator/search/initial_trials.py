"""The initial trials of a search: configurations that are tried before the sampler suggests any."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import optuna

from moleflow.errors import InvalidInput
from moleflow.settings.paths import expand_path
from orchestrator.reports import published
from orchestrator.results.store import ResultStore
from orchestrator.search.objective import stored_values
from orchestrator.search.space import Space
from orchestrator.search.stored_configurations import settings_of_row
from orchestrator.sweep.file_schema import SearchKeys

MOST_PER_FOLDER = 10
QUEUED = "begun"
"""User attribute of a study whose initial trials are queued."""


def enqueue_initial_trials(study: optuna.Study, space: Space, folder: Path) -> int:
    """Queue the initial configurations of a new study, at most once and at most `search.trials`.

    The base comes first, so that the search has to beat it. Earlier results follow, the best
    validation metric first; test metrics are never read. The notes' variants come last.

    Relative paths in `start_from` start from `folder`.

    Returns:
        The number of configurations that were queued.

    Raises:
        InvalidInput: a folder of `start_from` that holds no results, or whose path names a variable
            that is not set.

    """
    if study.user_attrs.get(QUEUED):
        return 0
    distinct: dict[tuple[Any, ...], dict[str, Any]] = {}
    for settings in (
        space.base(),
        *_earlier_results(space.search, folder),
        *(_published() if space.search.published else ()),
    ):
        parameters = space.parameters(settings)
        if parameters:
            distinct.setdefault(tuple(sorted(parameters.items())), parameters)
    first = list(distinct.values())[: space.search.trials]
    for parameters in first:
        # Another driver may have died in the middle of this loop.
        study.enqueue_trial(parameters, skip_if_exists=True)
    study.set_user_attr(QUEUED, True)
    return len(first)


def _earlier_results(search: SearchKeys, near: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the settings of earlier results, each folder's best by mean validation metric first."""
    metric, direction = next(iter(search.objectives.items()))
    sign = -1 if direction == "maximize" else 1
    for name in search.start_from:
        folder = near / expand_path(name, "search.start_from")
        if not (folder / "parts").is_dir():
            raise InvalidInput(
                f"search.start_from: {folder}: no results there; give folders that a run printed as 'results'"
            )
        store = ResultStore(folder)
        by_trial = {r["trial_id"]: r["config"] for r in store.read("attempts", ["trial_id", "config"]).to_pylist()}
        values = stored_values(store, list(by_trial))
        configs: dict[str, Mapping[str, Any]] = {}
        metrics: dict[str, list[float]] = {}
        for trial_id, config in by_trial.items():
            # Without the seed, the trials of one configuration have one key.
            flat = {
                path: value for path, value in settings_of_row(config).items() if path not in ("seed", "data.evaluate")
            }
            key = str(sorted(flat.items()))
            configs[key] = flat
            metrics.setdefault(key, []).extend(v[metric] for v in [values.get(trial_id, {})] if metric in v)
        ranked = sorted(configs, key=lambda key: sign * mean(metrics[key]) if metrics[key] else math.inf)
        yield from [configs[key] for key in ranked][:MOST_PER_FOLDER]


def _published() -> Iterator[Mapping[str, Any]]:
    for rows in published.load_published().files:
        for run in rows.runs:
            settings = {**rows.settings, **run.settings, "version": run.version}
            yield {path: value for path, value in settings.items() if value != published.NOT_RECORDED}
