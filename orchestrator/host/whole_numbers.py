"""Numbers with their units and the bounds of intervals, which no line break may part."""

from __future__ import annotations

import re
import textwrap

NO_BREAK_SPACE = "\u00a0"
_NUMBER = r"[-+]?\d[\d.,]*(?:e[-+]?\d+)?%?"
_UNITS = r"%|px|s|ms|min|h|[KMGT]i?B|nats|more|seeds?|epochs?|compute-hours"
_BETWEEN = rf"(?<=[\d%]) (to|±|of|-) (?={_NUMBER})"
_BEFORE_A_UNIT = rf"(?<=\d) (?=(?:{_UNITS})(?![\w-]))"
_AFTER_A_NAME = r"(?<=\bn) (=) (?=\d)"
_SPACES = re.compile(f"{_BETWEEN}|{_BEFORE_A_UNIT}|{_AFTER_A_NAME}")
_STAND_IN = "\ue000"


def whole_numbers(text: str, space: str = NO_BREAK_SPACE) -> str:
    """Return the text with `space` where a line break would part a number from what belongs to it.

    Example:
        In `-0.07 to +0.15 over 3 seeds`, the spaces around `to` and the one before `seeds`.
    """
    return _SPACES.sub(lambda match: re.sub(" ", space, match[0]), text)


def wrapped_lines(text: str, width: int, indent: str = "") -> list[str]:
    """Return the lines of a text at most `width` characters wide, with whole numbers.

    A word that is longer, such as a path, stays whole. `indent` begins each line but the first.
    """
    joined = whole_numbers(text, _STAND_IN)
    lines = textwrap.wrap(joined, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return [line.replace(_STAND_IN, " ") for line in lines]
