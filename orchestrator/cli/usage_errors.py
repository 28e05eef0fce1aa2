"""Mistakes in the use of options and arguments, each explained in one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import typer

from moleflow.suggestions import hint_at
from orchestrator.host.command_line import program_name

# Releases of typer use click, or their own copy of it. The errors are next to BadParameter.
_ERRORS: Any = import_module(typer.BadParameter.__module__)
_CONTEXTS: Any = import_module(f"{typer.BadParameter.__module__.rpartition('.')[0]}.globals")
UsageError: type[Exception] = _ERRORS.UsageError

VALUES = {
    "--address": "auto or HOST:PORT, as in --address auto",
    "--backend": "inline | local | slurm | ray, as in --backend slurm",
    "--base": "a base, as in --base demo",
    "--baseline": "knob=value, as in --baseline version=v3",
    "--budget": "a size or none, as in --budget 50GB",
    "--cache": "a folder, as in --cache /scratch/moleflow",
    "--caption": "a caption, as in --caption 'Focal loss on bolts'",
    "--chart": "a number or the beginning of a title, as in --chart 1",
    "--class": "the name of a class, as in --class bolt",
    "--classes": "names of classes, as in --classes bolt,nut",
    "--data": "a folder of classes, as in --data ~/mvtec",
    "--device": "auto | cpu | cuda, as in --device cpu",
    "--false-positive-rate": "a share above 0 and below 1, as in --false-positive-rate 0.01",
    "--figure": "a .pdf, .svg or .png file, as in --figure answer.pdf",
    "--format": "markdown | csv | latex, as in --format latex",
    "--gpus": "a whole number from 0 to 1024",
    "--html": "a file, as in --html look.html",
    "--into": "a folder, as in --into exports",
    "--map-format": "png | tiff, as in --map-format tiff",
    "--maps": "a folder, as in --maps maps",
    "--normals": "a folder of normal images, as in --normals ~/good",
    "--notify": "a command or a webhook, as in --notify ./tell.sh",
    "--only": "a published row, as in --only v3@224",
    "--out": "a folder, as in --out results/again; of predict a file, as in --out scores.csv",
    "--port": "a whole number from 0 to 65535",
    "--profile": "a file, as in --profile slurm/profiles/mylab.yaml",
    "--rows": "a file, as in --rows results/published/decoflow.yaml",
    "--seed": f"a whole number from 0 to {2**63 - 1}",
    "--set": "knob=value, as in --set epochs=5",
    "--split": "test | validation, as in --split validation",
    "--storage": "a URL, as in --storage sqlite:///study.db",
    "--table": "a number or the beginning of a title, as in --table 1",
    "--test-share": "a share above 0 and below 1, as in --test-share 0.25",
    "--threads": "a whole number from 1 to 1024",
    "--threshold": "a score, as in --threshold 12.5",
    "--to": "a file, as in --to tables.csv",
    "--trial": "the id or the name of a trial, as `status DIR` shows them",
    "--version": "one of v1, v2, ...",
    "--wait-for-nodes": "a whole number from 0 to 100,000",
    "--weights": "pretrained, a package or a file, as in --weights pretrained",
    "--what": "tables | metrics | scores | curves | attempts, as in --what scores",
    "--write-manifest": "a file, as in --write-manifest photos.csv",
    "--workers": "a whole number from 1 to 1024",
}
ARGUMENTS = {
    "FILE": "a sweep file, such as sweeps/v7_gamma.yaml",
    "DIR": "a results folder, such as results/v7_gamma",
    "TRIAL": "a trial too, as `status DIR` shows them",
    "RESULTS": "a results folder, or the file of a detector in it",
    "IMAGES": "image files, or folders of them, too",
    "TRIAL TRIAL [DIR]": "two trials, such as `diff 3f2a 90bc results/NAME`",
    "REPORT": "a report.md, or its folder, such as results/v7_gamma",
}
_ONE = {
    "FILE": "one sweep file",
    "DIR": "one results folder",
    "FOLDER": "one folder of images",
    "TRIAL": "one trial",
    "REPORT": "one report",
    "PART": "one part",
    "WORD": "one word",
}


def explain_usage_error(error: Any, words: Sequence[str]) -> str:
    """Return one line that names the mistake and the remedy.

    Args:
        error: a UsageError of typer.
        words: the words after the program's name.

    """
    context = error.ctx
    command = context.info_name if context is not None and context.parent is not None else ""
    if isinstance(error, _ERRORS.NoSuchOption):
        return _no_such_option(error.option_name, command, context, words)
    if isinstance(error, _ERRORS.BadOptionUsage):
        name = error.option_name
        return f"{name}: give {VALUES.get(name, 'a value')}" if words[-1] == name else f"{name}: takes no value"
    if isinstance(error, _ERRORS.MissingParameter):
        name = error.param.opts[0]
        if name.startswith("-"):
            return f"{command}: give {name}, {VALUES[name]}"
        return f"{command}: give {ARGUMENTS[error.param.metavar]}"
    if isinstance(error, _ERRORS.BadParameter):
        name = error.param.opts[0]
        if not name.startswith("-"):
            return f"{command}: {error.message.rstrip('.')}; give {ARGUMENTS[error.param.metavar]}"
        return f"{name}: given '{_given(name, words)}', allowed: {VALUES.get(name, 'another value')}"
    if context is not None and "extra argument" in error.message:
        return f"{command}: {_extra(error.message.rpartition('(')[2].rstrip(')'), context)}"
    return f"{command}: {error.message}" if command else error.message


def _no_such_option(name: str, command: str, context: Any, words: Sequence[str]) -> str:
    given = next((word.partition("=")[0] for word in words if word.startswith(name)), name)
    options = [] if context is None else [option for one in context.command.params for option in one.opts]
    near = _option_with_value(given.lstrip("-"), context)
    near = near or hint_at(given, [option for option in options if option.startswith("--")])
    from orchestrator.sweep.file_schema import SweepFile

    if not near and given.lstrip("-") in SweepFile.model_fields:
        near = f"; '{given.lstrip('-')}' is a key of sweep files, set it in one"
    more = near or f"; {' '.join([program_name(), command]).strip()} --help lists them"
    return f"{f'{command}: ' if command else ''}no option '{given}'{more}"


def option_that_takes(value: str) -> str:
    """`. Did you mean '--to mlflow'?` for the option of the running command that takes a word.

    An empty string if none does, or no command runs.
    """
    return _option_with_value(value, _CONTEXTS.get_current_context(silent=True))


def _option_with_value(value: str, context: Any) -> str:
    """As above, for a command's context: its options know their words, or name a kind of file."""
    named = [one for one in context.command.params if one.opts[0].startswith("--")] if context and value else []
    for one in named:
        offered = set() if one.is_flag else {item.value for item in one.shell_complete(context, value)}
        if value in offered:
            return f". Did you mean '{one.opts[0]} {value}'?"
        if any(word.startswith(f"{value}=") for word in offered):
            return f". Did you mean '{one.opts[0]} {value}=...'?"
    for one in named:
        if not one.is_flag and re.search(rf"\.{re.escape(value)}\b", one.help or ""):
            return f". Did you mean '{one.opts[0]} FILE.{value}'?"
    return ""


def _given(name: str, words: Sequence[str]) -> str:
    """Return the value of an option; the last one, if it was given several times."""
    value = ""
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word.partition("=")[0] == name:
            value = word.partition("=")[2] if "=" in word else after
    return value


def _extra(extra: str, context: Any) -> str:
    """Explain an argument too many."""
    taken = [one for one in context.command.params if not one.opts[0].startswith("-")]
    given = ", ".join(str(context.params[one.name]) for one in taken if context.params.get(one.name) is not None)
    if not taken:
        return f"given '{extra}'; it takes no argument"
    return f"given '{extra}' besides {given}; it takes {' and '.join(_ONE[one.metavar] for one in taken)}"
