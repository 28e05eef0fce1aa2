"""Lanes: a task of several variants trains as one batched flow, for devices that it fills better.

The variants' tensors have equal shapes. So each tensor is stacked over the lanes, and the detector
runs once for all of them (as in HFTA, Wang et al. 2021). Seed and images are the same, and so are
batches and dropout. Loss, gradient norm and optimizer are each lane's own.

There are always `training.lanes` lanes: those without a variant repeat the first and learn nothing.
So the digits of a lane depend neither on its place nor on its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.func import functional_call

from moleflow.errors import Diverged
from moleflow.models.detector import Detector
from moleflow.models.lora import LoraExpert
from moleflow.models.spatial_lora import SpatialLoraExpert
from moleflow.training.losses import training_loss
from moleflow.training.products import tensor_cores
from moleflow.training.train_task import TaskTraining


def train_lanes(trainings: Sequence[TaskTraining], lanes: int) -> list[Diverged | None]:
    """Train one task of several detectors to its end, all at once.

    Args:
        trainings: at most `lanes`, all at one epoch, with the same features and random numbers.
        lanes: how many detectors are stacked.

    Returns:
        For each training, the error that ended it, or None.
    """
    errors: list[Diverged | None] = [None] * len(trainings)
    flow = _StackedDetector([training.detector for training in trainings], trainings[0].task, lanes)
    with tensor_cores(trainings[0].config.training.products):
        _train_together(flow, trainings, errors)
    for training in trainings:
        training.end()
    return errors


def _train_together(flow: _StackedDetector, trainings: Sequence[TaskTraining], errors: list[Diverged | None]) -> None:
    """Train until all lanes have ended, and note the errors of those that diverge."""
    while active := [n for n, of in enumerate(trainings) if errors[n] is None and not of.ended]:
        for n in active:
            trainings[n].begin_epoch()
        trainings[0].detector.set_dropout(trainings[active[0]].dropout)
        for step in range(trainings[0].steps):
            _step(flow, {n: trainings[n] for n in active}, step)
        # The first one last: it may be stopped as it reports, when the others have ended theirs.
        for n in reversed(active):
            try:
                trainings[n].end_epoch(lanes=len(active))
            except Diverged as error:
                errors[n] = error


def _step(flow: _StackedDetector, active: dict[int, TaskTraining], step: int) -> None:
    images = next(iter(active.values())).images(step)
    trained = flow.trained()
    z, log_det = flow(images, trained)
    found = {n: training_loss(z[n], log_det[n], of.config.loss, images) for n, of in active.items()}
    total = torch.stack([loss for loss, _ in found.values()]).sum()
    gradients = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
    for n, training in active.items():
        for name, gradient in zip(trained, gradients, strict=True):
            # Copies: two biases that are added have one gradient, which clipping changes in place.
            training.parameters[name].grad = None if gradient is None else gradient[n].clone()
        training.update(step, *found[n])


class _StackedDetector:
    """Several detectors of one shape as one, for the training of a task.

    Args:
        detectors: the detectors; the first also stands in for lanes without one.
        task: the task that trains.
        lanes: how many lanes there are.
    """

    def __init__(self, detectors: Sequence[Detector], task: int, lanes: int) -> None:
        self._first, self._task = detectors[0], task
        self._lanes = [detectors[n] if n < len(detectors) else detectors[0] for n in range(lanes)]
        self._experts = [
            module for module in self._first.modules() if isinstance(module, LoraExpert | SpatialLoraExpert)
        ]
        self._scaling = torch.tensor(
            [one.config.lora.effective_scaling for one in self._lanes], device=self._first.position.device
        )
        tensors = [dict(one.named_parameters()) | dict(one.named_buffers()) for one in self._lanes]
        self._trained = {
            name: [of[name] for of in tensors] for name, tensor in tensors[0].items() if tensor.requires_grad
        }
        self._frozen = {
            name: torch.stack([of[name].detach() for of in tensors])
            for name, tensor in tensors[0].items()
            if not tensor.requires_grad
        }

    def trained(self) -> dict[str, Tensor]:
        """Return the present trained tensors by name, each stacked over the lanes."""
        return {name: torch.stack([one.detach() for one in of]).requires_grad_() for name, of in self._trained.items()}

    def __call__(self, images: Tensor, trained: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return z (L, B, H, W, D) and log_det (L, B, H, W) of features (B, H, W, D)."""
        forward = torch.vmap(self._forward, in_dims=(0, 0, None), randomness="same")
        outputs: tuple[Tensor, Tensor] = forward(self._frozen | trained, self._scaling, images)
        return outputs

    def _forward(self, state: dict[str, Tensor], scaling: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        with self._scaled(scaling):
            outputs: tuple[Tensor, Tensor] = functional_call(self._first, state, (images, self._task))
        return outputs

    @contextmanager
    def _scaled(self, scaling: Tensor) -> Iterator[None]:
        """Set the LoRA scaling, which is no tensor of the detector, to that of each lane."""
        for expert in self._experts:
            expert.scaling = scaling
        try:
            yield
        finally:
            for expert in self._experts:
                expert.scaling = self._first.config.lora.effective_scaling
