"""What a study has found: its configurations as trials like any others, and the best of them."""

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
    """Every trial that a study has asked for, each id once; none where there is no study yet.

    Raises:
        InvalidInput: the storage cannot be opened, or the study is of another sweep.

    """
    if url is None and not (sweep_folder / JOURNAL).exists():
        return []
    return trials_of_study(study_of(sweep, sweep_folder, url), Space(sweep, inputs))


def study_of(sweep: Sweep, sweep_folder: Path, url: str | None) -> optuna.Study:
    """The study of a sweep with a search.

    Raises:
        InvalidInput: the storage cannot be opened, or the study has other objectives.

    """
    assert sweep.search is not None
    steps = len(Resolver(sweep).ground({})["data.tasks"]) * len(sweep.seeds)
    return open_study(sweep.name, sweep.search, steps, sweep_folder, url)


def trials_of_study(study: optuna.Study, space: Space) -> list[Trial]:
    """The trials of a study's configurations, in the order in which they were asked for, without those that nobody wants any more.

    Raises:
        InvalidInput: the study is of other settings, choices, seeds or images than the sweep is now.

    """
    by_id: dict[str, Trial] = {}
    for found in study.get_trials(deepcopy=False):
        if TRIALS in found.user_attrs:
            trials = space.trials(space.factors(found.params)) if space.fits(found.distributions) else []
            if [trial.id for trial in trials] != found.user_attrs[TRIALS]:
                raise InvalidInput(
                    f"{space.sweep.source}: search: the study holds results of other settings, choices, seeds or images "
                    "under this name; rename the sweep, or take a new folder"
                )
            untried = found.user_attrs.get(UNTRIED, ()) if found.state.is_finished() else ()
            for trial in trials:
                if trial.id not in untried:
                    by_id.setdefault(trial.id, trial)
    return list(by_id.values())


def best_trials(study: optuna.Study, count: int | None = None) -> list[FrozenTrial]:
    """The best configurations that keep the constraints: by the objective, or those that no other one beats in every objective.

    Each configuration comes once, however often it was suggested.
    """
    found = [t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if _feasible(t)]
    distinct = list({tuple(t.user_attrs[TRIALS]): t for t in reversed(found)}.values())[::-1]
    if len(study.directions) > 1:
        distinct = [t for t in distinct if not any(_beats(other, t, study.directions) for other in distinct)]
    ordered = sorted(distinct, key=lambda t: _signed(t.values, study.directions)[0], reverse=True)
    return ordered[:count]


def _feasible(trial: FrozenTrial) -> bool:
    return all(value <= 0 for value in (trial.constraints or {}).values())


def _beats(one: FrozenTrial, other: FrozenTrial, directions: list[StudyDirection]) -> bool:
    pairs = list(zip(_signed(one.values, directions), _signed(other.values, directions), strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def _signed(values: list[float], directions: list[StudyDirection]) -> list[float]:
    """Values of which more is better."""
    return [v if d is StudyDirection.MAXIMIZE else -v for v, d in zip(values, directions, strict=True)]
