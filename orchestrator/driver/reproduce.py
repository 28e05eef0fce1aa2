"""Repeat the published rows: as sweeps, with their cost in advance and their verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from moleflow.errors import InvalidInput, counted
from moleflow.files import write_atomically
from moleflow.settings.config import TrialConfig, digest, flatten_config, reach
from moleflow.settings.knobs import Layer, base_layers, resolve, version_layer, version_names
from moleflow.settings.task_list import classes_of_task
from moleflow.suggestions import hint_at
from orchestrator.driver.launch import run_prepared
from orchestrator.driver.prepare import Options, Prepared, prepare
from orchestrator.exit_codes import INTERRUPTED
from orchestrator.host.durations import duration_text
from orchestrator.monitor import terminal
from orchestrator.plan.cost_estimate import steps_to_train
from orchestrator.plan.inputs import classes_in
from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.finished_trials import finished_trials
from orchestrator.reports.published import NOT_RECORDED, PATCH_GRID, PublishedRows, PublishedRun
from orchestrator.reports.render import markdown_table
from orchestrator.reports.reproduction import (
    COMPARED,
    RepeatedRun,
    compare_with_published,
    reproduction_tables,
    unknown_settings,
)
from orchestrator.reports.variants import VariantColumn
from orchestrator.results.store import ResultStore
from orchestrator.sweep.sweep import Sweep, make_sweep
from orchestrator.sweep.trial import Trial

if TYPE_CHECKING:
    from moleflow.environment import Environment
    from orchestrator.execution.step_cost import StepCost

FILE = "reproduction.md"
"""The verdicts, in the results folder of each sweep."""
_RESOURCES = {"mem_gb": 16, "time_min": 2880}
GIB = 2**30


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
    given = run.settings.get("seed", NOT_RECORDED)
    listed = given if isinstance(given, list) else [given]
    return tuple(seed for seed in listed if isinstance(seed, int) and not isinstance(seed, bool))


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
    aside = {"seed", PATCH_GRID}
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


def reproduce_rows(files: Sequence[RowsOfFile], options: Options, console: Console, only_estimate: bool = False) -> int:
    """Tell the cost of all rows, run what is missing, and print and write the verdicts.

    Returns:
        The exit code: 0 if every trial finished, whatever the verdicts say.

    Raises:
        InvalidInput: any mistake in the rows, the images, the weights or the folders, or no row
            can be run.
        OSError: the results cannot be written.
    """
    if not any(of.groups for of in files):
        raise InvalidInput(f"reproduce: none of these rows can be run: {'; '.join(not_run_lines(files, most=1))}")
    names = Counter(group.sweep.name for of in files for group in of.groups)
    if twice := [name for name, count in names.items() if count > 1]:
        raise InvalidInput(
            f"--rows: several files have the results folder {twice[0]}; give each file once, under another name"
        )
    # All are checked, and all costs told, before the first one runs for hours.
    prepared = [(of, group, *_prepare(group, options, len(files))) for of in files for group in of.groups]
    cost = Cost(console)
    for _, group, own, plan in prepared:
        console.print("\n".join(cost.lines(group, plan, own)))
    console.print("\n".join([*(f"not run:  {line}" for line in not_run_lines(files)), *cost.total_lines()]))
    if only_estimate:
        return 0
    code, verdicts = 0, Counter[str]()
    for of, group, own, plan in prepared:
        code = max(code, run_prepared(plan, own, console))
        if code == INTERRUPTED:
            return code
        repeated = repeated_runs(of, group, plan)
        text = "\n".join(markdown_table(table) for table in reproduction_tables(of.rows, repeated) if table.rows)
        write_atomically(plan.folder / FILE, text.encode(), durable=False)  # It can be made again.
        terminal.show_markdown(text, console)
        console.print(f"verdicts: {plan.folder / FILE}")
        said = [compare_with_published(of.rows, one) for one in repeated if one.not_run is None]
        verdicts.update(text.partition(":")[0] for text in said)
    verdicts["not run"] = sum(len(of.not_run) for of in files)
    console.print(f"rows:     {', '.join(f'{count} {verdict}' for verdict, count in verdicts.items() if count)}")
    return code


def not_run_lines(files: Sequence[RowsOfFile], most: int | None = None) -> list[str]:
    """Return one line for each file and reason, with the names of the rows that are not run.

    Args:
        files: the files.
        most: the number of names in a line, of which the others are counted; None = all.
    """
    lines = []
    for of in files:
        by_reason: dict[str, list[str]] = {}
        for name, reason in of.not_run.items():
            by_reason.setdefault(reason, []).append(name)
        for reason, names in by_reason.items():
            more = f" and {len(names) - most} more" if most is not None and len(names) > most else ""
            lines.append(f"{of.name}: {reason} ({' | '.join(names[:most])}{more})")
    return lines


def _prepare(group: RowsToRun, options: Options, files: int) -> tuple[Options, Prepared]:
    own = replace(options, out=(options.out or Path("results")) / group.sweep.name)
    try:
        return own, prepare(group.sweep, own)
    except InvalidInput as error:
        hint = "; to run the rows of one file alone, name it with --rows" if files > 1 else ""
        raise InvalidInput(f"{error}{hint}") from None


def repeated_runs(of: RowsOfFile, group: RowsToRun, prepared: Prepared) -> list[RepeatedRun]:
    """Return the stored results of a group's runs, and the runs of its file that are not run."""
    by_name: dict[str, RepeatedRun] = {}
    trials = {run.name: trials_of_run(group, run, prepared) for run in group.runs}
    ids = {trial.id for of_run in trials.values() for trial in of_run}
    stored = {trial.trial_id: trial for trial in finished_trials(ResultStore(prepared.folder), ids, "test")}
    for run in group.runs:
        done = [stored[trial.id] for trial in trials[run.name] if trial.id in stored]
        by_name[run.name] = _repeated(run, VariantColumn(run.name, {}, tuple(done)), len(trials[run.name]))
    by_name |= {
        run.name: RepeatedRun(run, not_run=of.not_run[run.name]) for run in of.rows.runs if run.name in of.not_run
    }
    return [by_name[run.name] for run in of.rows.runs if run.name in by_name]


def _repeated(run: PublishedRun, column: VariantColumn, planned: int) -> RepeatedRun:
    if not column.trials:
        return RepeatedRun(run, planned=planned)
    values = {}
    for class_name in (*column.classes, MEAN):
        for metric in COMPARED:
            if of_seeds := column.values(class_name, metric):
                values[class_name, metric] = sum(of_seeds) / len(of_seeds)
    return RepeatedRun(run, values, column.seeds, planned)


class Cost:
    """The cost of rows in advance: trials, hours and GPU memory, from a timed step of each model.

    A model is timed once, also where several sweeps have it. Nothing is timed for rows that have
    finished.
    """

    def __init__(self, console: Console):
        """Begin with nothing.

        Args:
            console: gets a line before the first timing, which takes minutes on a CPU.
        """
        self._console = console
        self._steps: dict[str, StepCost] = {}
        self._told: list[Trial] = []
        self._features: dict[str, float] = {}
        self._training, self._largest, self._sweeps = 0.0, 0, 0
        self._environment: Environment | None = None

    def lines(self, group: RowsToRun, prepared: Prepared, options: Options) -> list[str]:
        """Describe the rows of a sweep, and what each of them will cost."""
        todo = prepared.plan.of("to run")
        rows = counted(len(group.runs), "row")
        lines = [f"rows:     {rows} of {group.sweep.name}, {counted(len(todo), 'trial')} to run"]
        for run in group.runs:
            if unknown := unknown_settings(run):
                lines.append(f"          {run.name}: {', '.join(unknown)} not recorded; runs with the base's value")
        if not todo:
            return lines
        # A sweep takes the tasks that an earlier one trained from the cache.
        steps = steps_to_train(todo, prepared.inputs.images, [*prepared.plan.of("done"), *self._told])
        self._told += todo
        for run in group.runs:
            if trials := [trial for trial in trials_of_run(group, run, prepared) if trial.id in steps]:
                seconds, memory = self._cost(trials, sum(steps.pop(trial.id) for trial in trials), prepared, options)
                lines.append(f"          {run.name}: {duration_text(seconds)} of training, {memory / GIB:.1f} GiB")
        self._sweeps += 1
        return lines

    def _cost(self, trials: Sequence[Trial], steps: float, prepared: Prepared, options: Options) -> tuple[float, int]:
        """Return the seconds of training and the bytes of one trial."""
        # torch takes seconds to import, which a finished reproduction saves.
        from moleflow.environment import open_environment
        from orchestrator.execution.step_cost import cost_settings, step_cost

        if self._environment is None:
            self._console.print("timing a training step of each model, and an image through each backbone")
            self._environment = open_environment(options.device, options.threads)
        config, counts = trials[0].config, prepared.inputs.images
        model = cost_settings(config).model_dump_json()
        if model not in self._steps:
            self._steps[model] = step_cost(config, self._environment, prepared.cache)
        cost = self._steps[model]
        key = digest([reach(config, "features"), list(config.data.tasks), trials[0].inputs.weights])
        read = sum(counts[name].train + counts[name].test for name in config.data.classes)
        self._features[key] = read * cost.image_seconds
        tasks = map(classes_of_task, config.data.tasks)
        memory = cost.task_bytes(
            max(sum(counts[name].train for name in names) for names in tasks), config.training.lanes
        )
        seconds = steps * cost.step_seconds
        self._training, self._largest = self._training + seconds, max(self._largest, memory)
        return seconds, memory

    def total_lines(self) -> list[str]:
        """Return the cost of all rows; nothing if all have finished."""
        if self._environment is None:
            return []
        on_gpu = self._environment.device_kind == "cuda"
        how = "measured" if on_gpu else "counted from the tensors of a step, as there is no GPU here"
        sweeps = f", {self._sweeps} sweeps together," if self._sweeps > 1 else ""
        return [
            f"expected: {duration_text(self._training)} of training and {duration_text(sum(self._features.values()))} "
            f"for features{sweeps} as a step and an image take on this {'GPU' if on_gpu else 'CPU'} "
            f"({counted(self._environment.threads, 'thread')})",
            f"          at most {self._largest / GIB:.1f} GiB of GPU memory for one trial ({how})",
        ]
