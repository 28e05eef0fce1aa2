"""AdamP (Heo et al. 2021): Adam without the part of a step along scale-invariant weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
DELTA, DECAY_RATIO = 0.1, 0.1


class AdamP(torch.optim.Optimizer):
    """timm's AdamP at its default settings, in fewer passes; equal up to rounding.

    With m and v Adam's moments, a step on weights w is

        u = (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
        w <- (1 - lr * weight_decay * ratio) w - lr * u

    A step is tangential if gradient and weights are nearly orthogonal, by rows or as a whole. Then
    u loses its part along w, and ratio is 0.1 instead of 1. One-dimensional parameters are exempt.

    Args:
        parameters: tensors to train; their gradients are dense.
        lr: learning rate.
        weight_decay: decoupled weight decay.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step on every parameter that has a gradient; `closure` is not called."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._step(parameters, [p.grad for p in parameters], group["lr"], group["weight_decay"])

    def _step(self, parameters: list[Tensor], gradients: list[Tensor], lr: float, weight_decay: float) -> None:
        states = [self._state(p) for p in parameters]
        means, squares = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
        for state in states:
            state["step"] += 1
        torch._foreach_mul_(means, BETA1)
        torch._foreach_add_(means, gradients, alpha=1 - BETA1)
        torch._foreach_mul_(squares, BETA2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - BETA2)
        steps = torch._foreach_sqrt(squares)
        torch._foreach_div_(steps, [math.sqrt(1 - BETA2 ** s["step"]) for s in states])
        torch._foreach_add_(steps, EPSILON)
        steps = torch._foreach_div(means, steps)
        projected = _project(parameters, gradients, steps)
        if weight_decay > 0:
            ratios = [DECAY_RATIO if tangential else 1.0 for tangential in projected]
            torch._foreach_mul_(parameters, [1 - lr * weight_decay * ratio for ratio in ratios])
        torch._foreach_mul_(steps, [-lr / (1 - BETA1 ** s["step"]) for s in states])
        torch._foreach_add_(parameters, steps)

    def _state(self, parameter: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
        return state


def _project(parameters: list[Tensor], gradients: list[Tensor], steps: Sequence[Tensor]) -> list[bool]:
    """Remove the part along the weights from each tangential step, in place.

    Returns:
        For each parameter, whether its step was tangential.
    """
    projected = [False] * len(parameters)
    matrices = [n for n, p in enumerate(parameters) if p.dim() > 1]
    if not matrices:
        return projected
    # One transfer for all parameters: each `tolist` waits for the device.
    cosines = torch.stack([_cosines(parameters[n].flatten(1), gradients[n].flatten(1)) for n in matrices]).tolist()
    for n, (by_row, whole) in zip(matrices, cosines, strict=True):
        rows = parameters[n].flatten(1)
        if by_row < DELTA / math.sqrt(rows.shape[1]):
            _remove(rows, steps[n].view(rows.shape))
        elif whole < DELTA / math.sqrt(rows.numel()):
            _remove(rows.view(1, -1), steps[n].view(1, -1))
        else:
            continue
        projected[n] = True
    return projected


def _cosines(weights: Tensor, gradient: Tensor) -> Tensor:
    """Return the largest |cos| of a row's angle, and |cos| of the whole matrix's angle: (2,)."""
    dots = torch.linalg.vecdot(weights, gradient, dim=1)
    norms = torch.linalg.vector_norm(weights, dim=1), torch.linalg.vector_norm(gradient, dim=1)
    by_row = dots.abs() / (norms[0].clamp_min(EPSILON) * norms[1].clamp_min(EPSILON))
    lengths = [torch.linalg.vector_norm(norm).clamp_min(EPSILON) for norm in norms]
    return torch.stack([by_row.max(), dots.sum().abs() / (lengths[0] * lengths[1])])


def _remove(weights: Tensor, step: Tensor) -> None:
    """Remove the part along `weights` from `step`, row by row, in place."""
    unit = weights / (torch.linalg.vector_norm(weights, dim=1, keepdim=True) + EPSILON)
    step.sub_(unit * torch.linalg.vecdot(unit, step, dim=1)[:, None])
