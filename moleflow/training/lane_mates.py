"""The variants that train in the lanes beside a trial; their stages are stored for their trials."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from moleflow.cache.checkpoints import StageCheckpointer
from moleflow.cache.protect_planned import stage_settings_digest
from moleflow.cache.stage_state import Checkpoint, Stage, state_digest
from moleflow.cache.stages import ROOT, StageId, StageStore, stage_id
from moleflow.environment import Environment
from moleflow.models.detector import Detector
from moleflow.settings.config import TrialConfig
from moleflow.settings.task_list import task_name
from moleflow.training.lanes import train_lanes
from moleflow.training.train_task import Randomness, TaskTraining, new_detector


@dataclass(frozen=True)
class LanePast:
    """The tasks so far, which are the same in all lanes.

    Attributes:
        images: digest of each task's training images.
        randomness: each task's random numbers.
        features: (N, H, W, D) of the last task's training images, on the CPU.
    """

    images: Sequence[str]
    randomness: Sequence[Randomness]
    features: Tensor


@dataclass(frozen=True)
class LaneMates:
    """The other variants of a trial's lanes, which learn the same tasks.

    A stage of theirs trains beside the trial's own if it is neither stored nor claimed, and if the
    stages before it are stored. It is claimed, checkpointed and stored as by a trial of its own.

    Attributes:
        configs: the variants.
        stages: the store of stages.
        environment: where numbers are computed.
        weights: identity of the backbone's weights.
    """

    configs: Sequence[TrialConfig]
    stages: StageStore
    environment: Environment
    weights: str

    def train(self, own: TaskTraining, key: StageId, past: LanePast) -> tuple[Checkpoint, float]:
        """Train a task of the trial, and of its mates where they can.

        Args:
            own: the trial's own training.
            key: the stage that it makes.
            past: what the tasks so far have in common.

        Returns:
            The trial's last checkpoint, and the seconds that belong to the mates.

        Raises:
            Diverged: the trial's own loss did; those of its mates are found by their own trials.
        """
        start = len(own.checkpoint.epochs)
        with self._opened(own, key, past) as mates:
            errors = train_lanes([own, *[mate.training for mate in mates]], own.config.training.lanes)
            for mate, error in zip(mates, errors[1:], strict=True):
                if error is None:
                    mate.store(self.stages)
        if errors[0] is not None:
            raise errors[0]
        spent = [epoch.seconds for mate in mates for epoch in mate.training.checkpoint.epochs[start:]]
        return own.checkpoint, sum(spent)

    @contextmanager
    def _opened(self, own: TaskTraining, key: StageId, past: LanePast) -> Iterator[list[_Mate]]:
        """Claim the mates' stages, and release them in the end."""
        with ExitStack() as claims:
            mates: list[_Mate] = []
            for config in self.configs:
                if len(mates) + 1 < own.config.training.lanes:
                    chain = self._chain(config, past.images)
                    if chain[-1].key not in [key.key, *[mate.key.key for mate in mates]]:
                        mates += self._claimed(config, chain, own, past, claims)
            yield mates

    def _chain(self, config: TrialConfig, images: Sequence[str]) -> list[StageId]:
        """Return the variant's stage of each task so far."""

        def following(parent: StageId, task: int) -> StageId:
            return stage_id(parent, config, task, images[task], self.weights, self.environment)

        return list(accumulate(range(len(images)), following, initial=ROOT))[1:]

    def _claimed(
        self,
        config: TrialConfig,
        chain: Sequence[StageId],
        own: TaskTraining,
        past: LanePast,
        claims: ExitStack,
    ) -> list[_Mate]:
        """Return the variant, ready to train; nothing if it cannot train here and now."""
        *before, key = chain
        earlier = [self.stages.load(stage) for stage in before]
        if None in earlier or (claim := self.stages.claim(key)) is None:
            return []
        claims.enter_context(claim)
        if self.stages.load(key) is not None:
            return []
        checkpointer = claims.enter_context(StageCheckpointer(self.stages, key))
        reached = checkpointer.start.epochs if checkpointer.start else ()
        if len(reached) != len(own.checkpoint.epochs):
            return []  # Lanes train the same epoch. Its own trial will continue from there.
        detector = _detector(config, past, [stage.state for stage in earlier if stage]).to(own.features.device)
        training = TaskTraining(
            detector,
            own.features,
            len(before),
            config,
            past.randomness[-1],
            lambda epoch: None,
            checkpointer.start,
            checkpointer.keep,
        )
        return [_Mate(key, training, checkpointer)]


@dataclass(frozen=True)
class _Mate:
    key: StageId
    training: TaskTraining
    checkpointer: StageCheckpointer

    def store(self, stages: StageStore) -> None:
        """Store the trained stage."""
        config, task = self.training.config, self.training.task
        trained = self.training.checkpoint
        seconds = sum(epoch.seconds for epoch in trained.epochs)
        stage = Stage(trained.state, trained.epochs, seconds, state_digest(trained.state))
        stages.save(self.key, stage, stage_facts(config, task), self.checkpointer.has_file)


def stage_facts(config: TrialConfig, task: int) -> dict[str, object]:
    """Return what a stored stage says about itself, for readers of its stage.json."""
    name = task_name(config.data.tasks[task])
    return {"config": config.model_dump(), "task": name, "settings": stage_settings_digest(config, task)}


def _detector(config: TrialConfig, past: LanePast, states: Sequence[dict[str, Tensor]]) -> Detector:
    """Return a detector that is about to learn the task after those of `states`."""
    detector = new_detector(config, past.features, past.randomness[0], torch.device("cpu"))
    for task, of_task in enumerate(past.randomness):
        detector.add_task(task, of_task)
        if task < len(states):
            detector.load_task_state(task, states[task])
    detector.measure(len(states), past.features)
    return detector
