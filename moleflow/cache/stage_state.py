"""The state of a stage, trained or in progress, as training returns it and the store keeps it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Epoch:
    """One pass over a task's training images.

    Attributes:
        epoch: its number, from 1.
        loss: mean training loss.
        nll: mean plain negative log-likelihood, in nats a patch.
        lr: learning rate at its end.
        grad_norm: mean gradient norm before clipping.
        seconds: its duration.
    """

    epoch: int
    loss: float
    nll: float
    lr: float
    grad_norm: float
    seconds: float


@dataclass(frozen=True)
class Stage:
    """A trained task.

    Attributes:
        state: the task's own tensors, by name.
        epochs: the epochs of its training.
        seconds: the duration of its training.
        state_digest: the digest of `state`.
    """

    state: dict[str, Tensor]
    epochs: tuple[Epoch, ...]
    seconds: float
    state_digest: str


@dataclass(frozen=True)
class Checkpoint:
    """The training state of a task at the end of an epoch, on the device that trains.

    Nothing else is carried from epoch to epoch.

    Attributes:
        epochs: the epochs so far.
        state: the detector's `task_state`.
        optimizer: the optimizer's state as `<parameter>/<entry>`.
    """

    epochs: tuple[Epoch, ...]
    state: dict[str, Tensor]
    optimizer: dict[str, Tensor]


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of the tensors, in the order of their names."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype};".encode())
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()
