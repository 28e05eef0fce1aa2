"""A stage's trained state, whole or in progress, as training gives it and the store keeps it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Epoch:
    """One pass over a task's training images: mean loss, mean plain NLL (nats a patch), learning rate at its end, gradient norm."""

    epoch: int
    loss: float
    nll: float
    lr: float
    grad_norm: float
    seconds: float


@dataclass(frozen=True)
class Stage:
    """A trained task: its own parameters, how training went and what it cost."""

    state: dict[str, Tensor]
    epochs: tuple[Epoch, ...]
    seconds: float
    state_digest: str


@dataclass(frozen=True)
class Checkpoint:
    """What training a task reached at the end of an epoch, on the device that trains; nothing else is carried from epoch to epoch.

    Attributes:
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
