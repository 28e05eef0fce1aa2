"""What sharing saves a plan: stages, backbone forwards and, once a trial has shown what a step takes, compute-hours. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from moleflow.settings.config import TrainingKnobs, TrialConfig, canonical_json, reach
from orchestrator.plan.stage_tree import stage_tree
from orchestrator.sweep.trial import Trial


@dataclass(frozen=True)
class ImageCounts:
    """How many images a task has: normal ones to train on, and test images."""

    train: int
    test: int


@dataclass(frozen=True)
class WorkEstimate:
    """Work of some trials, once if each did all of its own and once shared.

    Attributes:
        stages: of training, (without sharing, with it).
        forwards: images through a backbone, at most, (without sharing, with it).
        hours: compute-hours of training, (without sharing, with it); None where no stage of these tasks has been timed yet.

    """

    stages: tuple[int, int]
    forwards: tuple[int, int]
    hours: tuple[float, float] | None


def estimate_work(
    trials: Sequence[Trial],
    images: Mapping[str, ImageCounts],
    step_seconds: Mapping[str, float],
    there: Iterable[Trial] = (),
) -> WorkEstimate:
    """The work of `trials`.

    Args:
        images: by task.
        step_seconds: what one training step of each task took, as far as known; see `seconds_a_step`.
        there: trials whose stages are trained already.

    """
    known = list(there)
    tree = stage_tree([*known, *trials])
    trained = {stage for trial in known for stage in tree.chains[trial.id]}
    timed = all(task in step_seconds for tasks in {trial.config.data.tasks for trial in trials} for task in tasks)
    left: set[int] = set()
    alone = shared = 0.0
    for trial in trials:
        for stage, task in zip(tree.chains[trial.id], trial.config.data.tasks, strict=True):
            seconds = task_steps(trial.config, images[task]) * (step_seconds[task] if timed else 0.0)
            alone += seconds
            if stage not in left and stage not in trained:
                left.add(stage)
                shared += seconds
    return WorkEstimate(
        stages=(sum(len(tree.chains[trial.id]) for trial in trials), len(left)),
        forwards=_forwards(trials, images),
        hours=(alone / 3600, shared / 3600) if timed and trials else None,
    )


def task_steps(config: TrialConfig, images: ImageCounts) -> int:
    """Training steps of one task."""
    return config.training.epochs * steps_per_epoch(config.training, _trained_on(config, images))


def steps_per_epoch(training: TrainingKnobs, count: int) -> int:
    """Training steps of an epoch over so many images."""
    batch = max(1, min(training.batch_size, count))
    return count // batch if training.drop_last else math.ceil(count / batch)


def seconds_per_step(
    epochs: Iterable[tuple[str, str, float]], configs: Mapping[str, TrialConfig], images: Mapping[str, ImageCounts]
) -> dict[str, float]:
    """The mean seconds of a training step of each task.

    Args:
        epochs: (trial id, task, seconds) of epochs that were trained.
        configs: of those trials, by id; epochs of others are left out.

    """
    total: dict[str, tuple[float, int]] = {}
    for trial_id, task, seconds in epochs:
        if trial_id in configs and task in images:
            config = configs[trial_id]
            before = total.get(task, (0.0, 0))
            total[task] = (
                before[0] + seconds,
                before[1] + steps_per_epoch(config.training, _trained_on(config, images[task])),
            )
    return {task: seconds / count for task, (seconds, count) in total.items() if count}


def _trained_on(config: TrialConfig, images: ImageCounts) -> int:
    return min(images.train - _held_out(config, images), config.data.train_images or images.train)


def _held_out(config: TrialConfig, images: ImageCounts) -> int:
    fraction = config.data.validation_fraction
    return max(1, round(fraction * images.train)) if fraction > 0 else 0


def _read(config: TrialConfig, images: ImageCounts) -> int:
    """How many images of a task a trial sends through its backbone, at most."""
    data = config.data
    validated = _held_out(config, images) if data.evaluate != "test" else 0
    drawn = validated if data.validation_anomalies == "synthetic" else 0  # a defect on a copy of each
    tested = min(images.test, data.test_images or images.test) if data.evaluate != "validation" else 0
    return _trained_on(config, images) + validated + drawn + tested


def _forwards(trials: Sequence[Trial], images: Mapping[str, ImageCounts]) -> tuple[int, int]:
    """Images through a backbone if each trial forwarded its own once, and if equal features are made once."""
    alone = 0
    most: dict[tuple[str, str, str], int] = {}
    # A trial's features depend on two groups of knobs and the weights. The trials hold the groups, so that no id() is taken twice.
    kinds = Counter((id(t.config.backbone), id(t.config.data), t.inputs.weights) for t in trials)
    of_kind = {(id(t.config.backbone), id(t.config.data), t.inputs.weights): t.config for t in trials}
    for kind, number in kinds.items():
        config, weights = of_kind[kind], kind[-1]
        features = canonical_json(reach(config, "features"))
        for task in config.data.tasks:
            count = _read(config, images[task])
            alone += number * count
            place = features, weights, task
            whole = images[task].train + images[task].test + _held_out(config, images[task])
            # Seeds draw different images where only some are taken: together they are all, at most.
            seeded = config.data.train_images is not None
            before = most.get(place, 0)
            most[place] = min(whole, before + number * count) if seeded else max(before, count)
    return alone, sum(most.values())
