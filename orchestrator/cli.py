"""The command line: arguments in, one call out."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from moleflow.errors import InvalidInput, MoleflowError, did_you_mean
from orchestrator import completion

FAILED, INVALID = 1, 2
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
File = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="The sweep file (YAML), such as sweeps/v7_gamma.yaml.", show_default=False),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Folder of classes in the MVTec AD layout. Default: the sweep file's, else MOLEFLOW_DATA, else embedded images.",
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        "--base",
        help="Base settings by name or .yaml path, in place of the file's own; `demo` is minutes of work.",
        autocompletion=completion.bases,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="knob=value for every trial, such as --set epochs=5; may be given often.",
        autocompletion=completion.settings,
    ),
]
Out = Annotated[Path | None, typer.Option("--out", help="Results folder. Default: results/<sweep name>.")]
CacheDir = Annotated[
    Path | None, typer.Option("--cache", help="Cache folder. Default: MOLEFLOW_CACHE, else ~/.cache/moleflow-sweep.")
]
BackendName = Annotated[
    str,
    typer.Option(
        "--backend",
        help="inline (this process) | local (worker processes on this machine) | slurm (job arrays) | ray (Ray Tune).",
        autocompletion=completion.of("inline", "local", "slurm", "ray"),
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        max=1024,
        help="Trials at once, local and ray. Default: one a GPU, else as many as cores and memory hold.",
    ),
]
Threads = Annotated[
    int, typer.Option("--threads", min=1, max=1024, help="CPU threads a trial; a part of the numeric environment.")
]
Device = Annotated[
    str, typer.Option("--device", help="auto | cpu | cuda", autocompletion=completion.of("auto", "cpu", "cuda"))
]
Yes = Annotated[bool, typer.Option("--yes", help="Go on with more than 10,000 trials.")]
RerunStale = Annotated[
    bool, typer.Option("--rerun-stale", help="Run finished trials again whose results other code made.")
]
Profile = Annotated[
    Path | None,
    typer.Option("--profile", help="A site's partition, account, limits: slurm/profiles/example.yaml explains them."),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="Where a search keeps its study: any URL that Optuna takes. Default: study.journal in the results folder.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, only the outcome.")]


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
    """What stands before a command."""


@app.command()
def run(
    file: File,
    data: Data = None,
    base: Base = None,
    sets: Sets = None,
    out: Out = None,
    cache: CacheDir = None,
    backend: BackendName = "local",
    profile: Profile = None,
    detach: Annotated[bool, typer.Option("--detach", help="Submit to SLURM and return.")] = False,
    print_sbatch: Annotated[
        bool, typer.Option("--print-sbatch", help="Show the SLURM scripts that would be submitted; nothing is written.")
    ] = False,
    workers: Workers = None,
    threads: Threads = 1,
    device: Device = "auto",
    address: Annotated[
        str | None, typer.Option("--address", help="A running Ray cluster: auto | HOST:PORT. Default: start Ray here.")
    ] = None,
    dashboard: Annotated[
        bool, typer.Option("--dashboard/--no-dashboard", help="Whether a Ray that is started here has a dashboard.")
    ] = True,
    storage: Storage = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="One training step a task for each distinct computation; nothing is kept.")
    ] = False,
    yes: Yes = False,
    rerun_stale: RerunStale = False,
    quiet: Quiet = False,
    log_json: Annotated[
        bool,
        typer.Option(
            "--log-json",
            help="Every event as one line of JSON on stdout, with its time, and nothing else there; tables go to stderr.",
        ),
    ] = False,
) -> None:
    r"""Run every trial of a sweep that is not finished yet, then print and write its tables.

    What has finished is kept: the same command goes on, and one with more
    seeds or values runs those alone.

    For instance:

      moleflow-sweep run sweeps/v7_gamma.yaml --base demo
      moleflow-sweep run sweeps/v7_gamma.yaml --data ~/mvtec --workers 4
      moleflow-sweep run sweeps/v7_gamma.yaml --set epochs=5 --out results/short
      moleflow-sweep run sweeps/v7_gamma.yaml --backend slurm \
          --profile slurm/profiles/mylab.yaml --data ~/mvtec --detach

    A line of --log-json holds time (seconds since 1970), kind, trial_id, label,
    what the worker told, trials_over, trials_total and seconds_left:

      moleflow-sweep run FILE --log-json | jq 'select(.kind == "epoch") | .loss'
    """
    from orchestrator import launch

    options = _options(
        out=out,
        cache=cache,
        backend=backend,
        profile=profile,
        detach=detach,
        address=address,
        dashboard=dashboard,
        storage=storage,
        workers=workers,
        threads=threads,
        device=device,
        yes=yes,
        rerun_stale=rerun_stale,
        quiet=quiet or log_json,
        log_json=log_json,
    )
    for name, given in (("--profile", profile), ("--detach", detach), ("--print-sbatch", print_sbatch)):
        if given and backend != "slurm":
            raise InvalidInput(f"{name}: is for SLURM; give --backend slurm too")
    if profile and not profile.is_file():
        raise InvalidInput(f"--profile: {profile}: no such file; slurm/profiles/example.yaml explains how to write one")
    for name, wanted in (("--address", address), ("--no-dashboard", not dashboard)):
        if wanted and backend != "ray":
            raise InvalidInput(f"{name}: is for Ray; give --backend ray too")
    if dry_run and (detach or print_sbatch):
        raise InvalidInput("--dry-run: runs in this process and submits nothing; leave --detach and --print-sbatch out")
    if log_json and (detach or print_sbatch):
        raise InvalidInput(
            "--log-json: tells what trials do while the command follows them; leave --detach and --print-sbatch out"
        )
    sweep = _sweep(file, data, base, sets)
    if storage and sweep.search is None:
        raise InvalidInput(f"--storage: is for searches, and {file} has none")
    prepared = launch.prepare(sweep, options)
    action = launch.dry_run if dry_run else launch.print_scripts if print_sbatch else launch.run
    raise typer.Exit(action(prepared, options, _console(stderr=log_json)))


@app.command()
def plan(
    file: File,
    data: Data = None,
    base: Base = None,
    sets: Sets = None,
    out: Out = None,
    cache: CacheDir = None,
    storage: Storage = None,
    yes: Yes = False,
    rerun_stale: RerunStale = False,
    as_json: Annotated[bool, typer.Option("--json", help="The plan as one JSON document.")] = False,
) -> None:
    """List a sweep's trials: ids, what differs between them, what is done and what would run.

    For instance:

      moleflow-sweep plan sweeps/v7_gamma.yaml
      moleflow-sweep plan sweeps/v7_gamma.yaml --data ~/mvtec --json
    """
    from orchestrator import launch, listing

    options = _options(out=out, cache=cache, storage=storage, yes=yes, rerun_stale=rerun_stale)
    prepared = launch.prepare(_sweep(file, data, base, sets), options)
    launch.check_backbones(prepared, options, fetch=False)
    about = prepared.sweep, prepared.plan, prepared.inputs
    if as_json:
        found = listing.as_json(*about, str(prepared.folder), launch.expected_work(prepared))
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    expected = launch.expected_work(prepared)
    print(
        "\n".join(
            [
                *listing.header(*about, prepared.folder),
                *listing.work_lines(expected),
                *listing.lines(prepared.plan, prepared.sweep.search),
            ]
        )
    )


@app.command()
def prefetch(
    file: File,
    data: Data = None,
    base: Base = None,
    sets: Sets = None,
    cache: CacheDir = None,
    backend: Annotated[
        str,
        typer.Option(
            "--backend",
            help="local (this process) | slurm (one job, which the command waits for).",
            autocompletion=completion.of("local", "slurm"),
        ),
    ] = "local",
    profile: Profile = None,
    threads: Threads = 1,
    device: Device = "auto",
    yes: Yes = False,
) -> None:
    r"""Fetch the weights and compute the features of all trials of a sweep, so that none of them needs a network or a backbone.

    For instance:

      moleflow-sweep prefetch sweeps/v7_gamma.yaml --data ~/mvtec
      moleflow-sweep prefetch sweeps/v7_gamma.yaml --backend slurm \
          --profile slurm/profiles/mylab.yaml --data ~/mvtec
    """
    from orchestrator import prefetch as made

    _allowed("--backend", backend, ("local", "slurm"))
    if profile and backend != "slurm":
        raise InvalidInput("--profile: is for SLURM; give --backend slurm too")
    options = _options(cache=cache, backend=backend, profile=profile, threads=threads, device=device, yes=yes)
    raise typer.Exit(made.run(_sweep(file, data, base, sets), options, _console()))


@app.command()
def trial(
    version: Annotated[
        str,
        typer.Option(
            "--version",
            help="The method: v1 | v2 | v3 | v4 | v4.1 | v5 | v6 | v7",
            autocompletion=completion.versions,
        ),
    ],
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="knob=value, such as --set epochs=5; may be given often.",
            autocompletion=completion.settings,
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            help="Base settings by name or .yaml path; `demo` is minutes of work. "
            "Default: vit_b16, or demo where no images are given.",
            autocompletion=completion.bases,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random in training.")] = 0,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Folder of classes in the MVTec AD layout. Default: MOLEFLOW_DATA, else embedded images."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Results folder. Default: results/trial-VERSION, and the base if not its own."),
    ] = None,
    cache: CacheDir = None,
    threads: Threads = 1,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Run a single task sequence, with any knob set.

    For instance:

      moleflow-sweep trial --version v7 --set focal_gamma=2 --base demo
      moleflow-sweep trial --version v3 --seed 1 --data ~/mvtec
    """
    from orchestrator import launch
    from orchestrator.spec import make_sweep, parse_sets

    document: dict[str, Any] = {"name": f"trial-{version}", "version": version, "base": "vit_b16", "seeds": [seed]}
    if sets:  # As factors they are named in the tables.
        once = {
            "version": f"the version is given by --version {version}; give it once, there",
            "seed": "give --seed {}",
        }
        document["list"] = [parse_sets(sets, once)]
    sweep = make_sweep(document, "the command line", Path(), base=base, data_root=data, environment=os.environ)
    options = _options(out=out, cache=cache, backend="inline", threads=threads, device=device, quiet=quiet)
    raise typer.Exit(launch.run(launch.prepare(sweep, options), options, _console()))


@app.command()
def report(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="A results folder, such as results/v7_gamma.", show_default=False),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every stored trial, not only those of the latest plan.")
    ] = False,
    split: Annotated[
        str,
        typer.Option(
            "--split",
            help="test | validation: which images the tables are about.",
            autocompletion=completion.of("test", "validation"),
        ),
    ] = "test",
    form: Annotated[
        str,
        typer.Option(
            "--format", help="markdown | csv | latex", autocompletion=completion.of("markdown", "csv", "latex")
        ),
    ] = "markdown",
    with_published: Annotated[
        bool, typer.Option("--with-published", help="Put the published rows beside the measured ones.")
    ] = False,
    published: Annotated[
        bool, typer.Option("--published", help="The published rows alone; needs no folder and writes nothing.")
    ] = False,
    html: Annotated[
        bool, typer.Option("--html", help="Also report.html: one file with tables, charts, trials and anomaly maps.")
    ] = False,
) -> None:
    """Make the comparison tables of a results folder anew; report.md, report.csv and report.tex are written there.

    For instance:

      moleflow-sweep report results/v7_gamma --html
      moleflow-sweep report results/v7_gamma --with-published
      moleflow-sweep report --published
    """
    from orchestrator import reporting

    _allowed("--format", form, ("markdown", "csv", "latex"))
    _allowed("--split", split, ("test", "validation"))
    if published and (folder or everything or with_published):
        raise InvalidInput(
            "--published: stands alone; for published rows beside those of a folder use report FOLDER --with-published"
        )
    if published and split != "test":
        raise InvalidInput("--split: is for a results folder, and published rows are about test images; leave it out")
    if not published and folder is None:
        raise InvalidInput("report: give a results folder, such as results/v7_gamma, or --published")
    if html and folder is None:
        raise InvalidInput("--html: is for a results folder: report FOLDER --html")
    made, paths = (
        (reporting.published_report(), {})
        if folder is None
        else reporting.report(folder, everything, with_published, split=split)
    )
    if html and folder is not None:
        paths["html"] = reporting.page(folder, made)
    print({"markdown": made.body, "csv": made.csv, "latex": made.latex}[form]())
    if paths:
        print(f"written: {', '.join(str(path) for path in paths.values())}", file=sys.stderr)


@app.command()
def claims(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR", help="Results folders; a contrast may span them.", show_default=False)
    ],
    everything: Annotated[
        bool, typer.Option("--all", help="Every stored trial, not only those of the latest plans.")
    ] = False,
) -> None:
    """Print the ledger of the update notes' claims: measured, interval, and held, refuted or undecided by stated rules.

    For instance:

      moleflow-sweep claims results/v7_gamma results/v3_ablation
    """
    from orchestrator.reports.claims import stated_claims
    from orchestrator.reports.ledger import ledger_markdown, read_ledger

    print(ledger_markdown(read_ledger(folders, everything), stated_claims().rules))


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="REPORT", help="A report.md, or its folder.", show_default=False)],
) -> None:
    """Make a report again from the Parquet beside it: exit code 0 if every byte is the same, 1 if not.

    For instance:

      moleflow-sweep verify results/v7_gamma/report.md
    """
    from orchestrator import reporting

    verdict = reporting.verify(file / "report.md" if file.is_dir() else file)
    print("\n".join(verdict.lines()))
    raise typer.Exit(0 if verdict.equal else FAILED)


@app.command()
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="As a page: every key and every knob.")] = False,
) -> None:
    """Print the JSON Schema of sweep files, for editors that complete YAML.

    For instance:

      moleflow-sweep schema > sweep.schema.json
      moleflow-sweep schema --markdown
    """
    from orchestrator.jsonschema import sweep_schema
    from orchestrator.reference import reference

    print(reference() if markdown else json.dumps(sweep_schema(), indent=1))


@app.command()
def knobs() -> None:
    """List every knob: path, short name, what it may be, its default and what it means.

    For instance:

      moleflow-sweep knobs | grep -A1 gamma
    """
    from moleflow.knobs import NOTES_OPTIONS, allowed, fields
    from orchestrator.trial import short, spell

    for path, field in fields().items():
        name = short(path)
        print(f"{path}" + (f"  (short: {name})" if name != path else ""))
        print(f"    {allowed(path)}; default {spell(field.default)}; {field.description}")
    print("\nOption names of the update notes that are knobs here:")
    for option, path in NOTES_OPTIONS.items():
        print(f"    --{option}: {path}")


@app.command("cache")
def cache_show(
    part: Annotated[
        str | None,
        typer.Argument(
            metavar="PART",
            help="With --clear: all | features | stages | defects. Default: all.",
            show_default=False,
            autocompletion=completion.of("all", "features", "stages", "defects"),
        ),
    ] = None,
    cache: CacheDir = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            help="What it may hold from now on, such as 50GB, or none: beyond it, what was used least recently goes. "
            "MOLEFLOW_CACHE_BUDGET stands above it.",
        ),
    ] = None,
    evict: Annotated[bool, typer.Option("--evict", help="Make room now, down to the budget.")] = False,
    clear: Annotated[
        bool,
        typer.Option(
            "--clear", help="Delete what is not in use by a running sweep: --clear features. Results are not touched."
        ),
    ] = False,
) -> None:
    """Show what the cache of features and stages holds, give it a budget, or make room in it.

    For instance:

      moleflow-sweep cache --budget 50GB --evict
      moleflow-sweep cache --clear features
    """
    from orchestrator import launch
    from orchestrator.cache import check, describe, empty, give_budget, make_room

    place = cache or launch.default_cache()
    check(place, part, evict, budget)
    if part is not None and not clear:
        raise InvalidInput(f"cache: given '{part}' alone; to delete it: moleflow-sweep cache --clear {part}")
    if budget is not None:
        print(give_budget(place, budget))
    print("\n".join(describe(place)))
    if evict:
        print(make_room(place))
    if clear:
        print(empty(place, part or "all"))


def _sweep(file: Path, data: Path | None, base: str | None, sets: list[str] | None) -> Any:
    from orchestrator.spec import load_sweep

    return load_sweep(file, sets=sets or (), base=base, data_root=data, environment=os.environ)


def _options(**given: Any) -> Any:
    from orchestrator.launch import Options

    _allowed("--backend", given.get("backend", "local"), ("inline", "local", "slurm", "ray"))
    _allowed("--device", given.get("device", "auto"), ("auto", "cpu", "cuda"))
    return Options(**given)


def _allowed(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        meant = {"gpu": "cuda"}.get(value.lower(), value)
        raise InvalidInput(f"{option}: given '{value}', allowed: {' | '.join(allowed)}{did_you_mean(meant, allowed)}")


def _console(stderr: bool = False) -> Any:
    from rich.console import Console

    # Labels and messages are shown as they are: "[...]" in them is no markup, and ":x:" no picture.
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True, stderr=stderr)


def main() -> None:
    """The entry point: a sweep file as the first word means `run`; a user's mistake is one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # A terminal that has no "±" shows "?" and the run goes on.
            stream.reconfigure(errors="replace")
    from orchestrator import control, further_commands, usage

    control.register(app)
    further_commands.register(app)
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
        code = command.main(args=words or ["--help"], prog_name="moleflow-sweep", standalone_mode=False)
        sys.stdout.flush()
    except usage.UsageError as error:
        _refuse(usage.explain(error, words))
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


if __name__ == "__main__":
    main()
