"""Durations in words: seconds, minutes or hours, whichever a reader would say."""

from __future__ import annotations


def duration_text(seconds: float) -> str:
    """Return a duration such as 0.4 s, 9 s, 3 min 20 s, 48 min or 2 h 5 min."""
    if 0 < seconds < 0.95:
        return f"{seconds:.1g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    if minutes:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{rest} s"


def rough_duration(seconds: float) -> str:
    """Return an estimated duration without digits that it cannot have: 40 s, 26 min, 3 h 10 min."""
    step = 600 if seconds >= 3600 else 60 if seconds >= 120 else 10
    return duration_text(max(step, step * round(seconds / step)))


def axis_unit(seconds: float) -> tuple[str, float]:
    """Return the unit for durations up to `seconds`, and its seconds: ("min", 60.0)."""
    if seconds >= 3600:
        return "h", 3600.0
    return ("min", 60.0) if seconds >= 60 else ("s", 1.0)
