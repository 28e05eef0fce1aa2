"""The trials of a study, and its best configurations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from moleflow.errors import InvalidInput
from moleflow.settings.config import TrialConfig
from orchestrator.search.optuna_search import TRIALS, UNTRIED
from orchestrator.search.space import Space
from orchestrator.search.storage import JOURNAL, open_study
from orchestrator.sweep.resolver import Resolver
from orchestrator.sweep.sweep import Sweep
from orchestrator.sweep.trial import Inputs, Trial


def tried_trials(
    sweep: Sweep, inputs: Callable[[TrialConfig], Inputs], sweep_folder: Path, url: str | None
) -> list[Trial]:
    """Return every trial that a search has started, each id once; none before the study exists.

    Raises:
        InvalidInput: the storage cannot be opened, or the study is of another sweep.

    """
    if url is None and not (sweep_folder / JOURNAL).exists():
        return []
    return trials_of_study(study_of(sweep, sweep_folder, url), Space(sweep, inputs))


def study_of(sweep: Sweep, sweep_folder: Path, url: str | None) -> optuna.Study:
    """Open the study of a sweep that has a search, or create it.

    Raises:
        InvalidInput: the storage cannot be opened, or the study has other objectives.

    """
    assert sweep.search is not None
    steps = len(Resolver(sweep).base_values({})["data.tasks"]) * len(sweep.seeds)
    return open_study(sweep.name, sweep.search, steps, sweep_folder, url)


def trials_of_study(study: optuna.Study, space: Space) -> list[Trial]:
    """Return the trials of a study's configurations, in the order of the suggestions.

    Trials of stopped configurations that were never handed out are left out.

    Raises:
        InvalidInput: the sweep has other settings, choices, seeds or images than the study.

    """
    by_id: dict[str, Trial] = {}
    for suggestion in study.get_trials(deepcopy=False):
        if TRIALS in suggestion.user_attrs:
            compatible = space.is_compatible(suggestion.distributions)
            trials = space.trials(space.factors(suggestion.params)) if compatible else []
            if [trial.id for trial in trials] != suggestion.user_attrs[TRIALS]:
                raise InvalidInput(
                    f"{space.sweep.source}: search: the study holds results of other settings, choices, seeds or images "
                    "under this name; rename the sweep, or give another folder with --out"
                )
            untried = suggestion.user_attrs.get(UNTRIED, ()) if suggestion.state.is_finished() else ()
            for trial in trials:
                if trial.id not in untried:
                    by_id.setdefault(trial.id, trial)
    return list(by_id.values())


def best_trials(study: optuna.Study, count: int | None = None) -> list[FrozenTrial]:
    """Return the best complete configurations that meet the constraints, the best first.

    With several objectives these are the Pareto front, sorted by the first objective. Each
    configuration comes once, even if it was suggested several times.

    Args:
        study: the study.
        count: how many to return; None = all.

    """
    complete = [t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if _feasible(t)]
    distinct = list({tuple(t.user_attrs[TRIALS]): t for t in reversed(complete)}.values())[::-1]
    if len(study.directions) > 1:
        distinct = [t for t in distinct if not any(_dominates(other, t, study.directions) for other in distinct)]
    ordered = sorted(distinct, key=lambda t: _to_maximize(t.values, study.directions)[0], reverse=True)
    return ordered[:count]


def _feasible(trial: FrozenTrial) -> bool:
    return all(value <= 0 for value in (trial.constraints or {}).values())


def _dominates(one: FrozenTrial, other: FrozenTrial, directions: list[StudyDirection]) -> bool:
    pairs = list(zip(_to_maximize(one.values, directions), _to_maximize(other.values, directions), strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def _to_maximize(values: list[float], directions: list[StudyDirection]) -> list[float]:
    """Return the values with the signs changed of those to minimise."""
    return [v if d is StudyDirection.MAXIMIZE else -v for v, d in zip(values, directions, strict=True)]
