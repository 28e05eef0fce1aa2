"""The work of a plan with and without sharing: stages, backbone forwards and time. Pure.

The time follows from the seconds of epochs that were trained, or else of a step timed in advance.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from moleflow.settings.config import TrainingKnobs, TrialConfig, canonical_json, reach
from moleflow.settings.task_list import Task, classes_of_task, task_name
from orchestrator.plan.stage_tree import stage_tree
from orchestrator.sweep.trial import Trial


@dataclass(frozen=True)
class ImageCounts:
    """The number of images of a class.

    Attributes:
        train: normal images to train on.
        test: test images.

    """

    train: int
    test: int


@dataclass(frozen=True)
class WorkEstimate:
    """The work of some trials as pairs: (without sharing, with sharing).

    Attributes:
        stages: stages to train.
        forwards: images through a backbone, at most.
        hours: hours of training; None if no stage of some task has been timed yet.
        by_a_step: seconds of training and features with sharing, by a step timed in advance; None
            if none was, or `hours` is known.

    """

    stages: tuple[int, int]
    forwards: tuple[int, int]
    hours: tuple[float, float] | None
    by_a_step: float | None = None


def estimate_work(
    trials: Sequence[Trial],
    images: Mapping[str, ImageCounts],
    step_seconds: Mapping[str, float],
    there: Iterable[Trial] = (),
) -> WorkEstimate:
    """Estimate the work of some trials.

    Args:
        trials: the trials to run, in the order of the plan.
        images: by class.
        step_seconds: by task name, seconds of a training step as far as known; see
            `seconds_per_step`.
        there: trials whose stages are already trained.

    """
    stages = [stage for _, of_trial in _stages_of(trials, images, there) for stage in of_trial]
    to_train = [stage for stage in stages if not stage.trained]
    hours = None
    if trials and {stage.task for stage in stages} <= step_seconds.keys():
        alone, shared = (sum(one.steps * step_seconds[one.task] for one in some) for some in (stages, to_train))
        hours = alone / 3600, shared / 3600
    return WorkEstimate((len(stages), len(to_train)), _forwards(trials, images), hours)


@dataclass(frozen=True)
class TrainingSeconds:
    """The expected seconds of training of a trial.

    Attributes:
        alone: of all its stages.
        shared: of the stages that no earlier trial trains.

    """

    alone: float
    shared: float


def training_seconds(
    trials: Sequence[Trial],
    images: Mapping[str, ImageCounts],
    step_seconds: Callable[[Trial, str], float],
    there: Iterable[Trial] = (),
) -> dict[str, TrainingSeconds]:
    """The expected seconds of training of each trial, by its id.

    Args:
        trials: the trials to run, in the order of the plan.
        images: by class.
        step_seconds: seconds of a training step of a trial in the task of that name.
        there: trials whose stages are already trained.

    """
    found = {}
    for trial, (trial_id, stages) in zip(trials, _stages_of(trials, images, there), strict=True):
        seconds = [(stage.steps * step_seconds(trial, stage.task), stage.trained) for stage in stages]
        found[trial_id] = TrainingSeconds(
            sum(each for each, _ in seconds), sum(each for each, trained in seconds if not trained)
        )
    return found


def steps_to_train(
    trials: Sequence[Trial], images: Mapping[str, ImageCounts], there: Iterable[Trial] = ()
) -> dict[str, float]:
    """The training steps of each trial, by its id, in stages that no earlier trial trains.

    The arguments are those of `estimate_work`.
    """
    return {
        trial_id: float(sum(stage.steps for stage in stages if not stage.trained))
        for trial_id, stages in _stages_of(trials, images, there)
    }


class _TrialStage(NamedTuple):
    """A stage of a trial: its task, its training steps, and whether an earlier trial trains it."""

    task: str
    steps: int
    trained: bool


def _stages_of(
    trials: Sequence[Trial], images: Mapping[str, ImageCounts], there: Iterable[Trial]
) -> Iterator[tuple[str, list[_TrialStage]]]:
    """The id and the stages of each trial."""
    known = list(there)
    tree = stage_tree([*known, *trials])
    trained = {stage for trial in known for stage in tree.chains[trial.id]}
    for trial in trials:
        chain, config, stages = tree.chains[trial.id], trial.config, []
        for stage, task in zip(chain, config.data.tasks, strict=True):
            steps = config.training.epochs * _steps_of_task(config, task, images)
            stages.append(_TrialStage(task_name(task), steps, stage in trained))
        yield trial.id, stages
        trained.update(chain)


def _steps_of_task(config: TrialConfig, task: Task, images: Mapping[str, ImageCounts]) -> int:
    """The training steps of an epoch over the images of all classes of a task."""
    return steps_per_epoch(config.training, sum(_trained_on(config, images[name]) for name in classes_of_task(task)))


def steps_per_epoch(training: TrainingKnobs, count: int) -> int:
    """The training steps of an epoch over `count` images."""
    batch = max(1, min(training.batch_size, count))
    return count // batch if training.drop_last else math.ceil(count / batch)


def seconds_per_step(
    epochs: Iterable[tuple[str, str, float]], configs: Mapping[str, TrialConfig], images: Mapping[str, ImageCounts]
) -> dict[str, float]:
    """The mean seconds of a training step, by task name.

    Args:
        epochs: (trial id, task name, seconds) of trained epochs.
        configs: the configurations of those trials, by id; epochs of other trials are left out.
        images: by class; epochs of tasks with other classes are left out.

    """
    seconds: defaultdict[str, float] = defaultdict(float)
    steps: defaultdict[str, int] = defaultdict(int)
    for trial_id, name, epoch_seconds in epochs:
        config = configs.get(trial_id)
        task = next((task for task in config.data.tasks if task_name(task) == name), None) if config else None
        if config and task and all(of in images for of in classes_of_task(task)):
            seconds[name] += epoch_seconds
            steps[name] += _steps_of_task(config, task, images)
    return {task: seconds[task] / count for task, count in steps.items() if count}


def _trained_on(config: TrialConfig, images: ImageCounts) -> int:
    return min(images.train - _held_out(config, images), config.data.train_images or images.train)


def _held_out(config: TrialConfig, images: ImageCounts) -> int:
    fraction = config.data.validation_fraction
    return max(1, round(fraction * images.train)) if fraction > 0 else 0


def _images_read(config: TrialConfig, images: ImageCounts) -> int:
    """The images of a class that a trial sends through its backbone, at most."""
    data = config.data
    validated = _held_out(config, images) if data.evaluate != "test" else 0
    drawn = validated if data.validation_anomalies == "synthetic" else 0  # a defect on a copy of each
    tested = min(images.test, data.test_images or images.test) if data.evaluate != "validation" else 0
    return _trained_on(config, images) + validated + drawn + tested


def _forwards(trials: Sequence[Trial], images: Mapping[str, ImageCounts]) -> tuple[int, int]:
    """Images through a backbone, (without sharing equal features, with it)."""
    alone = 0
    most: dict[tuple[str, str, str], int] = {}  # by feature settings, weights and class
    # Features depend on two knob groups and the weights. The trials keep the groups alive, so an
    # id() stands for one group.
    kinds = Counter((id(t.config.backbone), id(t.config.data), t.inputs.weights) for t in trials)
    config_of = {(id(t.config.backbone), id(t.config.data), t.inputs.weights): t.config for t in trials}
    for kind, number in kinds.items():
        config, weights = config_of[kind], kind[-1]
        features = canonical_json(reach(config, "features"))
        for name in config.data.classes:
            count = _images_read(config, images[name])
            alone += number * count
            key = features, weights, name
            whole = images[name].train + images[name].test + _held_out(config, images[name])
            # With a limit on training images each seed draws its own; together at most all.
            seeded = config.data.train_images is not None
            before = most.get(key, 0)
            most[key] = min(whole, before + number * count) if seeded else max(before, count)
    return alone, sum(most.values())
