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
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    lines = csv.reader(io.StringIO(text), delimiter=delimiter)
    header = [name.strip().casefold() for name in next(lines, [])]
    missing = [name for name in required if name not in header]
    if missing:
        there = ", ".join(header) or "none"
        raise InvalidInput(f"{path}: no column '{missing[0]}'; columns there: {there}; allowed: {', '.join(allowed)}")
    return [dict(zip(header, map(str.strip, line), strict=False)) for line in lines if any(map(str.strip, line))]
