"""The study of a search whose space was edited, or whose study is made again from the results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import TrialState

from moleflow.errors import InvalidInput, counted
from orchestrator.results.store import ResultStore
from orchestrator.search.drivers import DRIVER, is_driver_alive
from orchestrator.search.space import Space
from orchestrator.search.storage import begin_next_study
from orchestrator.search.stored_configurations import StoredConfiguration, as_optuna_trials, stored_configurations
from orchestrator.search.tried_configurations import TRIALS


def is_edited(study: optuna.Study, space: Space) -> bool:
    """Return true if the study's configurations were suggested from another space."""
    for trial in study.get_trials(deepcopy=False):
        known = [path for path in trial.params if path in space.distributions]
        if len(known) < len(trial.params) or space.optuna_distributions(known) != {**trial.distributions}:
            return True
        if TRIALS in trial.user_attrs:
            # A knob may have joined the space, or its condition may be another one.
            factors = space.factors(trial.params)
            if space.configuration_of(space.settings(factors)) != factors:
                return True
    return False


def continued_study(study: optuna.Study, space: Space, folder: Path, rebuild: bool) -> tuple[optuna.Study, str]:
    """Return the study to go on with, and a sentence about it for the user.

    It is the same study if its space is. Else it is another one in the same storage, which begins
    with the stored configurations that the space has. The caller holds the study's lock.

    Args:
        study: the latest study of the sweep.
        space: the space of the sweep file.
        folder: the results folder.
        rebuild: make the study again, whatever it holds.

    Raises:
        InvalidInput: other settings than the space were edited, or another driver runs the search.

    """
    if not rebuild and not is_edited(study, space):
        return study, ""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    if any(is_driver_alive(folder, owner) for trial in running if (owner := trial.user_attrs.get(DRIVER))):
        raise InvalidInput(
            f"{space.sweep.source}: search: another driver runs this search with the space from before; "
            "wait for its end, or stop it, and give the command again"
        )
    stored = in_edited_space(study, space, ResultStore(folder))
    begun = begin_next_study(space.sweep, study, as_optuna_trials(space, ResultStore(folder), stored))
    why = "is made again from the results" if rebuild else "goes on in the edited space"
    return begun, f"the search {why}: {counted(len(stored), 'stored configuration')} of it count as tried"


def in_edited_space(study: optuna.Study, space: Space, store: ResultStore) -> Sequence[StoredConfiguration]:
    """Return the stored configurations of an edited space.

    Raises:
        InvalidInput: more than the space was edited, so that the study's results are of another
            search.

    """
    stored = stored_configurations(space, store) if store.parts.is_dir() else []
    if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)) and not stored:
        raise InvalidInput(other_search(space, "other settings, seeds or images, or none of this space,"))
    return stored


def other_search(space: Space, results: str) -> str:
    """Return the message for a study whose results the sweep file cannot go on with."""
    return (
        f"{space.sweep.source}: search: the study holds results of {results} under this name; rename the sweep, and name "
        "its earlier results folder in search.start_from to try the best of them first"
    )
