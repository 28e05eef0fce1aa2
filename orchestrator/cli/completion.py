"""What a shell offers after Tab, where it is not a file: names of bases and versions, backends, knobs and their values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from importlib import import_module
from pathlib import Path

import typer

INSTALL = (
    "Install completion for the shell that this is typed in. It writes ~/.bash_completions/moleflow-sweep.sh and a line in ~/.bashrc "
    "(bash), ~/.zfunc/_moleflow-sweep and ~/.zshrc (zsh), or ~/.config/fish/completions/moleflow-sweep.fish (fish)."
)


def words_of(*words: str) -> Callable[[str], list[str]]:
    """Those of `words` that go on as typed."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def base_words(incomplete: str) -> list[str]:
    """The bases that come with the project."""
    from moleflow.settings.knobs import base_names

    return words_of(*base_names())(incomplete)


def version_words(incomplete: str) -> list[str]:
    """The method versions."""
    from moleflow.settings.knobs import version_names

    return words_of(*version_names())(incomplete)


def setting_words(incomplete: str) -> list[str]:
    """`knob=` while the name is typed, and `knob=value` after it where there are few values."""
    from moleflow.settings.knobs import choices, fields, knob, short_names

    name, given, _ = incomplete.partition("=")
    names = [path for path in (*short_names(), *fields()) if path != "seed"]
    if not given:
        return [f"{path}=" for path in names if path.startswith(incomplete)]
    if name not in names:
        return []
    return [f"{name}={value}" for value in choices(knob(name, "--set")) if f"{name}={value}".startswith(incomplete)]


def trial_words(ctx: typer.Context, incomplete: str) -> list[str]:
    """The ids of the trials of the sweep whose folder stands before."""
    from moleflow.errors import InvalidInput
    from orchestrator.records import sweep_folder

    try:
        sweep = sweep_folder.read_sweep_folder(Path(ctx.params["place"]))
    except (InvalidInput, KeyError, TypeError):
        return []
    return words_of(*sweep.trial_ids)(incomplete)


def without_space() -> None:
    """Have bash put no space after a completion that ends in `=`."""
    scripts = import_module("typer._completion_shared")._completion_scripts
    if "nospace" not in scripts["bash"]:
        rule = "    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace\n"
        scripts["bash"] = scripts["bash"].replace("    return 0\n", f"{rule}    return 0\n")


def write_out_run(environment: MutableMapping[str, str], commands: Iterable[str]) -> None:
    """Where a shell asks for words after `moleflow-sweep FILE`, ask as after `moleflow-sweep run FILE`."""
    for name in ("COMP_WORDS", "_TYPER_COMPLETE_ARGS"):
        program, _, rest = environment.get(name, "").partition(" ")
        first, more, _ = rest.partition(" ")
        if more and not first.startswith("-") and first not in commands:
            environment[name] = f"{program} run {rest}"
            if name == "COMP_WORDS":
                environment["COMP_CWORD"] = str(int(environment["COMP_CWORD"]) + 1)
