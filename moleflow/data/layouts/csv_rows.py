"""The rows of a CSV file, whatever program wrote it."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from pathlib import Path

from moleflow.errors import InvalidInput
from moleflow.passing_errors import read


def csv_rows(path: Path, required: Collection[str], allowed: Collection[str]) -> list[dict[str, str]]:
    """The rows of a CSV file as {column: value}, without surrounding blanks.

    The columns are separated by commas, semicolons or tabs, and named in the first line in any
    case. The text is UTF-8, with or without a mark.

    Args:
        path: the file.
        required: columns that it must have.
        allowed: columns that mean something, for messages.

    Raises:
        InvalidInput: it cannot be read, or lacks a column.
    """
    try:
        text = read(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInput(f"{path}: is not a text in UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror})") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    try:
        lines = [[*map(str.strip, line)] for line in csv.reader(io.StringIO(text), delimiter=delimiter)]
    except csv.Error as error:
        raise InvalidInput(f"{path}: cannot be taken apart into columns ({error}); look for a quote too many") from None
    header = [name.casefold() for name in lines[0]] if lines else []
    twice = next((name for name in header if name in allowed and header.count(name) > 1), None)
    if twice:
        raise InvalidInput(f"{path}: the column '{twice}' is there twice; keep one of them")
    missing = [name for name in required if name not in header]
    if missing:
        there = ", ".join(header) or "none"
        raise InvalidInput(f"{path}: no column '{missing[0]}'; columns there: {there}; allowed: {', '.join(allowed)}")
    return [dict(zip(header, line, strict=False)) for line in lines[1:] if any(line)]
