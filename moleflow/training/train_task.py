"""Training of one task: features in, trained state out."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moleflow.cache.stage_state import Checkpoint, Epoch
from moleflow.errors import Diverged
from moleflow.models.detector import Detector
from moleflow.settings.config import TrainingKnobs, TrialConfig
from moleflow.settings.task_list import task_name
from moleflow.training.adamp import AdamP
from moleflow.training.compilation import compiled
from moleflow.training.losses import training_loss
from moleflow.training.products import DTYPES, tensor_cores

MAX_LOSS = 1e10


@dataclass(frozen=True)
class Randomness:
    """The random numbers of a stage, from the seed, the parent stage's lineage and the task.

    No generator is carried from one stage to the next, so a stage draws the same numbers in every
    trial that shares it.
    """

    seed: int
    parent_lineage: str
    task: int

    def __call__(self, name: str) -> torch.Generator:
        """Return a fresh CPU generator for the draws called `name`."""
        text = f"{self.seed}:{self.parent_lineage}:{self.task}:{name}"
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1)


def new_detector(config: TrialConfig, features: Tensor, randomness: Randomness, device: torch.device) -> Detector:
    """Return a detector without any task, on `device`, for features (N, H, W, D)."""
    return Detector(config, (features.shape[1], features.shape[2], features.shape[3]), randomness).to(device)


class TaskTraining:
    """The training of one task, epoch by epoch and step by step.

    Training that resumes from a checkpoint has the digits of an uninterrupted one: an epoch's
    random numbers derive from its number, and no other state is carried from epoch to epoch.
    `stop_at_nll` ends it early, and leaves the learning rates of the epochs before as they are.

    Args:
        detector: the detector after `add_task(task)` and `measure`; it trains in place.
        features: (N, H, W, D) of the task's training images, on the detector's device.
        task: position in the sequence, from 0.
        config: the trial's settings.
        randomness: the stage's random numbers.
        on_epoch: called after every epoch that is trained here.
        resume_from: the last checkpoint of an interrupted training of this task; None starts anew.
        on_checkpoint: called with the checkpoint of each epoch, before `on_epoch`.

    Attributes:
        checkpoint: the state after the last epoch.
        parameters: the trained tensors, by name.
        steps: the number of steps of an epoch.
        dropout: source of this epoch's dropout; None without.
    """

    checkpoint: Checkpoint
    dropout: torch.Generator | None

    def __init__(
        self,
        detector: Detector,
        features: Tensor,
        task: int,
        config: TrialConfig,
        randomness: Randomness,
        on_epoch: Callable[[Epoch], None],
        resume_from: Checkpoint | None = None,
        on_checkpoint: Callable[[Checkpoint], None] | None = None,
    ) -> None:
        knobs = config.training
        self.detector, self.task, self.config, self.features = detector, task, config, features
        self.parameters = detector.trainable(task)
        self._randomness, self._on_epoch, self._on_checkpoint = randomness, on_epoch, on_checkpoint
        self._optimizer = optimizer_of(self.parameters.values(), knobs)
        count = len(features)
        self._batch = min(knobs.batch_size, count)
        self.steps = count // self._batch if knobs.drop_last else math.ceil(count / self._batch)
        if resume_from is not None:
            detector.load_task_state(task, resume_from.state)
            _load_optimizer_state(self._optimizer, self.parameters, resume_from.optimizer)
        self._fixed = {name: _copy(t) for name, t in detector.task_state(task).items() if name not in self.parameters}
        self.checkpoint = resume_from or Checkpoint((), {}, {})
        detector.train()
        detector.set_products(DTYPES[knobs.products])

    @property
    def ended(self) -> bool:
        """True if no epoch is left."""
        knobs, epochs = self.config.training, self.checkpoint.epochs
        if knobs.stop_at_nll is not None and epochs and epochs[-1].nll <= knobs.stop_at_nll:
            return True
        return len(epochs) >= knobs.epochs

    def begin_epoch(self) -> None:
        """Draw the next epoch's random numbers."""
        self._epoch = len(self.checkpoint.epochs)
        self._start = time.perf_counter()
        generator = self._randomness(f"epoch {self._epoch}")
        self._order = torch.randperm(len(self.features), generator=generator).to(self.features.device)
        self._taken: list[tuple[Tensor, Tensor, Tensor]] = []
        self.dropout = self._randomness(f"dropout {self._epoch}") if self.task == 0 else None
        self.detector.set_dropout(self.dropout)

    def images(self, step: int) -> Tensor:
        """Return the features (B, H, W, D) of a step of this epoch."""
        return self.features[self._order[step * self._batch : (step + 1) * self._batch]]

    def step(self, step: int) -> None:
        """Take a step."""
        self._set_rate(step)
        self._taken.append(train_step(self.detector, self.images(step), self.task, self.config, self._optimizer))

    def update(self, step: int, loss: Tensor, nll: Tensor) -> None:
        """Take a step whose gradients are known already, those of `loss`."""
        self._set_rate(step)
        norm = clip_and_update(self._optimizer, self.config.training.gradient_clip)
        self._taken.append((loss.detach(), nll, norm))

    def _set_rate(self, step: int) -> None:
        self._rate = learning_rate(self.config.training, self.task, self._epoch * self.steps + step, self.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate

    def end_epoch(self, lanes: int = 1) -> None:
        """Report the epoch, whose seconds are shared among `lanes` trainings.

        Raises:
            Diverged: the mean loss of the epoch is NaN, infinite or above 1e10 in magnitude.
        """
        # Read once an epoch: each `item` waits for the device.
        means = [torch.stack(values).double().mean().item() for values in zip(*self._taken, strict=True)]
        if not all(math.isfinite(value) for value in means) or abs(means[0]) > MAX_LOSS:
            raise Diverged(
                f"task {self.task} ({task_name(self.config.data.tasks[self.task])}): the loss became {means[0]:g} "
                f"in epoch {self._epoch + 1} of {self.config.training.epochs}"
            )
        seconds = (time.perf_counter() - self._start) / lanes
        record = Epoch(self._epoch + 1, means[0], means[1], self._rate, means[2], seconds)
        # Copies: a signal may interrupt the next step, and this checkpoint is then written.
        self.checkpoint = Checkpoint(
            (*self.checkpoint.epochs, record),
            self._fixed | {name: _copy(parameter) for name, parameter in self.parameters.items()},
            _optimizer_state(self._optimizer, self.parameters),
        )
        if self._on_checkpoint is not None:
            self._on_checkpoint(self.checkpoint)
        self._on_epoch(record)

    def end(self) -> None:
        """Set the detector up for scoring."""
        self.detector.set_dropout(None)
        self.detector.set_products(None)
        self.detector.requires_grad_(False)
        self.detector.eval()


def train_task(
    detector: Detector,
    features: Tensor,
    task: int,
    config: TrialConfig,
    randomness: Randomness,
    on_epoch: Callable[[Epoch], None],
    resume_from: Checkpoint | None = None,
    on_checkpoint: Callable[[Checkpoint], None] | None = None,
) -> Checkpoint:
    """Measure the features' statistics and train a task to its end, by itself.

    The arguments are those of `TaskTraining`, with features on any device.

    Returns:
        The checkpoint of the last epoch.

    Raises:
        Diverged: see `TaskTraining.end_epoch`.
        InvalidInput: `compile` is set, and there is no working compiler here.
    """
    detector.measure(task, features)
    features = features.to(detector.position.device)
    training = TaskTraining(detector, features, task, config, randomness, on_epoch, resume_from, on_checkpoint)
    with tensor_cores(config.training.products), compiled(detector, config.training.compile):
        while not training.ended:
            training.begin_epoch()
            for step in range(training.steps):
                training.step(step)
            training.end_epoch()
    training.end()
    return training.checkpoint


def train_step(
    detector: Detector, images: Tensor, task: int, config: TrialConfig, optimizer: torch.optim.Optimizer
) -> tuple[Tensor, Tensor, Tensor]:
    """Take one step on features `images` (B, H, W, D).

    Returns:
        Loss, plain NLL and gradient norm before clipping, as scalars on the device.
    """
    z, log_det = detector(images, task)
    loss, nll = training_loss(z, log_det, config.loss, images)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    return loss.detach(), nll, clip_and_update(optimizer, config.training.gradient_clip)


def clip_and_update(optimizer: torch.optim.Optimizer, most: float | None) -> Tensor:
    """Clip the gradients to the norm `most`, if one is given, and update the parameters.

    Returns:
        The gradients' norm before clipping, as a scalar on the device.
    """
    trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in trained], foreach=True)
    if most is not None:
        torch.nn.utils.clip_grads_with_norm_(trained, most, norm, foreach=True)
    optimizer.step()
    return norm


def learning_rate(knobs: TrainingKnobs, task: int, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of step 0, 1, … of a task (Loshchilov and Hutter 2017).

        warm-up, after task 0   peak * (step + 1) / (W + 1) for step < W
        constant                peak
        cosine                  peak * (f + (1 - f) * (1 + cos(pi t)) / 2)

    W is the number of warm-up steps, at most half of all. t runs from 0 at the first step after the
    warm-up to 1 at the last step. f is the final fraction.

    With `schedule_by: epoch`, every step of epoch e = 0, 1, … has the rate

        warm-up, after task 0   peak * (e + 1) / W for e < W
        cosine                  as above, with t = (e - W) / (epochs - W)

    where W is the number of warm-up epochs, at most half of all. So the last epoch stays above the
    final fraction, as with torch's CosineAnnealingLR stepped once an epoch.
    """
    if knobs.schedule_by == "epoch":
        epoch = step // steps_per_epoch
        warmup = min(knobs.warmup_epochs, knobs.epochs // 2) if task > 0 else 0
        if epoch < warmup:
            return knobs.learning_rate * (epoch + 1) / warmup
        return _annealed(knobs, (epoch - warmup) / (knobs.epochs - warmup))
    total = knobs.epochs * steps_per_epoch
    warmup = min(knobs.warmup_epochs * steps_per_epoch, total // 2) if task > 0 else 0
    if step < warmup:
        return knobs.learning_rate * (step + 1) / (warmup + 1)
    return _annealed(knobs, (step - warmup) / max(1, total - warmup - 1))


def _annealed(knobs: TrainingKnobs, t: float) -> float:
    """Return the learning rate after the warm-up, at the share t of the way."""
    if knobs.schedule == "constant":
        return knobs.learning_rate
    return knobs.learning_rate * (knobs.final_fraction + (1 - knobs.final_fraction) * 0.5 * (1 + math.cos(math.pi * t)))


def optimizer_of(parameters: Iterable[torch.nn.Parameter], knobs: TrainingKnobs) -> torch.optim.Optimizer:
    """Return the optimizer that the knobs name, at the peak learning rate."""
    if knobs.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=knobs.learning_rate, weight_decay=knobs.weight_decay, fused=True)
    return AdamP(parameters, lr=knobs.learning_rate, weight_decay=knobs.weight_decay)


def _optimizer_state(optimizer: torch.optim.Optimizer, parameters: dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    """Return the optimizer's state as `<parameter>/<entry>`; step counts become tensors too."""
    return {
        f"{name}/{entry}": _copy(value) if isinstance(value, Tensor) else torch.tensor(value)
        for name, parameter in parameters.items()
        for entry, value in optimizer.state[parameter].items()
    }


def _load_optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: dict[str, torch.nn.Parameter], stored: dict[str, Tensor]
) -> None:
    """Load the state that `_optimizer_state` returned."""
    positions = {name: position for position, name in enumerate(parameters)}
    state: dict[int, dict[str, Any]] = {position: {} for position in positions.values()}
    for path, value in stored.items():
        name, _, entry = path.rpartition("/")
        # AdamP counts steps in a Python int, AdamW in a float tensor. Powers of the two differ in
        # their last digits, so each gets its own type back.
        state[positions[name]][entry] = value.clone() if value.is_floating_point() else value.item()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format)
