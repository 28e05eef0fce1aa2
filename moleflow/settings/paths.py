"""Paths as settings files write them, with a home folder and environment variables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from moleflow.errors import InvalidInput

_VARIABLE = re.compile(r"\$(?:(\$)|([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")


def expand_path(text: str, source: str, environment: Mapping[str, str] | None = None) -> Path:
    """Return a path with `$NAME`, `${NAME}` and a leading `~` or `~user` filled in; `$$` is a `$`.

    Args:
        text: the path as the file has it.
        source: the file and key, for messages.
        environment: the variables; None = those of this process.

    Raises:
        InvalidInput: a variable that is not set or empty, or a user without a home folder.
    """
    variables = os.environ if environment is None else environment

    def value(match: re.Match[str]) -> str:
        name = match[2] or match[3]
        found = "$" if match[1] else variables.get(name, "")
        if not found:
            raise InvalidInput(
                f"{source}: {text}: the environment variable {name} is not set here; set it, write the path out, "
                "or write $$ for a $ in a name"
            )
        return found

    # The home folder first: a variable's value is taken as it is, also if it begins with ~.
    home = re.match(r"~[^/]*", text)
    rest = _VARIABLE.sub(value, text[len(home[0]) :] if home else text)
    if home is None:
        return Path(rest)
    try:
        return Path(str(Path(home[0]).expanduser()) + rest)
    except RuntimeError:
        raise InvalidInput(f"{source}: {text}: {home[0]} is no user with a home folder; write the path out") from None
