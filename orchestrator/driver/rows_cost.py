"""The cost of published rows in advance, from a timed step of each model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from moleflow.errors import counted
from moleflow.settings.config import digest, reach
from moleflow.settings.task_list import classes_of_task
from orchestrator.driver.prepare import Options, Prepared
from orchestrator.driver.rows_to_run import RowsToRun, trials_of_run
from orchestrator.host.durations import duration_text
from orchestrator.plan.cost_estimate import steps_to_train
from orchestrator.reports.reproduction import unknown_settings
from orchestrator.sweep.trial import Trial

if TYPE_CHECKING:
    from moleflow.environment import Environment
    from orchestrator.execution.step_cost import StepCost

GIB = 2**30


class RowsCost:
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
