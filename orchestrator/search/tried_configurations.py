"""The configurations that a study has tried, and those that it has not."""

from __future__ import annotations

import random
from collections.abc import Mapping, Set
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from moleflow.errors import InvalidInput
from orchestrator.search.space import Key, Space, key_of

REASON, TRIALS, UNTRIED = "why", "trials", "untried"
"""User attributes of a configuration: why it failed, its trial ids, and those never handed out."""
REPEATED = "suggested before"
"""The reason of a suggestion that repeats an earlier one; it runs nothing."""
MOST_DRAWS = 100
"""Random configurations that are drawn to find one that was not tried."""


class TriedConfigurations:
    """The configurations of a study that are running or over, whatever became of them.

    A configuration that a dead driver left is none of them: it is queued again.

    Args:
        study: the study.
        space: the space of the search.

    """

    def __init__(self, study: optuna.Study, space: Space) -> None:
        self._study, self._space = study, space
        self._keys: dict[int, Key] = {}  # Of suggestions by number: their parameters stay.

    def keys(self, without: int | None = None) -> Set[Key]:
        """Return the keys of the tried configurations.

        Args:
            without: the number of a suggestion that does not count.

        """
        return {self._key(trial) for trial in self._study.get_trials(deepcopy=False) if self._counts(trial, without)}

    def another(self, near: Mapping[str, Any], tried: Set[Key], seed: str) -> dict[str, Any] | None:
        """Return a configuration that was not tried; None if there is none, or none was found.

        Args:
            near: in a space that can be listed, the configuration with the most equal knobs is
                taken.
            tried: the keys of the tried configurations.
            seed: decides among equally near ones, and what is drawn from a larger space.

        """
        stream = random.Random(seed)  # noqa: S311, draws have to be repeatable, not secret
        if self._space.listed is None:
            drawn = (self._space.drawn(stream) for _ in range(MOST_DRAWS))
            return next((one for one in drawn if key_of(one) not in tried and not self._space.is_excluded(one)), None)
        left = [factors for key, factors in self._space.listed.items() if key not in tried]
        if not left:
            return None
        equal = [sum(path in near and near[path] == value for path, value in one.items()) for one in left]
        return dict(stream.choice([one for one, count in zip(left, equal, strict=True) if count == max(equal)]))

    def left(self) -> int | None:
        """Return how many configurations were not tried; None if the space is not listed."""
        listed = self._space.listed
        return None if listed is None else len(listed.keys() - self.keys())

    def _counts(self, trial: FrozenTrial, without: int | None) -> bool:
        if trial.number == without or trial.state is TrialState.WAITING:
            return False
        taken_over = trial.state is TrialState.FAIL and REASON not in trial.user_attrs
        return bool(trial.params) and not taken_over

    def _key(self, trial: FrozenTrial) -> Key:
        key = self._keys.get(trial.number)
        if key is None:
            try:
                key = key_of(self._space.factors(trial.params))
            except InvalidInput:  # A whole number between two bounds that its knob does not allow.
                key = key_of(trial.params)
            if trial.state.is_finished():  # Until then another driver may still be drawing its knobs.
                self._keys[trial.number] = key
        return key


def exhausted_sentence(study: optuna.Study, space: Space) -> str:
    """Return a sentence if every configuration of the space was tried; an empty text if not."""
    if TriedConfigurations(study, space).left() != 0:
        return ""
    assert space.listed is not None
    return f"the space is exhausted: each of its {len(space.listed)} configurations was tried"
