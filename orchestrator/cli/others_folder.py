"""Commands on results folders that others made: their text is shown, their damage explained."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ParamSpec, TypeVar

import typer

from moleflow.errors import InvalidInput, MoleflowError
from orchestrator.host.printable_text import printable, single_line

P = ParamSpec("P")
R = TypeVar("R")


def show(text: str, error: bool = False, end: str = "\n") -> None:
    """Print text of a folder. A terminal would obey the control characters in it."""
    print(printable(text), file=sys.stderr if error else sys.stdout, end=end, flush=True)


def explain_damage(argument: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a command so that values no worker writes are one line, and no traceback.

    Args:
        argument: the command's parameter with its folder or folders.
    """

    def decorate(command: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return command(*args, **kwargs)
            except (MoleflowError, typer.Exit, typer.Abort):
                raise
            except Exception as error:
                # An OSError of the system has a number, and says itself what is wrong.
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise InvalidInput(_explained(kwargs.get(argument), error)) from error

        return run

    return decorate


def _explained(given: object, error: Exception) -> str:
    places = given if isinstance(given, Iterable) and not isinstance(given, str | Path) else [given]
    last = traceback.extract_tb(error.__traceback__)[-1]
    kind = f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}"
    return (
        f"{', '.join(map(str, places))}: holds values that no worker writes ({kind}: {single_line(str(error)):.200}); "
        "check where the folder comes from, or run its sweep again into another folder (--out)"
    )
