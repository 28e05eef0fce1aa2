"""AdamP (Heo et al. 2021): Adam without the part of a step along scale-invariant weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
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

    On a GPU a step never waits for the device: it computes both projections of all matrices of one
    shape at once, and selects. On the CPU it computes only the projections that are used.

    Args:
        parameters: tensors to train, all on one device; their gradients are dense.
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
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, [math.sqrt(1 - BETA2 ** s["step"]) for s in states])
        torch._foreach_add_(roots, EPSILON)
        decays = 1 - lr * weight_decay, 1 - lr * weight_decay * DECAY_RATIO
        project = project_by_host if parameters[0].device.type == "cpu" else project_on_device
        steps = project(parameters, gradients, list(torch._foreach_div(means, roots)), decays)
        torch._foreach_mul_(steps, [-lr / (1 - BETA1 ** s["step"]) for s in states])
        torch._foreach_add_(parameters, steps)

    def _state(self, parameter: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
        return state


def project_by_host(
    parameters: list[Tensor], gradients: list[Tensor], steps: list[Tensor], decays: tuple[float, float]
) -> list[Tensor]:
    """Decay the parameters, and remove the part along them from each tangential step, in place.

    The host reads the angles of all matrices, once, and works on the tangential ones alone.

    Args:
        parameters: weights of any shapes.
        gradients: their gradients.
        steps: their steps u.
        decays: factors of the weights of other steps and of tangential ones.

    Returns:
        The steps.
    """
    factors = [decays[0]] * len(parameters)
    matrices = [n for n, p in enumerate(parameters) if p.dim() > 1]
    # One transfer for all parameters: on a device, each `tolist` would wait for it.
    angles = [_cosines(parameters[n].flatten(1), gradients[n].flatten(1)) for n in matrices]
    for n, (by_row, whole) in zip(matrices, torch.stack(angles).tolist() if angles else [], strict=True):
        rows = parameters[n].flatten(1)
        if by_row < DELTA / math.sqrt(rows.shape[1]):
            step = steps[n].view(rows.shape)
        elif whole < DELTA / math.sqrt(rows.numel()):
            rows, step = rows.view(1, -1), steps[n].view(1, -1)
        else:
            continue
        step.sub_(_part_along(rows, step))
        factors[n] = decays[1]
    if decays[0] != 1.0:
        torch._foreach_mul_(parameters, factors)
    return steps


def project_on_device(
    parameters: list[Tensor], gradients: list[Tensor], steps: list[Tensor], decays: tuple[float, float]
) -> list[Tensor]:
    """Do as `project_by_host` without reading from the device, in some thirty operators a shape.

    Matrices of one shape are stacked; both projections of each are computed, and one is selected.
    The digits are those of `project_by_host` on the CPU.

    Args:
        parameters: weights of any shapes, on one device.
        gradients: their gradients.
        steps: their steps u.
        decays: factors of the weights of other steps and of tangential ones.

    Returns:
        The steps; those of matrices are new tensors.
    """
    plain = [p for p in parameters if p.dim() <= 1]
    if plain and decays[0] != 1.0:
        torch._foreach_mul_(plain, decays[0])
    of_shape: dict[tuple[torch.Size, torch.dtype], list[int]] = {}
    for n, parameter in enumerate(parameters):
        if parameter.dim() > 1:
            of_shape.setdefault((parameter.shape, parameter.dtype), []).append(n)
    for (shape, _), members in of_shape.items():
        weights, gradient, step = (
            torch.stack([of[n] for n in members]).flatten(2) for of in (parameters, gradients, steps)
        )
        by_row, whole = _cosines(weights, gradient).double().unbind(-1)
        rows_are = by_row < DELTA / math.sqrt(weights.shape[2])
        whole_is = whole < DELTA / math.sqrt(weights[0].numel())
        of_rows = _part_along(weights, step)
        of_whole = _part_along(weights.flatten(1)[:, None], step.flatten(1)[:, None]).view(step.shape)
        part = torch.where(rows_are[:, None, None], of_rows, of_whole)
        projected = torch.where((rows_are | whole_is)[:, None, None], step - part, step)
        for n, one in zip(members, projected.view(-1, *shape).unbind(), strict=True):
            steps[n] = one
        if decays[0] != 1.0:
            factors = weights.new_full((len(members),), decays[0]).masked_fill_(rows_are | whole_is, decays[1])
            decayed = (weights * factors[:, None, None]).view(-1, *shape)
            torch._foreach_copy_([parameters[n] for n in members], decayed.unbind())
    return steps


def _cosines(weights: Tensor, gradient: Tensor) -> Tensor:
    """Return the largest |cos| of a row's angle, and |cos| of the whole matrix's: (..., 2).

    Args:
        weights: (..., R, C).
        gradient: (..., R, C).
    """
    dots = torch.linalg.vecdot(weights, gradient, dim=-1)
    norms = torch.linalg.vector_norm(weights, dim=-1), torch.linalg.vector_norm(gradient, dim=-1)
    by_row = dots.abs() / (norms[0].clamp_min(EPSILON) * norms[1].clamp_min(EPSILON))
    lengths = [torch.linalg.vector_norm(norm, dim=-1).clamp_min(EPSILON) for norm in norms]
    return torch.stack([by_row.amax(dim=-1), dots.sum(dim=-1).abs() / (lengths[0] * lengths[1])], dim=-1)


def _part_along(weights: Tensor, step: Tensor) -> Tensor:
    """Return the part of `step` (..., R, C) along `weights` (..., R, C), row by row."""
    unit = weights / (torch.linalg.vector_norm(weights, dim=-1, keepdim=True) + EPSILON)
    length: Tensor = torch.linalg.vecdot(unit, step, dim=-1)
    return unit * length[..., None]  # type: ignore[no-any-return]
