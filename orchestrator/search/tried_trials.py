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
    return trials_of_study(open_study(sweep, sweep_folder, url), Space(sweep, inputs))


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
    configuration comes once, even if it was suggested several times. `count` limits their number.
    """
    if len(study.directions) > 1:
        best = study.best_trials
    else:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        best = [t for t in complete if all(violation <= 0 for violation in t.constraints.values())]
    distinct = list({tuple(t.user_attrs[TRIALS]): t for t in reversed(best)}.values())[::-1]
    maximize = study.directions[0] is StudyDirection.MAXIMIZE
    return sorted(distinct, key=lambda t: t.values[0] if maximize else -t.values[0], reverse=True)[:count]
