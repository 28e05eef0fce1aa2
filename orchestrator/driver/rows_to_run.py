"""The published rows as sweeps: which rows are run, and why the others are not."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moleflow.errors import InvalidInput
from moleflow.settings.config import TrialConfig, flatten_config
from moleflow.settings.knobs import Layer, base_layers, resolve, version_layer, version_names
from moleflow.suggestions import hint_at
from orchestrator.driver.prepare import Prepared
from orchestrator.plan.inputs import classes_in
from orchestrator.reports.published import NOT_RECORDED, PATCH_GRID, SEED, PublishedRows, PublishedRun
from orchestrator.sweep.sweep import Sweep, make_sweep
from orchestrator.sweep.trial import Trial

_RESOURCES = {"mem_gb": 16, "time_min": 2880}


@dataclass(frozen=True)
class RowsToRun:
    """A file's runs of the same seeds, and the sweep that repeats them.

    Attributes:
        runs: the runs of the sweep.
        sweep: the sweep.
        configs: {name of a run: its configuration, with seed 0}.
    """

    runs: tuple[PublishedRun, ...]
    sweep: Sweep
    configs: Mapping[str, TrialConfig]


@dataclass(frozen=True)
class RowsOfFile:
    """The rows of a file: those to run, and those that cannot be run.

    Attributes:
        name: the name of its first sweep.
        rows: the file's rows.
        groups: one for each set of seeds.
        not_run: {name of a run: the reason why it is not run}.
    """

    name: str
    rows: PublishedRows
    groups: tuple[RowsToRun, ...]
    not_run: Mapping[str, str]


def seeds_of_run(run: PublishedRun) -> tuple[int, ...]:
    """Return the recorded seeds of a run; none if they were not recorded."""
    given = run.settings.get(SEED, NOT_RECORDED)
    listed = given if isinstance(given, list) else [given]
    return tuple(seed for seed in listed if isinstance(seed, int))


def reason_not_to_run(rows: PublishedRows, run: PublishedRun) -> str | None:
    """Return the reason why a run cannot be repeated on any images, or None."""
    if run.version not in version_names():
        hint = hint_at(run.version, version_names())
        return f"there is no version {run.version}{hint}" if hint else "this project has no such version"
    if rows.base is None:
        return "the file names no base"
    if not seeds_of_run(run):
        return "no seed is recorded"
    return None


def rows_to_run(
    rows: PublishedRows,
    name: str,
    data_root: Path | None,
    environment: Mapping[str, str],
    gpus: float | None = None,
    only: Collection[str] | None = None,
) -> RowsOfFile:
    """Return a file's runs as one sweep for each set of seeds, and those that cannot be repeated.

    A setting that is not recorded has the value of the file's base.

    Args:
        rows: the rows of a file.
        name: the name of the sweep; with several sets of seeds `-2`, `-3`, … follows it.
        data_root: the folder of the images.
        environment: the environment variables, of which MOLEFLOW_DATA counts.
        gpus: the GPUs of one trial on SLURM or Ray; None = one where there are any.
        only: the names of the runs that are wanted; None = all.

    Raises:
        InvalidInput: a setting has no such value, no images are given, or their folder has no
            known layout.
    """
    reasons = {run.name: reason_not_to_run(rows, run) for run in rows.runs}
    wanted = reasons.keys() if only is None else only
    not_run = {name: reason for name, reason in reasons.items() if reason is not None and name in wanted}
    by_seeds: dict[tuple[int, ...], list[PublishedRun]] = {}
    for run in rows.runs:
        if reasons[run.name] is None:
            by_seeds.setdefault(seeds_of_run(run), []).append(run)
    groups: list[RowsToRun] = []
    # The seeds of all runs number the sweeps: a folder does not depend on what is wanted.
    for number, of_seeds in enumerate(by_seeds.values(), start=1):
        runs = [run for run in of_seeds if run.name in wanted]
        if not runs:
            continue
        own = name if number == 1 else f"{name}-{number}"
        group = _group(rows, runs, own, data_root, environment, gpus)
        lacking = _without_classes(group)
        not_run |= lacking
        left = [run for run in runs if run.name not in lacking]
        if left:
            groups.append(_group(rows, left, own, data_root, environment, gpus) if lacking else group)
    return RowsOfFile(name, rows, tuple(groups), not_run)


def _group(
    rows: PublishedRows,
    runs: Sequence[PublishedRun],
    name: str,
    data_root: Path | None,
    environment: Mapping[str, str],
    gpus: float | None,
) -> RowsToRun:
    """Return runs of the same seeds as a sweep."""
    configs = {run.name: _resolved(rows, run, _settings(run)) for run in runs}
    # Two rows may have the same settings, such as a run and its repetition.
    distinct: list[dict[str, Any]] = []
    for run in runs:
        if (factors := _factors(rows, run, configs[run.name])) not in distinct:
            distinct.append(factors)
    document: dict[str, Any] = {
        "name": name,
        "question": f"Do our runs give the published figures? {rows.about}",
        "base": rows.base,
        "list": distinct,
        "seeds": list(seeds_of_run(runs[0])),
        "resources": _RESOURCES | {"gpus": gpus},
    }
    sweep = make_sweep(document, f"the rows of {name}", Path(), data_root=data_root, environment=environment)
    if sweep.data_root is None and sweep.base != _base_name(rows):
        raise InvalidInput(
            f"reproduce: the rows of {name} are about {rows.dataset}; give its folder with --data or MOLEFLOW_DATA"
        )
    return RowsToRun(tuple(runs), sweep, configs)


def _without_classes(group: RowsToRun) -> dict[str, str]:
    """Return {name of a run: the reason} for the runs whose classes are not among the images."""
    root = group.sweep.data_root
    if root is None:
        return {}
    found = {}
    there: frozenset[str] = frozenset()
    for run in group.runs:
        data = group.configs[run.name].data
        there = there or classes_in(root, data)  # All runs of a sweep read the folder in one way.
        if lacking := [name for name in data.classes if name not in there]:
            more = f" and {len(lacking) - 1} more of its classes" if len(lacking) > 1 else ""
            found[run.name] = f"{root} has no class {lacking[0]}{more}"
    return found


def _base_name(rows: PublishedRows) -> str:
    """Return the base of a file as a sweep names it; without images a sweep takes another one."""
    base = rows.base or ""
    return Path(base).stem if base.endswith((".yaml", ".yml")) else base


def _settings(run: PublishedRun) -> dict[str, Any]:
    """Return the recorded knobs of a run, without the seed."""
    aside = {SEED, PATCH_GRID}
    return {path: value for path, value in run.settings.items() if path not in aside and value != NOT_RECORDED}


def _resolved(rows: PublishedRows, run: PublishedRun, settings: Mapping[str, Any]) -> TrialConfig:
    source = f"row {run.name}"
    below = base_layers(rows.base or "", run.version, source)
    return resolve([version_layer(run.version, source), *below, Layer(source, settings)])


def _factors(rows: PublishedRows, run: PublishedRun, config: TrialConfig) -> dict[str, Any]:
    """Return the version, and the settings of a run that its base does not have already."""
    base, own = flatten_config(_resolved(rows, run, {})), flatten_config(config)
    changed = {path: own[path] for path in _settings(run) if own[path] != base[path]}
    plain = {path: list(value) if isinstance(value, tuple) else value for path, value in changed.items()}
    return {"version": run.version} | plain


def trials_of_run(group: RowsToRun, run: PublishedRun, prepared: Prepared) -> list[Trial]:
    """Return the trials of a run, one for each seed."""
    config = group.configs[run.name]
    return [trial for trial in prepared.trials if trial.config.model_copy(update={"seed": config.seed}) == config]
