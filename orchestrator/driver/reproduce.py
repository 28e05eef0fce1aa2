"""Repeat the published rows: as sweeps, with their cost in advance and their verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from moleflow.errors import InvalidInput, counted
from moleflow.files import write_atomically
from moleflow.settings.config import TrialConfig, digest, flatten_config, reach
from moleflow.settings.knobs import Layer, base_layers, fields, resolve, version_layer, version_names
from moleflow.settings.task_list import classes_of_task
from orchestrator.driver.launch import run_prepared
from orchestrator.driver.prepare import Options, Prepared, prepare
from orchestrator.exit_codes import INTERRUPTED
from orchestrator.host.durations import duration_text
from orchestrator.monitor import terminal
from orchestrator.plan.cost_estimate import steps_to_train
from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.finished_trials import finished_trials
from orchestrator.reports.published import NOT_RECORDED, PublishedRows, PublishedRun
from orchestrator.reports.render import markdown_table
from orchestrator.reports.reproduction import METRICS, RepeatedRun, reproduction_tables, unknown_settings
from orchestrator.reports.variants import VariantColumn
from orchestrator.results.store import ResultStore
from orchestrator.sweep.sweep import Sweep, make_sweep
from orchestrator.sweep.trial import Trial

if TYPE_CHECKING:
    from orchestrator.execution.step_cost import StepCost

FILE = "reproduction.md"
"""The verdicts, in the results folder of each sweep."""
_RESOURCES = {"mem_gb": 16, "time_min": 2880}
GIB = 2**30


@dataclass(frozen=True)
class RowsToRun:
    """A file's runs of the same seeds, and the sweep that repeats them.

    Attributes:
        rows: the file's rows.
        runs: the runs of the sweep.
        sweep: the sweep.
        configs: {name of a run: its configuration, with seed 0}.
    """

    rows: PublishedRows
    runs: tuple[PublishedRun, ...]
    sweep: Sweep
    configs: Mapping[str, TrialConfig]


def seeds_of_run(run: PublishedRun) -> tuple[int, ...]:
    """Return the recorded seeds of a run; none if they were not recorded."""
    given = run.settings.get("seed", NOT_RECORDED)
    listed = given if isinstance(given, list) else [given]
    return tuple(seed for seed in listed if isinstance(seed, int) and not isinstance(seed, bool))


def reason_not_to_run(rows: PublishedRows, run: PublishedRun) -> str | None:
    """Return the reason why a run cannot be repeated, or None."""
    if rows.base is None:
        return "the file names no base"
    if run.version not in version_names():
        return f"there is no version {run.version}"
    if not seeds_of_run(run):
        return "no seed is recorded"
    return None


def sweeps_of_rows(
    rows: PublishedRows, name: str, data_root: Path | None, environment: Mapping[str, str], gpus: float | None = None
) -> list[RowsToRun]:
    """Return one sweep for each set of seeds among the runs that can be repeated.

    A setting that is not recorded has the value of the file's base.

    Args:
        rows: the rows of a file.
        name: the name of the sweep; with several sets of seeds `-2`, `-3`, … follows it.
        data_root: the folder of the images.
        environment: the environment variables, of which MOLEFLOW_DATA counts.
        gpus: the GPUs of one trial on SLURM or Ray; None = one where there are any.

    Raises:
        InvalidInput: a setting that is no knob or has no such value, or images are missing.
    """
    by_seeds: dict[tuple[int, ...], list[PublishedRun]] = {}
    for run in rows.runs:
        if reason_not_to_run(rows, run) is None:
            by_seeds.setdefault(seeds_of_run(run), []).append(run)
    found = []
    for number, (seeds, runs) in enumerate(by_seeds.items(), start=1):
        configs = {run.name: _resolved(rows, run, _settings(run)) for run in runs}
        # Two rows may have the same settings, such as a run and its repetition.
        distinct: list[dict[str, Any]] = []
        for run in runs:
            if (factors := _factors(rows, run, configs[run.name])) not in distinct:
                distinct.append(factors)
        document: dict[str, Any] = {
            "name": name if number == 1 else f"{name}-{number}",
            "question": f"Do our runs give the published figures? {rows.about}",
            "base": rows.base,
            "list": distinct,
            "seeds": list(seeds),
            "resources": _RESOURCES | {"gpus": gpus},
        }
        sweep = make_sweep(document, f"the rows of {name}", Path(), data_root=data_root, environment=environment)
        if sweep.data_root is None and sweep.base != _base_name(rows):
            raise InvalidInput(
                f"reproduce: the rows of {name} are about {rows.dataset}; give its folder with --data or MOLEFLOW_DATA"
            )
        found.append(RowsToRun(rows, tuple(runs), sweep, configs))
    return found


def _base_name(rows: PublishedRows) -> str:
    """Return the base of a file as a sweep names it; without images a sweep takes another one."""
    base = rows.base or ""
    return Path(base).stem if base.endswith((".yaml", ".yml")) else base


def _settings(run: PublishedRun) -> dict[str, Any]:
    """Return the recorded knobs of a run, without the seed."""
    known = fields().keys() - {"seed", "version"}
    return {path: value for path, value in run.settings.items() if path in known and value != NOT_RECORDED}


def _resolved(rows: PublishedRows, run: PublishedRun, settings: Mapping[str, Any]) -> TrialConfig:
    source = f"published {run.name}"
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


def reproduce_rows(groups: Sequence[RowsToRun], options: Options, console: Console, only_estimate: bool = False) -> int:
    """Tell the cost of the rows, run what is missing, and print and write the verdicts.

    Returns:
        The exit code: 0 if every trial finished, whatever the verdicts say.

    Raises:
        InvalidInput: any mistake in the rows, the images, the weights or the folders.
        OSError: the results cannot be written.
    """
    code = 0
    # All are checked before the first one runs for hours.
    for group, own, prepared in [_prepare(group, options, len(groups)) for group in groups]:
        out = prepared.folder
        console.print("\n".join(cost_lines(group, prepared, own, console)))
        if only_estimate:
            continue
        code = max(code, run_prepared(prepared, own, console))
        if code == INTERRUPTED:
            return code
        text = reproduction_text(group, prepared)
        write_atomically(out / FILE, text.encode(), durable=False)  # It can be made again.
        terminal.show_markdown(text, console)
        console.print(f"verdicts: {out / FILE}")
    return code


def _prepare(group: RowsToRun, options: Options, groups: int) -> tuple[RowsToRun, Options, Prepared]:
    own = replace(options, out=(options.out or Path("results")) / group.sweep.name)
    try:
        return group, own, prepare(group.sweep, own)
    except InvalidInput as error:
        hint = "; to run the rows of one file alone, name it with --rows" if groups > 1 else ""
        raise InvalidInput(f"{error}{hint}") from None


def reproduction_text(group: RowsToRun, prepared: Prepared) -> str:
    """Return the tables of verdicts in Markdown, from the stored results."""
    by_name: dict[str, RepeatedRun] = {}
    trials = {run.name: trials_of_run(group, run, prepared) for run in group.runs}
    ids = {trial.id for of_run in trials.values() for trial in of_run}
    stored = {trial.trial_id: trial for trial in finished_trials(ResultStore(prepared.folder), ids, "test")}
    for run in group.runs:
        done = [stored[trial.id] for trial in trials[run.name] if trial.id in stored]
        by_name[run.name] = _repeated(run, VariantColumn(run.name, {}, tuple(done)), len(trials[run.name]))
    for run in group.rows.runs:
        if (reason := reason_not_to_run(group.rows, run)) is not None:
            by_name[run.name] = RepeatedRun(run, not_run=reason)
    ordered = [by_name[run.name] for run in group.rows.runs if run.name in by_name]
    return "\n".join(markdown_table(table) for table in reproduction_tables(group.rows, ordered) if table.rows)


def _repeated(run: PublishedRun, column: VariantColumn, planned: int) -> RepeatedRun:
    if not column.trials:
        return RepeatedRun(run, planned=planned)
    values = {}
    for class_name in (*column.classes, MEAN):
        for metric in METRICS:
            if of_seeds := column.values(class_name, metric):
                values[class_name, metric] = sum(of_seeds) / len(of_seeds)
    return RepeatedRun(run, values, column.seeds, planned)


def cost_lines(group: RowsToRun, prepared: Prepared, options: Options, console: Console) -> list[str]:
    """Describe the rows to run: trials, hours and GPU memory, from a timed step of each model.

    Nothing is timed for rows that have finished. The timing takes minutes on a CPU, so a line on
    the console announces it.
    """
    todo = prepared.plan.of("to run")
    lines = [
        f"rows:     {counted(len(group.runs), 'row')} of {group.rows.dataset}, {counted(len(todo), 'trial')} to run"
    ]
    for run in group.runs:
        if unknown := unknown_settings(run):
            lines.append(f"          {run.name}: {', '.join(unknown)} not recorded; runs with the base's value")
    if not todo:
        return lines
    # torch takes seconds to import, which a finished reproduction saves.
    from moleflow.environment import open_environment
    from orchestrator.execution.step_cost import cost_settings, step_cost

    console.print("timing a training step of each model, and an image through each backbone")
    environment = open_environment(options.device, options.threads)
    steps = steps_to_train(todo, prepared.inputs.images, prepared.plan.of("done"))
    features: dict[str, float] = {}
    costs: dict[str, StepCost] = {}
    total, largest = 0.0, 0
    for run in group.runs:
        trials = [trial for trial in trials_of_run(group, run, prepared) if trial.id in steps]
        if not trials:
            continue
        config = trials[0].config
        model = cost_settings(config).model_dump_json()
        cost = costs[model] = costs.get(model) or step_cost(config, environment, prepared.cache)
        seconds = sum(steps.pop(trial.id) for trial in trials) * cost.step_seconds
        counts, tasks = prepared.inputs.images, map(classes_of_task, config.data.tasks)
        key = digest([reach(config, "features"), list(config.data.tasks), trials[0].inputs.weights])
        read = sum(counts[name].train + counts[name].test for name in config.data.classes)
        features[key] = read * cost.image_seconds
        most = max(sum(counts[name].train for name in names) for names in tasks)
        memory = cost.task_bytes(most, config.training.lanes)
        total, largest = total + seconds, max(largest, memory)
        lines.append(f"          {run.name}: {duration_text(seconds)} of training, {memory / GIB:.1f} GiB")
    lines.append(
        f"expected: {duration_text(total)} of training and {duration_text(sum(features.values()))} for features, as a step and an image "
        f"take on this {'GPU' if environment.device_kind == 'cuda' else 'CPU'} ({counted(environment.threads, 'thread')})"
    )
    how = (
        "measured"
        if environment.device_kind == "cuda"
        else "counted from the tensors of a step, as there is no GPU here"
    )
    lines.append(f"          at most {largest / GIB:.1f} GiB of GPU memory for one trial ({how})")
    return lines
