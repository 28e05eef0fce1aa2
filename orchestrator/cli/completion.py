"""Words that a shell offers after Tab: bases, versions, knobs, values and trial ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from pathlib import Path

import typer

INSTALL = (
    "Install completion for the current shell. It writes ~/.bash_completions/moleflow-sweep.sh and a line in ~/.bashrc "
    "(bash), ~/.zfunc/_moleflow-sweep and ~/.zshrc (zsh), or ~/.config/fish/completions/moleflow-sweep.fish (fish)."
)


def words_of(*words: str) -> Callable[[str], list[str]]:
    """A completer that offers those of `words` that begin as typed."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def base_words(incomplete: str) -> list[str]:
    """Offer the bases that come with the project."""
    from moleflow.settings.knobs import base_names

    return words_of(*base_names())(incomplete)


def version_words(incomplete: str) -> list[str]:
    """Offer the method versions."""
    from moleflow.settings.knobs import version_names

    return words_of(*version_names())(incomplete)


def setting_words(incomplete: str) -> list[str]:
    """Offer `knob=` while several knobs fit, and `knob=value` once one does.

    A shell puts a space after a word that is offered alone, and `knob= ` would be wrong.
    So `knob=` is never offered alone: with it go the knob's values, or its default.
    """
    from moleflow.settings.knobs import choices, fields, knob, short_names
    from orchestrator.sweep.trial import spell

    typed = incomplete.partition("=")[0]
    names = [path for path in (*short_names(), *fields()) if path != "seed"]
    begun = [typed] if "=" in incomplete else [name for name in names if name.startswith(typed)]
    if len(begun) != 1 or begun[0] not in names:
        return [f"{name}=" for name in begun if name in names]
    path = knob(begun[0], "--set")
    default = fields()[path].default
    values = choices(path) or ["", f"[{spell(default)}]" if isinstance(default, tuple | list) else spell(default)]
    return words_of(*(f"{begun[0]}={value}" for value in values))(incomplete)


def trial_words(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the trial ids of the sweep whose folder was typed before."""
    from moleflow.errors import InvalidInput
    from orchestrator.records import sweep_folder

    try:
        sweep = sweep_folder.read_sweep_folder(Path(ctx.params["place"]))
    except (InvalidInput, KeyError, TypeError):
        return []
    return words_of(*sweep.trial_ids)(incomplete)


def insert_run(environment: MutableMapping[str, str], commands: Iterable[str]) -> None:
    """Complete `moleflow-sweep FILE ...` as `moleflow-sweep run FILE ...`.

    Args:
        environment: its variables are changed in place. Bash passes the words in COMP_WORDS, other
            shells in _TYPER_COMPLETE_ARGS.
        commands: names that are no sweep file.

    """
    for name in ("COMP_WORDS", "_TYPER_COMPLETE_ARGS"):
        program, _, rest = environment.get(name, "").partition(" ")
        first, more, _ = rest.partition(" ")
        if more and not first.startswith("-") and first not in commands:
            environment[name] = f"{program} run {rest}"
            if name == "COMP_WORDS":
                environment["COMP_CWORD"] = str(int(environment["COMP_CWORD"]) + 1)
