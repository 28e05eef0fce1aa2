"""The kinds of values in attempt records and event logs, which others may have written.

A reader leaves out a value of another kind, as it does with a line that a crash cut off. So no use
of a value needs a check of its own.
"""

from __future__ import annotations

import re
from typing import TypeGuard

_LARGEST = 2**53
"""The largest whole number that JSON keeps exactly in every program."""
_LATEST = 253_402_300_799.0
"""The end of the year 9999, in seconds since 1970: no later time has a date."""
_WORKER = re.compile(r"[^/\0]{1,200}")


def is_text(value: object) -> bool:
    """True for a text."""
    return isinstance(value, str)


def is_count(value: object) -> bool:
    """True for a whole number from 0 on."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def is_real(value: object) -> TypeGuard[int | float]:
    """True for a number; it may be NaN or infinite, as a loss may."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) <= _LARGEST


def is_time(value: object) -> bool:
    """True for a duration, or a time since 1970: a finite number from 0 to the year 9999."""
    return is_real(value) and 0 <= value <= _LATEST


def is_worker(value: object) -> bool:
    """True for the name of a worker, which is also a file's name."""
    return isinstance(value, str) and _WORKER.fullmatch(value) is not None


def is_mapping(value: object) -> bool:
    """True for a mapping."""
    return isinstance(value, dict)
