"""Messages of the command line in the words of Python: `--trial` is `trial`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from moleflow.errors import InvalidInput

_OPTION = re.compile(r"--(?!help)([a-z][a-z-]*)( [A-Z]+)?")
_OTHERS = {"set": "sets"}  # Options whose argument of `run_sweep` has another name.


@contextmanager
def python_words() -> Iterator[None]:
    """Raise an InvalidInput of the body with arguments in place of options."""
    try:
        yield
    except InvalidInput as error:
        text = _OPTION.sub(lambda match: _argument(match[1]) + ("=..." if match[2] else ""), str(error))
        raise type(error)(text) from None


def _argument(option: str) -> str:
    return _OTHERS.get(option, option.replace("-", "_"))
