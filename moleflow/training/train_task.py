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
from moleflow.training.losses import training_loss

MAX_LOSS = 1e10
PRODUCTS = {"float32": None, "bfloat16": torch.bfloat16}


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
    """Measure the features' statistics and train the parameters of `task`, in place.

    Training that resumes from a checkpoint has the digits of an uninterrupted one: an epoch's
    random numbers derive from its number, and no other state is carried from epoch to epoch.
    `stop_at_nll` ends it early, and leaves the learning rates of the epochs before as they are.

    Args:
        detector: the detector after `add_task(task)`.
        features: (N, H, W, D) of the task's training images, on any device.
        task: position in the sequence, from 0.
        config: the trial's settings.
        randomness: the stage's random numbers.
        on_epoch: called after every epoch that is trained here.
        resume_from: the last checkpoint of an interrupted training of this task; None starts anew.
        on_checkpoint: called with the checkpoint of each epoch, before `on_epoch`.

    Returns:
        The checkpoint of the last epoch.

    Raises:
        Diverged: the mean loss of an epoch is NaN, infinite or above 1e10 in magnitude.
    """
    knobs = config.training
    detector.measure(task, features)
    features = features.to(detector.position.device)
    parameters = detector.trainable(task)
    optimizer = optimizer_of(parameters.values(), knobs)
    count = len(features)
    batch = min(knobs.batch_size, count)
    steps = count // batch if knobs.drop_last else math.ceil(count / batch)
    if resume_from is not None:
        detector.load_task_state(task, resume_from.state)
        _load_optimizer_state(optimizer, parameters, resume_from.optimizer)
    fixed = {name: _copy(t) for name, t in detector.task_state(task).items() if name not in parameters}
    checkpoint = resume_from or Checkpoint((), {}, {})
    detector.train()
    detector.set_products(PRODUCTS[knobs.products])
    for epoch in range(len(checkpoint.epochs), knobs.epochs):
        # At the start of the next epoch, so that a checkpoint of the last one trains no further.
        if knobs.stop_at_nll is not None and epoch > 0 and checkpoint.epochs[-1].nll <= knobs.stop_at_nll:
            break
        start = time.perf_counter()
        order = torch.randperm(count, generator=randomness(f"epoch {epoch}")).to(features.device)
        losses, nlls, norms = [], [], []
        detector.set_dropout(randomness(f"dropout {epoch}") if task == 0 else None)
        for step in range(steps):
            rate = learning_rate(knobs, task, epoch * steps + step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            images = features[order[step * batch : (step + 1) * batch]]
            loss, nll, norm = train_step(detector, images, task, config, optimizer)
            losses.append(loss)
            nlls.append(nll)
            norms.append(norm)
        # Read once an epoch: each `item` waits for the device.
        means = [torch.stack(values).double().mean().item() for values in (losses, nlls, norms)]
        if not all(math.isfinite(value) for value in means) or abs(means[0]) > MAX_LOSS:
            raise Diverged(
                f"task {task} ({task_name(config.data.tasks[task])}): the loss became {means[0]:g} in epoch {epoch + 1} of {knobs.epochs}"
            )
        record = Epoch(epoch + 1, means[0], means[1], rate, means[2], time.perf_counter() - start)
        # Copies: a signal may interrupt the next step, and this checkpoint is then written.
        checkpoint = Checkpoint(
            (*checkpoint.epochs, record),
            fixed | {name: _copy(parameter) for name, parameter in parameters.items()},
            _optimizer_state(optimizer, parameters),
        )
        if on_checkpoint is not None:
            on_checkpoint(checkpoint)
        on_epoch(record)
    detector.set_dropout(None)
    detector.set_products(None)
    detector.requires_grad_(False)
    detector.eval()
    return checkpoint


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
    trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in trained], foreach=True)
    if config.training.gradient_clip is not None:
        torch.nn.utils.clip_grads_with_norm_(trained, config.training.gradient_clip, norm, foreach=True)
    optimizer.step()
    return loss.detach(), nll, norm


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
