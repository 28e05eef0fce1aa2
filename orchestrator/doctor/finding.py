"""The result of one check, and how checks run other programs."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "lacks", "note"]


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: the thing that was checked.
        state: `ok`; `lacks` = a backend or feature cannot work without it; `note` = worth knowing.
        said: the result, in one line.
        mend: the command or step that solves the problem.

    """

    name: str
    state: State
    said: str
    mend: str | None = None


def run_program(command: Sequence[str], within_s: float) -> tuple[int | None, str, str]:
    """Run a command and wait for it at most `within_s` seconds.

    Returns:
        Its exit code, stdout and stderr. If it does not exist or answers too late, the code is None
        and stderr says so.

    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=within_s,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, "", f"no answer within {within_s:g} s"
    except OSError as error:
        return None, "", error.strerror or str(error)
    return done.returncode, done.stdout, done.stderr


def one_line(text: str, most: int = 160) -> str:
    """Return the last line that is not empty: of a traceback, that is the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1] if lines else "no output"
    return last if len(last) <= most else f"{last[: most - 1]}…"
