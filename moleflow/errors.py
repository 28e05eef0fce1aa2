"""Every error that this project raises on purpose.

MoleflowError
├── InvalidInput              a user's mistake: one line, exit code 2, nothing was written
│   ├── WeightsUnavailable    weights that are missing here and cannot be fetched
│   └── CodeChanged           the code was edited under a running process
├── Diverged                  a loss became NaN, infinite or absurdly large
└── Damaged                   stored bytes do not match their digest, and are never used
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MoleflowError(Exception):
    """Base of the errors above."""


class InvalidInput(MoleflowError):
    """A user's mistake. The message says what was given, what is allowed and what to do."""


class WeightsUnavailable(InvalidInput):
    """Weights that are missing on this machine cannot be fetched. No trial with them can run."""


class CodeChanged(InvalidInput):
    """The code was edited after this process started. No trial can run in it any more."""


class Diverged(MoleflowError):
    """A loss became NaN, infinite or absurdly large. The message names the task and the epoch."""


class Damaged(MoleflowError):
    """Stored bytes do not match the digest stored beside them."""


def did_you_mean(given: object, allowed: Iterable[str]) -> str:
    """`. Did you mean 'x'?` for the nearest of `allowed`; an empty string if none is near.

    Args:
        given: the user's text.
        allowed: the words that would do. A word counts as near too if it alone begins with `given`.
    """
    words = {word.lower(): word for word in allowed}
    text = str(given).lower()
    near = difflib.get_close_matches(text, list(words), n=1, cutoff=0.6)
    longer = [word for word in words if len(text) > 1 and word.startswith(text)]
    near = near or (longer if len(longer) == 1 else [])
    return f". Did you mean '{words[near[0]]}'?" if near else ""


def counted(number: int, noun: str) -> str:
    """Return a count with its noun, for messages: `1 seed`, `2,000 seeds`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
