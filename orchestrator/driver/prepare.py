"""From a sweep and a command's options to a checked plan, before anything is written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from moleflow.code_digest import code_digest
from moleflow.errors import InvalidInput
from moleflow.owner import owner_code
from moleflow.settings.paths import expand_path
from orchestrator.execution.backend import WorkerConfig
from orchestrator.host import disk, provenance
from orchestrator.host.cache_folder import default_cache
from orchestrator.host.command_line import install_command
from orchestrator.host.hardware import visible_gpus
from orchestrator.plan.cost_estimate import WorkEstimate, estimate_work, seconds_per_step
from orchestrator.plan.earlier_trials import earlier_finished_trials
from orchestrator.plan.inputs import SweepInputs, scan_inputs
from orchestrator.plan.plan import Plan, make_plan
from orchestrator.records import sweep_folder
from orchestrator.results.store import ResultStore
from orchestrator.sweep import expansion
from orchestrator.sweep.sweep import Sweep
from orchestrator.sweep.trial import Trial, label


@dataclass(frozen=True)
class Options:
    """The options of a run, named as on the command line."""

    out: Path | None = None
    cache: Path | None = None
    backend: Literal["inline", "local", "slurm", "ray"] = "local"
    address: str | None = None
    dashboard: bool = True
    wait_for_nodes: int = 0
    profile: Path | None = None
    detach: bool = False
    workers: int | None = None
    threads: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    storage: str | None = None
    rebuild_study: bool = False
    yes: bool = False
    rerun_stale: bool = False
    quiet: bool = False
    log_json: bool = False
    full: bool = False
    notify: str | None = None


@dataclass(frozen=True)
class Prepared:
    """A checked sweep with its inputs and its plan; nothing has been written yet.

    Attributes:
        sweep: the sweep.
        inputs: its images and weights.
        folder: the results folder.
        cache: the cache folder.
        plan: every known trial and its state.
        sample: trials that stand for all: the plan's own, or those of some configurations of a
            search's space.
        store: the stored results, scanned for the plan.
        tabled: ids of the trials that tables compare; None = all.
        names: their short names in tables, by trial id, if a search found them.

    """

    sweep: Sweep
    inputs: SweepInputs
    folder: Path
    cache: Path
    plan: Plan
    sample: Sequence[Trial]
    store: ResultStore
    tabled: tuple[str, ...] | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def trials(self) -> list[Trial]:
        """Every trial of the plan."""
        return [planned.trial for planned in self.plan.trials]

    @cached_property
    def labels(self) -> dict[str, str]:
        """Readable names by trial id."""
        return {trial.id: trial.label for trial in self.trials}


def prepare(sweep: Sweep, options: Options) -> Prepared:
    """Check a sweep and plan its trials.

    Raises:
        InvalidInput: any mistake in the sweep, the images, the weights, the folders or the device.
        OSError: a disk is full.

    """
    folder = options.out or Path("results") / sweep.name
    sweep_folder.check_owner(folder, sweep.name)
    # Compute nodes of a cluster may have GPUs that this machine lacks.
    if options.device == "cuda" and options.backend in ("inline", "local") and not visible_gpus():
        hint = "allowed: auto | cpu, or make one visible (CUDA_VISIBLE_DEVICES)"
        raise InvalidInput(f"--device: given 'cuda', but no GPU is visible here; {hint}")
    expanded = expansion.expand(sweep, yes=options.yes)
    if sweep.early_stopping is not None:
        _check_early_stopping(sweep, expanded.variants)
    cache = options.cache or default_cache()
    with writable(cache, "--cache or MOLEFLOW_CACHE"):
        configs = [variant.config for variant in expanded.variants]
        configs += expansion.configurations_reading_inputs(sweep) if sweep.search is not None else []
        inputs = scan_inputs(sweep.data_root, cache, configs, sweep.data_source)
    trials = sample = expansion.trials_of(sweep, expanded.variants, inputs.of)
    if sweep.search is not None:
        if any(variant.config.training.lanes > 1 for variant in expanded.variants):
            raise InvalidInput(
                f"{sweep.source}: training.lanes: a search proposes one configuration after another, so lanes would "
                "stay empty; leave it out"
            )
        if not (folder / sweep_folder.FILE).exists():  # Only a new search reads its start_from folders.
            _check_start_from(sweep.search.start_from, sweep.source)
        try:
            from orchestrator.search.tried_trials import tried_trials
        except ModuleNotFoundError as error:
            hint = f"run {install_command('search')}"
            raise InvalidInput(f"{sweep.source}: search: {error.name} is not installed; {hint}") from None
        if options.rebuild_study:
            _set_aside_damaged_journal(folder)
        trials = tried_trials(sweep, inputs.of, folder, options.storage)
    store, finished, pruned = ResultStore(folder), {}, frozenset[str]()
    if store.parts.is_dir():
        store.check()  # The plan runs the trials of damaged parts again.
        finished, pruned = store.finished(), store.pruned() if sweep.stops_early else pruned
    plan = make_plan(trials, finished, code_digest(), options.rerun_stale, pruned)
    return Prepared(sweep, inputs, folder, cache, plan, sample, store)


def expected_work(prepared: Prepared) -> WorkEstimate | None:
    """Estimate the work of a plan, without sharing stages and with it; None for a search.

    Raises:
        OSError: results cannot be read.

    """
    if prepared.sweep.search is not None:
        return None
    todo = prepared.plan.of("to run")
    if not todo:  # A second start of a finished sweep is common; reading all curves would slow it.
        return estimate_work(todo, prepared.inputs.images, {})
    finished = list(prepared.plan.of("done"))
    configs = {trial.id: trial.config for trial in prepared.trials}
    epochs: list[dict[str, Any]] = []
    if prepared.store.parts.is_dir():
        finished += earlier_finished_trials(prepared.store, configs.keys(), code_digest())
        epochs = prepared.store.read("curves", ["trial_id", "task_name", "seconds", "reused"]).to_pylist()
    trained = ((row["trial_id"], row["task_name"], row["seconds"]) for row in epochs if not row["reused"])
    images = prepared.inputs.images
    step_seconds = seconds_per_step(trained, {trial.id: trial.config for trial in finished} | configs, images)
    return estimate_work(todo, images, step_seconds, finished)


def worker_config(prepared: Prepared, options: Options) -> WorkerConfig:
    """Return the settings that the workers of a run need; they travel to other processes."""
    return WorkerConfig(
        sweep=prepared.sweep.name,
        folder=prepared.folder.absolute(),
        cache=prepared.cache.absolute(),
        data_root=prepared.inputs.dataset.root.absolute(),
        dataset=prepared.inputs.dataset.name,
        backend=options.backend,
        worker=f"{options.backend}-{owner_code()}",
        device=options.device,
        threads=options.threads,
        rerun_stale=options.rerun_stale,
        provenance=provenance.provenance_facts(),
        time_min=prepared.sweep.resources.limit_min,
        stall_min=prepared.sweep.resources.stall_min,
        keep=prepared.sweep.keep is not None,
    )


def _check_early_stopping(sweep: Sweep, variants: Sequence[expansion.Variant]) -> None:
    """Refuse early stopping without validation anomalies: test images must not choose trials."""
    without = next((v for v in variants if v.config.data.validation_anomalies == "none"), None)
    if without is not None:
        raise InvalidInput(
            f"{sweep.source}: early_stopping: needs validation images with anomalies, and variant "
            f"{label(without.factors)} has none; set validation_fraction (0.2) and validation_anomalies (synthetic) "
            "in the base"
        )


def _set_aside_damaged_journal(folder: Path) -> None:
    from orchestrator.search.drivers import living_drivers
    from orchestrator.search.storage import set_aside_damaged_journal

    drivers = living_drivers(folder)
    if drivers:
        raise InvalidInput(
            f"--rebuild-study: {drivers[0]} still runs the search in {folder}; wait for its end, or stop it"
        )
    set_aside_damaged_journal(folder)


def _check_start_from(folders: Sequence[str], source: str) -> None:
    for name in folders:
        if not (Path(source).parent / expand_path(name, f"{source}: search.start_from") / "parts").is_dir():
            raise InvalidInput(
                f"{source}: search.start_from: {name}: no results there; give folders that a run printed as 'results'"
            )


@contextlib.contextmanager
def writable(folder: Path, option: str) -> Iterator[None]:
    """Report a folder that cannot be written as the user's mistake, a full disk as a failure.

    Args:
        folder: the folder, for errors that name no file.
        option: the option that gives another folder.

    Raises:
        InvalidInput: the folder cannot be written.
        OSError: the disk is full.

    """
    try:
        yield
    except OSError as error:
        where, reason = disk.file_meant(error) or folder, error.strerror or str(error)
        if disk.is_full(error):
            raise OSError(
                error.errno, f"{reason}; free some, or give another folder with {option}", str(where)
            ) from None
        raise InvalidInput(f"{where}: cannot be written ({reason}); give another folder with {option}") from None
