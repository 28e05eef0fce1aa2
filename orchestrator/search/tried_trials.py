"""The trials of a study, and its best configurations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from moleflow.errors import InvalidInput
from moleflow.settings.config import TrialConfig
from orchestrator.results.store import ResultStore
from orchestrator.search.continued_study import in_edited_space, is_edited, other_search
from orchestrator.search.space import Space
from orchestrator.search.storage import JOURNAL, open_study
from orchestrator.search.tried_configurations import TRIALS, UNTRIED
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
    study, space = open_study(sweep, sweep_folder, url), Space(sweep, inputs)
    if is_edited(study, space):
        stored = in_edited_space(study, space, ResultStore(sweep_folder))
        return [trial for one in stored for trial in one.trials if trial.id in one.ended]
    return trials_of_study(study, space)


def trials_of_study(study: optuna.Study, space: Space) -> list[Trial]:
    """Return the trials of a study of this very space, in the order of the suggestions.

    Trials of stopped configurations that were never handed out are left out.

    Raises:
        InvalidInput: the sweep has other settings, seeds or images than the study.

    """
    by_id: dict[str, Trial] = {}
    for suggestion in study.get_trials(deepcopy=False):
        if TRIALS in suggestion.user_attrs:
            trials = space.trials(space.factors(suggestion.params))
            if [trial.id for trial in trials] != suggestion.user_attrs[TRIALS]:
                raise InvalidInput(other_search(space, "other settings, seeds or images"))
            untried = suggestion.user_attrs.get(UNTRIED, ()) if suggestion.state.is_finished() else ()
            for trial in trials:
                if trial.id not in untried:
                    by_id.setdefault(trial.id, trial)
    return list(by_id.values())


def finalist_name(position: int, number: int, is_ranked: bool) -> str:
    """Return a short name of a finalist, such as `best #17`.

    Args:
        position: its place in `best_trials`, from 0.
        number: the number of its configuration in the study.
        is_ranked: false with several objectives, whose best ones are a front.
    """
    if not is_ranked:
        return f"front #{number}"
    rank = position + 1
    ending = {1: "st", 2: "nd", 3: "rd"}.get(0 if rank % 100 in (11, 12, 13) else rank % 10, "th")
    return f"{'best' if rank == 1 else f'{rank}{ending}'} #{number}"


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
