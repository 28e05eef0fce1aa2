"""The entry point: complete the words typed, run one command, turn errors into one line."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from moleflow.errors import InvalidInput, MoleflowError
from moleflow.suggestions import hint_at
from orchestrator.cli import completion, doctor, manage, reference, report, run, usage_errors
from orchestrator.cli.cache import cache
from orchestrator.cli.data import data
from orchestrator.cli.diff import diff
from orchestrator.cli.export import export
from orchestrator.cli.predict import predict
from orchestrator.cli.reproduce import reproduce
from orchestrator.cli.retry import retry
from orchestrator.exit_codes import FAILED, INVALID
from orchestrator.host.command_line import PROGRAM, program_name, without_typed_secrets
from orchestrator.host.disk import file_meant
from orchestrator.host.printable_text import single_line

STDOUT = 1
PATH_OPTIONS = (
    *("--base", "--cache", "--data", "--figure", "--html", "--into", "--maps", "--normals", "--out", "--profile"),
    *("--rows", "--storage", "--to", "--address", "--weights"),
)

app = typer.Typer(
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="""One YAML file in, honest comparison tables out.

    [bold]moleflow-sweep FILE[/] is short for [bold]moleflow-sweep run FILE[/].

    Examples:

      moleflow-sweep FILE                  run unfinished trials, print the tables
      moleflow-sweep FILE --data FOLDER    the same on real images
      moleflow-sweep FILE --dry-run        one training step each, nothing is kept
      moleflow-sweep FILE --backend slurm  as job arrays on a cluster
      moleflow-sweep FILE --backend ray    on Ray, here or on a running cluster
      moleflow-sweep plan FILE             list finished and unfinished trials
      moleflow-sweep prefetch FILE         fetch weights, compute features
      moleflow-sweep report results/NAME   make the tables again
      moleflow-sweep compare DIR DIR       several sweeps side by side
      moleflow-sweep diff TRIAL TRIAL DIR  two trials: settings, machine, metrics
      moleflow-sweep export DIR            tables, rows, charts; MLflow, TensorBoard, W&B
      moleflow-sweep predict DIR IMAGES    score new images with the best detector
      moleflow-sweep verify REPORT         check a report against stored results
      moleflow-sweep doctor                check this machine for each backend
      moleflow-sweep data FOLDER           look at images before anything runs
      moleflow-sweep help COMMAND          options of a command, with examples
    """,
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"{PROGRAM} {version(PROGRAM)}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options before a command."""


COMMANDS: tuple[Callable[..., None], ...] = (  # `--help` lists them in this order.
    run.run,
    run.plan,
    run.prefetch,
    run.trial,
    report.report,
    report.claims,
    report.verify,
    reference.schema,
    reference.knobs,
    cache,
    manage.status,
    manage.logs,
    manage.cancel,
    retry,
    manage.dashboard,
    report.compare,
    diff,
    export,
    predict,
    reproduce,
    doctor.doctor,
    data,
)
for command in COMMANDS:
    app.command()(command)
_NAMES = tuple(command.__name__ for command in COMMANDS)


def main() -> None:
    """Run the command line.

    Raises:
        SystemExit: with one of orchestrator.exit_codes; a user's mistake is one line and code 2.

    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # A terminal without "±" shows "?", and the run continues.
            stream.reconfigure(errors="replace")
    for option, value in itertools.pairwise([*sys.argv[1:], None]):
        name, equals, rest = (option or "").partition("=")
        # An empty value would become the path `.`: the current folder, which nobody meant.
        if name in PATH_OPTIONS and (rest if equals else value) == "":
            _refuse(f"{name}: given ''; give a name or path, or leave it out")
    completion.insert_run(os.environ, _NAMES)
    words = _with_command(sys.argv[1:])
    group = typer.main.get_command(app)
    for parameter in group.params:
        if parameter.name == "install_completion":
            parameter.help = completion.INSTALL  # type: ignore[attr-defined]
    _show_flags_without_type(group)
    try:
        code = group.main(args=words or ["--help"], prog_name=PROGRAM, standalone_mode=False, obj=main)
        sys.stdout.flush()
    except usage_errors.UsageError as error:
        _refuse(usage_errors.explain_usage_error(error, words))
    except InvalidInput as error:
        _refuse(str(error))
    except MoleflowError as error:
        _refuse(str(error), FAILED)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EPIPE) and _is_closed(STDOUT):
            if error.errno == errno.EPIPE:  # The reader, such as `head`, has read enough.
                raise SystemExit(FAILED) from None
            _refuse(f"stdout: cannot be written ({reason})", FAILED)
        _refuse(f"{file_meant(error) or 'the system'}: {reason}", FAILED)
    if code or not words:
        raise SystemExit(code or INVALID)


def _show_flags_without_type(group: Any) -> None:
    """Leave the type out of the help of flags: `--json <bool>` invites `--json true`."""
    for command in (group, *group.commands.values()):
        context = command.context_class(command, **(app.info.context_settings or {}))
        for parameter in (*command.params, command.get_help_option(context)):
            if getattr(parameter, "is_flag", False) and parameter.metavar is None:
                parameter.metavar = ""


def _with_command(typed: list[str]) -> list[str]:
    """Complete the words typed: `FILE` means `run FILE`, `help COMMAND` means `COMMAND --help`.

    Raises:
        SystemExit: the first word is neither a command nor a sweep file.

    """
    first, rest = typed[0] if typed else "--help", typed[1:]
    if first == "help":
        if rest and rest[0] not in _NAMES:
            near = hint_at(rest[0], _NAMES)
            _refuse(f"help: given '{rest[0]}', allowed: {' | '.join(_NAMES)}{near}")
        return [*rest[:1], "--help"]
    if first == "--install-completion" and rest:
        _refuse(f"{first}: given '{rest[0]}', but it takes no value; it installs for the current shell")
    if first.startswith("-") or first in _NAMES:
        return typed
    if not first:
        _refuse("given ''; give a sweep file or a command")
    if "." not in first and not Path(first).exists():
        hint = hint_at(first, _NAMES)
        _refuse(f"'{first}' is neither a command ({', '.join(_NAMES)}) nor a sweep file{hint}")
    if Path(first).is_dir():
        _refuse(f"{first}: is a folder, not a sweep file; for results: {program_name()} report {first} (or status)")
    return ["run", *typed]


def _is_closed(stream: int) -> bool:
    """Test if nothing can be written to a file descriptor; if so, redirect it to the null device.

    Python flushes stdout when it exits. On a closed pipe or a full disk, that would raise again.
    """
    try:
        os.write(stream, b"\n")
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        return True
    return False


def _refuse(message: str, code: int = INVALID) -> NoReturn:
    with contextlib.suppress(OSError):  # The terminal may be closed.
        print(f"error: {single_line(without_typed_secrets(message))}", file=sys.stderr)
    raise SystemExit(code)
