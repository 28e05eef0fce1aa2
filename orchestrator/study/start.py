"""Where a search begins: what is tried before the sampler has anything to go by."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna

from moleflow.config import flatten
from moleflow.errors import InvalidInput
from orchestrator.reports import published
from orchestrator.results.store import ResultStore
from orchestrator.study.space import Space
from orchestrator.study.values import stored
from orchestrator.sweep_file import Search

MOST_A_FOLDER = 10


def begin(study: optuna.Study, space: Space, search: Search, near: Path) -> int:
    """Put the first configurations of an empty study into its queue; how many.

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
    if study.get_trials(deepcopy=False):
        return 0
    wanted: dict[tuple[Any, ...], dict[str, Any]] = {}
    for settings in (space.base(), *_earlier(search, near), *(_published() if search.published else ())):
        parameters = space.parameters(settings)
        if parameters:
            wanted.setdefault(tuple(sorted(parameters.items())), parameters)
    for parameters in list(wanted.values())[: search.trials]:
        study.enqueue_trial(parameters)
    return min(len(wanted), search.trials)


def _earlier(search: Search, near: Path) -> Iterator[Mapping[str, Any]]:
    """Configurations of earlier results, at most some of each folder."""
    for name in search.start_from:
        folder = near / name
        if not (folder / "parts").is_dir():
            raise InvalidInput(f"search.start_from: {folder}: no results there; allowed: folders that a sweep wrote")
        store = ResultStore(folder)
        by_trial = {r["trial_id"]: r["config"] for r in store.read("attempts", ["trial_id", "config"]).to_pylist()}
        values = stored(store, list(by_trial))
        metric, direction = next(iter(search.objectives.items()))
        known = [trial_id for trial_id in by_trial if metric in values.get(trial_id, {})]
        known.sort(key=lambda trial_id: values[trial_id][metric], reverse=direction == "maximize")
        configs: dict[str, Mapping[str, Any]] = {}
        for trial_id in (*known, *(trial_id for trial_id in by_trial if trial_id not in known)):
            flat = _flat(by_trial[trial_id])
            configs.setdefault(str({k: v for k, v in sorted(flat.items()) if k != "seed"}), flat)
        yield from list(configs.values())[:MOST_A_FOLDER]


def _published() -> Iterator[Mapping[str, Any]]:
    for rows in published.load().files:
        for run in rows.runs:
            settings = {**rows.settings, **run.settings, "version": run.version}
            yield {path: value for path, value in settings.items() if value != published.NOT_RECORDED}


def _flat(config: str) -> dict[str, Any]:
    return {path: tuple(v) if isinstance(v, list) else v for path, v in flatten(json.loads(config)).items()}
