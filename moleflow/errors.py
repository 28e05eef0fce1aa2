"""Every error that this project raises on purpose.

MoleflowError
├── InvalidInput      the user's mistake: one line, exit code 2, nothing was written
│   ├── Unreachable   weights that are not here cannot be fetched: no trial that needs them can run
│   └── CodeChanged   the code was edited under a running process, which would mix both: no trial can run in it any more
├── Diverged          a loss became NaN, infinite or absurd: the attempt fails and names the epoch
└── Damaged           something stored does not match its own digest: it is never used
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MoleflowError(Exception):
    """Base of the errors above."""


class InvalidInput(MoleflowError):
    """A mistake in what the user gave. The message says what was given, what is allowed and what to do."""


class WeightsUnavailable(InvalidInput):
    """Weights that are not on this machine cannot be fetched."""


class CodeChanged(InvalidInput):
    """The code on disk is not the code that this process was started with."""


class Diverged(MoleflowError):
    """Training left the finite numbers. The message names the task and the epoch."""


class Damaged(MoleflowError):
    """Stored bytes do not match the digest stored beside them."""


def did_you_mean(given: object, allowed: Iterable[str]) -> str:
    """`. Did you mean 'x'?` for the nearest of `allowed`, or for the one that begins so; an empty string when nothing is near."""
    words = {word.lower(): word for word in allowed}
    text = str(given).lower()
    near = difflib.get_close_matches(text, list(words), n=1, cutoff=0.6)
    longer = [word for word in words if len(text) > 1 and word.startswith(text)]
    near = near or (longer if len(longer) == 1 else [])
    return f". Did you mean '{words[near[0]]}'?" if near else ""
