"""The cost of the trials to run, in advance: by finished trials, or by a step timed here."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from moleflow.code_digest import code_digest
from moleflow.errors import counted
from moleflow.settings.config import digest, reach
from moleflow.settings.task_list import classes_of_task
from orchestrator.driver.prepare import Options, Prepared, expected_work
from orchestrator.host.hardware import visible_gpus
from orchestrator.plan.cost_estimate import TrainingSeconds, WorkEstimate, seconds_per_step, training_seconds
from orchestrator.plan.earlier_trials import earlier_finished_trials
from orchestrator.sweep.resolver import Resolver
from orchestrator.sweep.trial import Trial

if TYPE_CHECKING:
    from orchestrator.execution.step_cost import StepCost

GB = 1e9
MARGIN, START_MIN = 1.5, 10
"""A time limit is so many times what the slowest trial takes, and so many minutes more."""
CUDA_BYTES = int(0.6 * GB)
"""GPU memory of a process besides its tensors: CUDA's context and torch's kernels."""
FILLED = 0.9
"""The share of a GPU's memory that trials may fill."""
MOST_ON_A_GPU = 8
"""Trials on one GPU at most: more of them only wait for one another."""
START_SECONDS = 30.0
"""Seconds of a trial besides features and training, where none was measured."""


@dataclass(frozen=True)
class TrialCost:
    """The expected cost of the trials to run.

    Attributes:
        total_s: seconds of all of them, each stage trained once.
        slowest_s: seconds of the slowest one, if it trained all its stages.
        source: where the seconds come from, in words.
        device_bytes: memory of the largest one on its device, without a process's own.

    """

    total_s: float
    slowest_s: float
    source: str
    device_bytes: int

    def limit_min(self, sharing: int) -> int:
        """The time limit of a trial in minutes. `sharing` trials on one GPU take turns."""
        return math.ceil(MARGIN * self.slowest_s * sharing / 60) + START_MIN

    def fitting(self, gpu_mem_gb: float) -> int:
        """The number of trials that a GPU's memory holds."""
        return int(FILLED * gpu_mem_gb * GB // (CUDA_BYTES + self.device_bytes))


def trial_cost(prepared: Prepared, options: Options, device: Literal["cpu", "cuda"]) -> TrialCost | None:
    """The cost of the trials to run, or of one trial of a search's base; None if there are none.

    Args:
        prepared: the sweep.
        options: the command's options.
        device: the kind of device that trials run on; attempts on the other kind do not count.

    Raises:
        InvalidInput: a backbone cannot be built.
        OSError: results cannot be read, or the cache cannot be written.

    """
    trials: Sequence[Trial] = prepared.plan.of("to run")
    if prepared.sweep.search is not None:
        # Its configurations are not known, and its sample may hold impossible ones.
        config = Resolver(prepared.sweep).config({})
        trials = [Trial("base", config, {}, prepared.inputs.of(config))]
    if not trials:
        return None
    timed = _timed_here(prepared, options, trials, device)
    return _measured(prepared, trials, device, timed.device_bytes) or timed


def _measured(prepared: Prepared, trials: Sequence[Trial], device: str, device_bytes: int) -> TrialCost | None:
    """The cost by finished trials of the sweep on such a device; None if a task was never timed."""
    store, images = prepared.store, prepared.inputs.images
    if not store.parts.is_dir():
        return None
    configs = {trial.id: trial.config for trial in prepared.trials}
    finished = [*prepared.plan.of("done"), *earlier_finished_trials(store, configs.keys(), code_digest())]
    columns = ["trial_id", "attempt", "status", "device", "device_model", "seconds_spent"]
    attempts = {
        (row["trial_id"], row["attempt"]): row
        for row in store.read("attempts", columns).to_pylist()
        if row["status"] == "finished" and row["device"] == device
    }
    curves = store.read("curves", ["trial_id", "attempt", "task_name", "seconds", "reused"]).to_pylist()
    epochs = [row for row in curves if not row["reused"] and (row["trial_id"], row["attempt"]) in attempts]
    by_task = seconds_per_step(
        ((row["trial_id"], row["task_name"], row["seconds"]) for row in epochs),
        {trial.id: trial.config for trial in finished} | configs,
        images,
    )
    trained: defaultdict[tuple[str, int], float] = defaultdict(float)
    for row in epochs:
        trained[row["trial_id"], row["attempt"]] += row["seconds"]
    besides = [max(0.0, row["seconds_spent"] - trained[key]) for key, row in attempts.items()]
    try:
        seconds = training_seconds(trials, images, lambda _, task: by_task[task], finished)
    except KeyError:  # A task of which no epoch was timed.
        return None
    models = ", ".join(sorted({row["device_model"] for row in attempts.values()}))
    return TrialCost(
        sum(each.shared for each in seconds.values()) + len(trials) * sum(besides) / len(besides),
        max(each.alone for each in seconds.values()) + max(besides),
        f"as {counted(len(attempts), 'finished trial')} took on {models}",
        device_bytes,
    )


def step_costs(
    prepared: Prepared, options: Options, trials: Sequence[Trial], device: Literal["cpu", "cuda"]
) -> Mapping[str, StepCost]:
    """The cost of a training step of each trial by its id; each model is timed once and stored.

    A memory bank trains no flow and costs nothing here.

    Args:
        prepared: the sweep.
        options: the command's options.
        trials: the trials.
        device: where trials run; without a GPU here, steps are timed on the CPU.

    Raises:
        InvalidInput: a backbone cannot be built.
        OSError: the cache cannot be written.

    """
    # torch takes seconds to import.
    from moleflow.environment import open_environment
    from orchestrator.execution.step_cost import StepCost, cost_settings, step_cost

    environment = open_environment("cpu" if device == "cpu" else "auto", options.threads)
    by_model: dict[str, list[Trial]] = {}
    for trial in trials:
        if not trial.config.bank.enabled:
            by_model.setdefault(cost_settings(trial.config).model_dump_json(), []).append(trial)
    costs = dict.fromkeys((trial.id for trial in trials), StepCost(0.0, 0.0, 0, 0))
    for number, some in enumerate(by_model.values(), start=1):
        announce = partial(_announce, f"timing a training step of model {number} of {len(by_model)}")
        cost = step_cost(some[0].config, environment, prepared.cache, announce)
        costs |= dict.fromkeys((trial.id for trial in some), cost)
    return costs


def _announce(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def largest_bytes(prepared: Prepared, trials: Sequence[Trial], costs: Mapping[str, StepCost]) -> int:
    """The memory on the device of the largest of some trials, without a process's own."""
    return max(
        costs[trial.id].task_bytes(_most_images(prepared, trial), trial.config.training.lanes) for trial in trials
    )


def _timed_here(
    prepared: Prepared, options: Options, trials: Sequence[Trial], device: Literal["cpu", "cuda"]
) -> TrialCost:
    """The cost by a training step of each model on this machine."""
    costs = step_costs(prepared, options, trials, device)
    seconds = training_by_steps(prepared, trials, costs)
    features, shared = feature_seconds(prepared, trials, costs)
    kind = "GPU" if device == "cuda" and visible_gpus() else "CPU"
    return TrialCost(
        sum(each.shared for each in seconds.values()) + sum(shared.values()) + START_SECONDS * len(trials),
        max(each.alone + features[trial_id] for trial_id, each in seconds.items()) + START_SECONDS,
        f"as a step and an image take on this {kind} ({counted(options.threads, 'thread')})",
        largest_bytes(prepared, trials, costs),
    )


def training_by_steps(
    prepared: Prepared, trials: Sequence[Trial], costs: Mapping[str, StepCost], earlier: Sequence[Trial] = ()
) -> dict[str, TrainingSeconds]:
    """The seconds of training of each trial by its id, by the cost of its steps.

    Args:
        prepared: the sweep. The stages of its finished trials are trained.
        trials: the trials.
        costs: the cost of a step by trial id.
        earlier: trials of other sweeps that will have trained their stages by then.

    """
    there = [*prepared.plan.of("done"), *earlier]
    return training_seconds(trials, prepared.inputs.images, lambda trial, _: costs[trial.id].step_seconds, there)


def expected_time(prepared: Prepared, options: Options) -> WorkEstimate | None:
    """The work of a plan with its time, by trained epochs or else by steps timed here before.

    Nothing is timed now. None for a search.

    Raises:
        OSError: results cannot be read.

    """
    work, todo = expected_work(prepared), prepared.plan.of("to run")
    # torch takes seconds to import, so only a cache with costs is asked.
    if work is None or work.hours is not None or not todo or not (prepared.cache / "costs").is_dir():
        return work
    costs = _stored_costs(prepared, options, todo)
    if costs is None:
        return work
    training = training_by_steps(prepared, todo, costs)
    _, features = feature_seconds(prepared, todo, costs)
    return replace(work, by_a_step=sum(each.shared for each in training.values()) + sum(features.values()))


def _stored_costs(prepared: Prepared, options: Options, trials: Sequence[Trial]) -> dict[str, StepCost] | None:
    """The cost of a training step by trial id; None if some model was not timed here."""
    from moleflow.environment import open_environment
    from orchestrator.execution.step_cost import StepCost, cost_settings, stored_step_cost

    environment = open_environment("cpu" if options.device == "cpu" else "auto", options.threads)
    found: dict[str, StepCost | None] = {}
    costs = {}
    for trial in trials:
        model = cost_settings(trial.config).model_dump_json()
        if trial.config.bank.enabled:
            found[model] = StepCost(0.0, 0.0, 0, 0)
        elif model not in found:
            found[model] = stored_step_cost(trial.config, environment, prepared.cache)
        if (cost := found[model]) is None:
            return None
        costs[trial.id] = cost
    return costs


def _most_images(prepared: Prepared, trial: Trial) -> int:
    """The training images of a trial's largest task."""
    counts, tasks = prepared.inputs.images, map(classes_of_task, trial.config.data.tasks)
    return max(sum(counts[name].train for name in names) for names in tasks)


def feature_seconds(
    prepared: Prepared, trials: Sequence[Trial], costs: Mapping[str, StepCost]
) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """The seconds of the features of each trial by its id, and of those that differ by a key."""
    counts, alone, shared = prepared.inputs.images, {}, {}
    for trial in trials:
        read = sum(counts[name].train + counts[name].test for name in trial.config.data.classes)
        alone[trial.id] = read * costs[trial.id].image_seconds
        key = digest([reach(trial.config, "features"), list(trial.config.data.tasks), trial.inputs.weights])
        shared[key] = alone[trial.id]
    return alone, shared
