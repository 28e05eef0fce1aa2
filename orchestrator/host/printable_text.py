"""Text that others wrote, made safe to show: on a terminal and in reports."""

from __future__ import annotations

import re

_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and newline, DEL and C1: terminals obey them.
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # Marks that turn the order of characters around.
    "\ud800-\udfff]"  # Half characters, which no file can hold.
)


def printable(text: str) -> str:
    r"""The text with each control character as `\uXXXX`, which JSON reads back as the character.

    Example:
        `printable("\x1b[2J")` is the text `\u001b[2J`.
    """
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def without_controls(text: str) -> str:
    """The text without its control characters."""
    return _CONTROLS.sub("", text)


def single_line(text: str) -> str:
    """The text in one line, with single spaces and no control character."""
    return printable(" ".join(text.split()))
