"""What sharing saves a plan: stages, backbone forwards and, once a trial has shown what a step takes, compute-hours. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from moleflow.config import Training, TrialConfig, canonical_json, reach
from orchestrator.stage_tree import StageTree, stage_tree
from orchestrator.trial import Trial


@dataclass(frozen=True)
class Images:
    """How many images a task has: normal ones to train on, and test images."""

    train: int
    test: int


@dataclass(frozen=True)
class MoreEpochs:
    """First tasks that differ from another one, planned or trained already, in nothing but more epochs.

    Attributes:
        epochs: how many they have.
        fewer: the next fewer epochs that there are.
        goes_on: whether they are trained on from there, or anew, as the schedule does not allow it.
        trials: how many trials have such a first task to train.

    """

    epochs: int
    fewer: int
    goes_on: bool
    trials: int


@dataclass(frozen=True)
class Work:
    """Work of some trials, once if each did all of its own and once shared.

    Attributes:
        stages: of training, (without sharing, with it).
        forwards: images through a backbone, at most, (without sharing, with it).
        hours: compute-hours of training, (without sharing, with it); None where no stage of these tasks has been timed yet.
        more_epochs: first tasks that differ from others in nothing but epochs, fewest first.

    """

    stages: tuple[int, int]
    forwards: tuple[int, int]
    hours: tuple[float, float] | None
    more_epochs: tuple[MoreEpochs, ...] = ()


def work(
    trials: Sequence[Trial],
    images: Mapping[str, Images],
    step_seconds: Mapping[str, float],
    there: Iterable[Trial] = (),
) -> Work:
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
    longer: Counter[tuple[int, int, bool]] = Counter()
    for trial in trials:
        for stage, task in zip(tree.chains[trial.id], trial.config.data.tasks, strict=True):
            of_step = step_seconds[task] if timed else 0.0
            alone += steps(trial.config, images[task]) * of_step
            if stage not in left and stage not in trained:
                left.add(stage)
                shared += own_steps(tree, stage, trial.config, images[task]) * of_step
            fewer = tree.fewer.get(stage)
            if fewer is not None and stage not in trained:
                longer[trial.config.training.epochs, fewer.epochs, fewer.goes_on] += 1
    return Work(
        stages=(sum(len(tree.chains[trial.id]) for trial in trials), len(left)),
        forwards=_forwards(trials, images),
        hours=(alone / 3600, shared / 3600) if timed and trials else None,
        more_epochs=tuple(MoreEpochs(*of, number) for of, number in sorted(longer.items())),
    )


def own_steps(tree: StageTree, stage: int, config: TrialConfig, images: Images) -> int:
    """The steps that training a stage takes: without those of a first task of fewer epochs that it goes on from."""
    fewer = tree.fewer.get(stage)
    ahead = fewer.epochs if fewer is not None and fewer.goes_on else 0
    return steps(config, images) // config.training.epochs * (config.training.epochs - ahead)


def steps(config: TrialConfig, images: Images) -> int:
    """Training steps of one task."""
    return config.training.epochs * steps_an_epoch(config.training, _trained_on(config, images))


def steps_an_epoch(training: Training, count: int) -> int:
    """Training steps of an epoch over so many images."""
    batch = max(1, min(training.batch_size, count))
    return count // batch if training.drop_last else math.ceil(count / batch)


def seconds_a_step(
    epochs: Iterable[tuple[str, str, float]], configs: Mapping[str, TrialConfig], images: Mapping[str, Images]
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
                before[1] + steps_an_epoch(config.training, _trained_on(config, images[task])),
            )
    return {task: seconds / count for task, (seconds, count) in total.items() if count}


def _trained_on(config: TrialConfig, images: Images) -> int:
    return min(images.train - _held_out(config, images), config.data.train_images or images.train)


def _held_out(config: TrialConfig, images: Images) -> int:
    fraction = config.data.validation_fraction
    return max(1, round(fraction * images.train)) if fraction > 0 else 0


def _read(config: TrialConfig, images: Images) -> int:
    """How many images of a task a trial sends through its backbone, at most."""
    data = config.data
    validated = _held_out(config, images) if data.evaluate != "test" else 0
    drawn = validated if data.validation_anomalies == "synthetic" else 0  # a defect on a copy of each
    tested = min(images.test, data.test_images or images.test) if data.evaluate != "validation" else 0
    return _trained_on(config, images) + validated + drawn + tested


def _forwards(trials: Sequence[Trial], images: Mapping[str, Images]) -> tuple[int, int]:
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
