"""Commands that messages tell the user to type, spelled so that they work where the user stands."""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.host.provenance import ROOT
from orchestrator.host.storage_urls import HIDDEN, replace_secrets, url_without_secrets, word_without_secrets

PROGRAM = "moleflow-sweep"
STORAGE = "--storage"
NOTIFY = "--notify"
COMMAND_VARIABLE = "MOLEFLOW_COMMAND"
"""Set by a wrapper, such as `make demo`, to the command that the user typed."""


def arguments() -> tuple[str, ...]:
    """The words typed after the program's name, without secrets.

    Left out are secrets in the URLs of storages, and `--notify` with its value: a webhook's URL is
    a secret as a whole, and a command is for the run that it was typed for.
    """
    typed = _without_notify(sys.argv[1:])
    # A storage that is no URL, such as `u:p@host`, is refused later, but may be printed before.
    return tuple(
        url_without_secrets(word) if before == STORAGE else word_without_secrets(word)
        for before, word in itertools.pairwise(["", *typed])
    )


def _without_notify(words: Sequence[str]) -> list[str]:
    pairs = itertools.pairwise(["", *words])
    return [word for before, word in pairs if NOTIFY not in (before, word) and not word.startswith(f"{NOTIFY}=")]


def without_typed_secrets(message: str) -> str:
    """A message without the secrets in the URLs that the user typed, or in any other URL."""
    for before, word in itertools.pairwise(["", *sys.argv[1:]]):
        given = word if before == NOTIFY else word.removeprefix(f"{NOTIFY}=")
        if "://" in given and (before == NOTIFY or given != word):
            message = message.replace(given, HIDDEN)
    typed = [word.removeprefix(f"{STORAGE}=") for word in _without_notify(sys.argv[1:])]
    return replace_secrets(message, [word for word in typed if word_without_secrets(word) != word])


def holds_hidden_secret(words: Sequence[str]) -> bool:
    """True if a secret was taken out of stored words, so that they are no command to run."""
    return any("://" in word and HIDDEN in word for word in words)


def program_name() -> str:
    """The program as the user can type it again.

    Returns:
        `moleflow-sweep` if the shell finds this program under that name. Otherwise its path, as
        it was typed or relative to the current folder. `python -m orchestrator.cli` if it was
        started as a module.

    """
    started = Path(sys.argv[0])
    if started.name == "__main__.py":
        return f"{_typed(sys.executable)} -m orchestrator.cli"
    return _typed(sys.argv[0])


def command_to_repeat() -> str:
    """The command that does the same again: the wrapper's, or the program with its arguments."""
    return os.environ.get(COMMAND_VARIABLE) or f"{program_name()} {shlex.join(arguments())}"


def install_command(extra: str = "") -> str:
    """The command that installs this project from its checkout.

    Args:
        extra: one of its optional groups of packages, such as `ray`.

    """
    # The package is published nowhere: anybody could register its name, so no hint may use it.
    wanted = f"'.[{extra}]'" if extra else "."
    if not (ROOT / "pyproject.toml").is_file():
        return f"pip install -e {wanted} (in a checkout of the project)"
    pins = " -c constraints.txt" if (ROOT / "constraints.txt").is_file() else ""
    return f"cd {shlex.quote(str(ROOT))} && pip install -e {wanted}{pins}"


def _typed(program: str) -> str:
    """A program's name if the shell would find this very file under it, else its path."""
    if os.sep not in program:
        return shlex.quote(program)
    path = Path(os.path.abspath(program))
    # Do not follow symbolic links: the `python` of each virtual environment links to one file.
    if shutil.which(path.name) == str(path):
        return shlex.quote(path.name)
    if os.path.isabs(program) and path.is_relative_to(Path.cwd()):
        return shlex.quote(str(path.relative_to(Path.cwd())))
    return shlex.quote(program)
