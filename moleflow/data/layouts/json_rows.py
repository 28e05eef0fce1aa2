"""JSON files that list images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moleflow.errors import InvalidInput
from moleflow.passing_errors import read


def json_value(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        InvalidInput: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(read(path))
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path}: is no JSON ({error}); correct it") from None


def text_of(entry: object, key: str, place: str) -> str:
    """The text under a key of an entry.

    Raises:
        InvalidInput: the entry is no mapping, or has no such text.
    """
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{place}: {key}: given {json.dumps(value)}, allowed: a text")
    return value
