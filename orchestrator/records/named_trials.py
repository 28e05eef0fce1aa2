"""The trial that a user names: by its id, the first digits of it, or its name in any order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from moleflow.errors import InvalidInput


def named_trials(given: str, names: Mapping[str, str]) -> list[str]:
    """Return the ids of the trials that a word names.

    Args:
        given: an id, its first digits, or a name such as `focal_gamma=2 seed=0`, in the words of a
            plan or of a report. Digits are looked at only if they are no whole id and no name.
        names: {trial id: name}.
    """
    words, as_in_reports = _words(given), _as_in_reports(_words(given))
    exact = [trial_id for trial_id, name in names.items() if given == trial_id or words == _words(name)]
    exact = exact or [trial_id for trial_id, name in names.items() if as_in_reports == _as_in_reports(_words(name))]
    return exact or [trial_id for trial_id in names if given and trial_id.startswith(given)]


def refuse_several(given: str, found: Sequence[str]) -> None:
    """Refuse a word that names several trials.

    Raises:
        InvalidInput: it does.
    """
    if len(found) > 1:
        some = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
        raise InvalidInput(f"'{given}': names {len(found)} trials ({some}); give more of the id")


def _words(name: str) -> list[str]:
    """Return the settings of a name in an order of their own, as users type them in any."""
    return sorted(re.split(r"[,\s]+", name.strip()))


def _as_in_reports(words: Sequence[str]) -> list[str]:
    """Return the words as reports have them: `hidden=64` for `adapter.hidden=64`, no brackets."""
    return sorted(re.sub(r"^(version=|\w+\.(?=\w+=))|[\[\]]", "", word) for word in words)
