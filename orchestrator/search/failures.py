"""The reason why a search found nothing."""

from __future__ import annotations

import re
from collections import Counter

import optuna
from optuna.trial import TrialState

from orchestrator.search.tried_configurations import REASON, TRIALS


def failure_sentence(study: optuna.Study) -> str:
    """Return why no configuration is complete; an empty text if one is, or if none failed."""
    trials = study.get_trials(deepcopy=False)
    # Without TRIALS it was refused and never ran; without REASON its driver died.
    ran = [t.user_attrs for t in trials if t.state is TrialState.FAIL and {REASON, TRIALS} <= t.user_attrs.keys()]
    reasons = [attributes[REASON] for attributes in ran]
    reasons = [reason.removeprefix("failed: ") for reason in reasons]
    if not reasons or any(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials):
        return ""
    # Errors that differ in numbers alone count as one.
    shapes = Counter(_shape(reason) for reason in reasons)
    shape, count = shapes.most_common(1)[0]
    first = next(reason for reason in reasons if _shape(reason) == shape)
    return f"each configuration failed; the commonest error, {count} of {len(reasons)}: {first}"


def _shape(reason: str) -> str:
    return re.sub(r"\d+(\.\d+)?(e[-+]?\d+)?", "#", reason)
