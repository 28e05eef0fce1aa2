"""One thing that was looked at."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["ok", "lacks", "note"]
PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Finding:
    """What was found.

    Attributes:
        name: what was looked at.
        state: ok; lacks = something cannot be done without it; note = good to know, and nothing stops for it.
        said: what was found, in one line.
        mend: the command, or the step, that mends it.

    """

    name: str
    state: State
    said: str
    mend: str | None = None


def install_hint(extra: str = "") -> str:
    """The command that installs this project, with an extra: from its checkout, where it runs from one."""
    wanted = f"[{extra}]" if extra else ""
    if (PROJECT / "pyproject.toml").is_file():
        pins = " -c constraints.txt" if (PROJECT / "constraints.txt").is_file() else ""
        return f"cd {PROJECT} && pip install -e '.{wanted}'{pins}"
    return f"pip install 'moleflow-sweep{wanted}'"


def run_program(
    command: Sequence[str], within_s: float, environment: Mapping[str, str] | None = None
) -> tuple[int | None, str, str]:
    """What a command answers: its exit code, stdout and stderr; the code is None where it is not there or answers too late."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=within_s,
            stdin=subprocess.DEVNULL,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, "", f"no answer within {within_s:g} s"
    except OSError as error:
        return None, "", error.strerror or str(error)
    return done.returncode, done.stdout, done.stderr


def one_line(text: str, most: int = 160) -> str:
    """The last line that says something: of a traceback the error, of a program's words the outcome."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1] if lines else "no word"
    return last if len(last) <= most else f"{last[: most - 1]}…"
