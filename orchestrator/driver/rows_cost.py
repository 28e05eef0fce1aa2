"""The cost of published rows in advance, by a timed step of each model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from moleflow.errors import counted
from orchestrator.driver.prepare import Options, Prepared
from orchestrator.driver.rows_to_run import RowsToRun, trials_of_run
from orchestrator.driver.trial_cost import feature_seconds, largest_bytes, step_costs, training_by_steps
from orchestrator.host.durations import duration_text
from orchestrator.reports.reproduction import unknown_settings
from orchestrator.sweep.trial import Trial

if TYPE_CHECKING:
    from moleflow.environment import Environment

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
        environment = self._opened(options)
        costs = step_costs(prepared, options, todo, environment.device_kind)
        # A sweep takes the tasks that an earlier one trained from the cache.
        training = training_by_steps(prepared, todo, costs, self._told)
        self._told += todo
        for run in group.runs:
            if trials := [trial for trial in trials_of_run(group, run, prepared) if trial.id in training]:
                seconds = sum(training.pop(trial.id).shared for trial in trials)
                memory = largest_bytes(prepared, trials, costs)
                self._training, self._largest = self._training + seconds, max(self._largest, memory)
                lines.append(f"          {run.name}: {duration_text(seconds)} of training, {memory / GIB:.1f} GiB")
        self._features |= feature_seconds(prepared, todo, costs)[1]
        self._sweeps += 1
        return lines

    def _opened(self, options: Options) -> Environment:
        # torch takes seconds to import, which a finished reproduction saves.
        from moleflow.environment import open_environment

        if self._environment is None:
            self._console.print("timing a training step of each model, and an image through each backbone")
            self._environment = open_environment(options.device, options.threads)
        return self._environment

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
