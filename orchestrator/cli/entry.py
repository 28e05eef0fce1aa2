"""The command line: arguments in, one call out."""

from __future__ import annotations

import errno
import io
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from moleflow.errors import InvalidInput, MoleflowError, did_you_mean
from orchestrator.cli import completion, doctor, manage, reference, report, run, usage_errors
from orchestrator.cli.cache import cache
from orchestrator.cli.retry import retry
from orchestrator.exit_codes import FAILED, INVALID

STDOUT = 1
NAMING = ("--base", "--cache", "--data", "--out", "--profile", "--storage", "--to", "--address", "--weights")

app = typer.Typer(
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="""One YAML file in, honest comparison tables out.

    [bold]moleflow-sweep FILE[/] is short for [bold]moleflow-sweep run FILE[/].

    Examples:

      moleflow-sweep FILE                  run what is missing, print the tables
      moleflow-sweep FILE --data FOLDER    the same on real images
      moleflow-sweep FILE --dry-run        one training step each, nothing is kept
      moleflow-sweep FILE --backend slurm  as job arrays on a cluster
      moleflow-sweep FILE --backend ray    on Ray, here or on a running cluster
      moleflow-sweep plan FILE             what would run, and what is done
      moleflow-sweep prefetch FILE         weights and features before trials run
      moleflow-sweep report results/NAME   the tables again, from the Parquet
      moleflow-sweep compare DIR DIR       several sweeps side by side
      moleflow-sweep export DIR            tables and rows as CSV, LaTeX, Markdown
      moleflow-sweep verify REPORT         whether it is what the Parquet gives
      moleflow-sweep doctor                what is there, what each backend lacks
      moleflow-sweep help COMMAND          what a command takes, with examples
    """,
)


def _tell_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"moleflow-sweep {version('moleflow-sweep')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_tell_version, is_eager=True)
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
    report.export,
    doctor.doctor,
)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """The entry point: a sweep file as the first word means `run`; a user's mistake is one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # A terminal that has no "±" shows "?" and the run goes on.
            stream.reconfigure(errors="replace")
    given = itertools.pairwise([*sys.argv[1:], None])
    if empty := next((option for option, value in given if _is_empty(option, value)), None):
        _refuse(f"{empty.partition('=')[0]}: given ''; give a name or path, or leave it out")
    commands = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    completion.without_space()
    completion.write_out_run(os.environ, commands)
    words = _words(sys.argv[1:], commands)
    command = typer.main.get_command(app)
    for option in command.params:
        if option.name == "install_completion":
            option.help = completion.INSTALL  # type: ignore[attr-defined]
    try:
        code = command.main(args=words or ["--help"], prog_name="moleflow-sweep", standalone_mode=False, obj=main)
        sys.stdout.flush()
    except usage_errors.UsageError as error:
        _refuse(usage_errors.explain_usage_error(error, words))
    except InvalidInput as error:
        _refuse(str(error))
    except MoleflowError as error:
        _refuse(str(error), FAILED)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EPIPE) and _refuses(STDOUT):
            if error.errno == errno.EPIPE:  # Whoever read it has seen enough.
                raise SystemExit(FAILED) from None
            _refuse(f"stdout: cannot be written ({reason})", FAILED)
        _refuse(f"{error.filename or 'the system'}: {reason}", FAILED)
    if code or not words:
        raise SystemExit(code or INVALID)


def _is_empty(option: str | None, value: str | None) -> bool:
    """Whether an option that names something is given nothing; as a path, that would mean the folder at hand."""
    return (option in NAMING and value == "") or option in {f"{name}=" for name in NAMING}


def _words(typed: list[str], commands: list[str]) -> list[str]:
    """The words as typer takes them: every one of its commands is written out."""
    first, rest = typed[0] if typed else "--help", typed[1:]
    if first == "help":
        if rest and rest[0] not in commands:
            near = did_you_mean(rest[0], commands)
            _refuse(f"help: given '{rest[0]}', allowed: {' | '.join(commands)}{near}")
        return [*rest[:1], "--help"]
    if first == "--install-completion" and rest:
        _refuse(f"{first}: given '{rest[0]}', but it takes no value; it is for the shell that it is typed in")
    if first.startswith("-") or first in commands:
        return typed
    if not first:
        _refuse("given ''; give a sweep file or a command")
    if "." not in first and not Path(first).exists():
        hint = did_you_mean(first, commands)
        _refuse(f"'{first}' is neither a command ({', '.join(commands)}) nor a sweep file{hint}")
    if Path(first).is_dir():
        _refuse(f"{first}: is a folder, not a sweep file; of results: moleflow-sweep report {first} (or status)")
    return ["run", *typed]


def _refuses(stream: int) -> bool:
    """Whether nothing can be written to a file descriptor; then what is left for it goes nowhere, as leaving Python writes it."""
    try:
        os.write(stream, b"\n")
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        return True
    return False


def _refuse(message: str, code: int = INVALID) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)
