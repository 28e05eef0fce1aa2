"""The commands run, plan, prefetch and trial."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from moleflow.errors import InvalidInput
from orchestrator.cli import completion
from orchestrator.cli.app import (
    BackendName,
    Base,
    CacheDir,
    Data,
    DataOfTrial,
    Device,
    File,
    Full,
    Notify,
    Out,
    Profile,
    Quiet,
    RerunStale,
    Sets,
    Storage,
    Threads,
    Workers,
    Yes,
    base_option,
    check_choice,
    check_profile,
    choice,
    load_sweep_file,
    naming_the_command,
    open_console,
    run_options,
    set_option,
)


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
        bool, typer.Option("--print-sbatch", help="Show the SLURM scripts that would be submitted; write nothing.")
    ] = False,
    workers: Workers = None,
    threads: Threads = 1,
    device: Device = "auto",
    address: Annotated[
        str | None, typer.Option("--address", help="A running Ray cluster: auto | HOST:PORT. Default: start Ray here.")
    ] = None,
    dashboard: Annotated[
        bool, typer.Option("--dashboard/--no-dashboard", help="Start Ray with its dashboard, or without.")
    ] = True,
    wait_for_nodes: Annotated[
        int,
        typer.Option(
            "--wait-for-nodes",
            min=0,
            max=100_000,
            help="With --address: begin once this many nodes have room for a trial; the autoscaler is asked for them.",
        ),
    ] = 0,
    storage: Storage = None,
    rebuild_study: Annotated[
        bool, typer.Option("--rebuild-study", help="Make a search's study again from the results in its folder.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="One training step per task for each distinct computation; keep nothing.")
    ] = False,
    yes: Yes = False,
    rerun_stale: RerunStale = False,
    quiet: Quiet = False,
    full: Full = False,
    notify: Notify = None,
    log_json: Annotated[
        bool,
        typer.Option(
            "--log-json",
            help="Print every event as one line of JSON on stdout, and nothing else there; tables go to stderr.",
        ),
    ] = False,
) -> None:
    r"""Run every trial of a sweep that is not finished yet, then print the answer and write tables.

    Finished trials are kept. The same command continues where the last one
    stopped, and runs only what is new after you add seeds or values.

    For instance:

      moleflow-sweep run sweeps/v7_gamma.yaml --base demo
      moleflow-sweep run sweeps/v7_gamma.yaml --data ~/mvtec --workers 4
      moleflow-sweep run sweeps/v7_gamma.yaml --set epochs=5 --out results/short
      moleflow-sweep run sweeps/v7_gamma.yaml --backend slurm \
          --profile slurm/profiles/mylab.yaml --data ~/mvtec --detach

    A line of --log-json holds time (seconds since 1970), kind, trial_id, label,
    the facts that the worker reported, trials_over, trials_total and seconds_left:

      moleflow-sweep run FILE --log-json | jq 'select(.kind == "epoch") | .loss'
    """
    from orchestrator.driver.dry_run import run_dry
    from orchestrator.driver.launch import print_scripts, run_prepared
    from orchestrator.driver.notify import check_notify
    from orchestrator.driver.prepare import prepare

    options = run_options(
        out=out,
        cache=cache,
        backend=backend,
        profile=profile,
        detach=detach,
        address=address,
        dashboard=dashboard,
        wait_for_nodes=wait_for_nodes,
        storage=storage,
        rebuild_study=rebuild_study,
        workers=workers,
        threads=threads,
        device=device,
        yes=yes,
        rerun_stale=rerun_stale,
        quiet=quiet or log_json,
        log_json=log_json,
        full=full,
        notify=notify,
    )
    for backend_of_option, name, given in (
        ("slurm", "--profile", profile),
        ("slurm", "--detach", detach),
        ("slurm", "--print-sbatch", print_sbatch),
        ("ray", "--address", address),
        ("ray", "--no-dashboard", not dashboard),
        ("ray", "--wait-for-nodes", wait_for_nodes),
    ):
        if given and backend != backend_of_option:
            raise InvalidInput(f"{name}: needs --backend {backend_of_option}; give that too, or leave {name} out")
    check_profile(profile, backend)
    if wait_for_nodes and not address:
        raise InvalidInput("--wait-for-nodes: needs --address, since a Ray of this run has one node; leave it out")
    if dry_run and (detach or print_sbatch):
        raise InvalidInput("--dry-run: runs in this process and submits nothing; leave --detach and --print-sbatch out")
    if log_json and (detach or print_sbatch):
        raise InvalidInput(
            "--log-json: prints events while the command follows trials; leave --detach and --print-sbatch out"
        )
    if notify is not None:
        check_notify(notify)
        if dry_run or detach or print_sbatch:
            raise InvalidInput(
                "--notify: hears of a run that this command follows; leave --dry-run, --detach and --print-sbatch out"
            )
    sweep = load_sweep_file(file, data, base, sets)
    if storage and sweep.search is None:
        raise InvalidInput(f"--storage: is for searches, and {file} has no `search:`; leave it out")
    if rebuild_study and (sweep.search is None or dry_run or print_sbatch):
        raise InvalidInput("--rebuild-study: is for a run of a sweep with `search:`; leave it out")
    action = run_dry if dry_run else print_scripts if print_sbatch else run_prepared
    console = open_console(stderr=log_json)
    with naming_the_command(console):
        raise typer.Exit(action(prepare(sweep, options), options, console))


def plan(
    file: File,
    data: Data = None,
    base: Base = None,
    sets: Sets = None,
    out: Out = None,
    cache: CacheDir = None,
    storage: Storage = None,
    backend: BackendName = "local",
    profile: Profile = None,
    threads: Threads = 1,
    device: Device = "auto",
    yes: Yes = False,
    rerun_stale: RerunStale = False,
    as_json: Annotated[bool, typer.Option("--json", help="The plan as one JSON document.")] = False,
) -> None:
    r"""List a sweep's trials: ids, the settings that differ, and which of them are finished.

    With --backend slurm also its jobs: arrays, GPU-hours, walltime and memory. They
    follow from finished trials, or from a training step that is timed here once.

    For instance:

      moleflow-sweep plan sweeps/v7_gamma.yaml
      moleflow-sweep plan sweeps/v7_gamma.yaml --data ~/mvtec --json
      moleflow-sweep plan sweeps/v7_gamma.yaml --backend slurm \
          --profile slurm/profiles/mylab.yaml --data ~/mvtec
    """
    from orchestrator.driver.preflight import check_backbones
    from orchestrator.driver.prepare import prepare
    from orchestrator.driver.slurm_plan import jobs_ahead, slurm_json, slurm_lines
    from orchestrator.driver.trial_cost import expected_time
    from orchestrator.plan import listing

    check_profile(profile, backend)
    options = run_options(
        out=out,
        cache=cache,
        storage=storage,
        backend=backend,
        profile=profile,
        threads=threads,
        device=device,
        yes=yes,
        rerun_stale=rerun_stale,
    )
    prepared = prepare(load_sweep_file(file, data, base, sets), options)
    check_backbones(prepared, options, fetch=False)
    about = prepared.sweep, prepared.plan, prepared.inputs
    expected = expected_time(prepared, options)
    ahead = jobs_ahead(prepared, options) if backend == "slurm" else None
    if as_json:
        document = listing.plan_json(*about, str(prepared.folder), expected)
        document |= {"slurm": slurm_json(ahead)} if backend == "slurm" else {}
        print(json.dumps(document, indent=1, ensure_ascii=False))
        return
    lines = [*listing.plan_header(*about, prepared.folder), *listing.work_lines(expected)]
    lines += listing.unseen_lines(prepared.inputs)
    lines += slurm_lines(ahead) if backend == "slurm" else ()
    print("\n".join([*lines, *listing.plan_lines(prepared.plan, prepared.sweep.search)]))


def prefetch(
    file: File,
    data: Data = None,
    base: Base = None,
    sets: Sets = None,
    cache: CacheDir = None,
    backend: Annotated[
        str,
        choice("--backend", ("local", "slurm"), "local (this process) | slurm (one job; the command waits for it)."),
    ] = "local",
    profile: Profile = None,
    threads: Threads = 1,
    device: Device = "auto",
    yes: Yes = False,
) -> None:
    r"""Fetch the weights and compute the features of all trials of a sweep.

    Its trials then need no network and no backbone.

    For instance:

      moleflow-sweep prefetch sweeps/v7_gamma.yaml --data ~/mvtec
      moleflow-sweep prefetch sweeps/v7_gamma.yaml --backend slurm \
          --profile slurm/profiles/mylab.yaml --data ~/mvtec
    """
    from orchestrator.driver.prefetch import run_prefetch

    check_choice("--backend", backend, ("local", "slurm"))
    check_profile(profile, backend)
    options = run_options(cache=cache, backend=backend, profile=profile, threads=threads, device=device, yes=yes)
    console = open_console()
    with naming_the_command(console):
        raise typer.Exit(run_prefetch(load_sweep_file(file, data, base, sets), options, console))


def trial(
    version: Annotated[
        str,
        typer.Option(
            "--version",
            help="The method: v1 | v2 | v3 | v4 | v4.1 | v5 | v6 | v7",
            autocompletion=completion.version_words,
        ),
    ],
    sets: Annotated[list[str] | None, set_option("knob=value, such as --set epochs=5; may be given often.")] = None,
    base: Annotated[
        str | None,
        base_option(
            "Base settings by name or .yaml path; `demo` takes minutes. "
            "Default: vit_b16, or demo if no images are given."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of all randomness in training.")] = 0,
    data: DataOfTrial = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Results folder. Default: results/trial-VERSION, or -BASE behind it with --base."),
    ] = None,
    cache: CacheDir = None,
    threads: Threads = 1,
    device: Device = "auto",
    keep: Annotated[
        bool, typer.Option("--keep", help="Store the trained detector with the results, for predict.")
    ] = False,
    quiet: Quiet = False,
    full: Full = False,
) -> None:
    """Run one trial, with any knob set.

    For instance:

      moleflow-sweep trial --version v7 --set focal_gamma=2 --base demo
      moleflow-sweep trial --version v3 --seed 1 --data ~/mvtec --keep
    """
    from orchestrator.driver.launch import run_prepared
    from orchestrator.driver.prepare import prepare
    from orchestrator.sweep.overrides import parse_sets
    from orchestrator.sweep.sweep import make_sweep

    document: dict[str, Any] = {"name": f"trial-{version}", "version": version, "base": "vit_b16", "seeds": [seed]}
    if keep:
        document["keep"] = "all"
    if sets:  # Tables name factors, so the settings become factors.
        document["list"] = [parse_sets(sets)]
    sweep = make_sweep(document, "the command line", Path(), base=base, data_root=data, environment=os.environ)
    options = run_options(
        out=out, cache=cache, backend="inline", threads=threads, device=device, quiet=quiet, full=full
    )
    console = open_console()
    with naming_the_command(console):
        raise typer.Exit(run_prepared(prepare(sweep, options), options, console))
