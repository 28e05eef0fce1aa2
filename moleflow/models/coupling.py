"""The affine coupling and the scaled permutation after it, as FrEIA's AllInOneBlock computes them, with gradients by hand.

Autograd would keep and pass over every intermediate array of patches x D; by hand a block does little beside its matrix products
(benchmarks/step.py measures both).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# FrEIA scales the subnet's output by this, for stability and an easier start.
SUBNET_SCALE = 0.1


def affine_coupling(x1: Tensor, x2: Tensor, raw: Tensor, clamp: float) -> tuple[Tensor, Tensor]:
    """y = [x1, x2 * exp(s) + t] (..., D1 + D2) and log_det = sum(s) (...), with s = clamp * tanh(0.1 s_raw) and t = 0.1 t_raw.

    Args:
        x1: the half that passes through (..., D1).
        x2: the half that is mapped (..., D2).
        raw: what the subnet gave, [s_raw, t_raw] (..., 2 * D2).
    """
    raw = raw.to(x2.dtype)
    if not torch.is_grad_enabled():
        return _coupled(x1, x2, raw, clamp)[:2]
    y, log_det = _Coupling.apply(x1, x2, raw, clamp)  # type: ignore[no-untyped-call]
    return y, log_det


def _coupled(x1: Tensor, x2: Tensor, raw: Tensor, clamp: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y and log_det, and of s its tanh and exp(s)."""
    width = x2.shape[-1]
    tanh = torch.tanh(raw[..., :width] * SUBNET_SCALE)
    stretch = torch.exp(tanh * clamp)
    y = torch.cat([x1, x2 * stretch], dim=-1)
    y[..., x1.shape[-1] :].add_(raw[..., width:], alpha=SUBNET_SCALE)
    return y, tanh.sum(dim=-1) * clamp, tanh, stretch


def scaled_permutation(y: Tensor, scale: Tensor, offset: Tensor, permutation: Tensor) -> Tensor:
    """z = P (scale * y + offset) (N, D) of y (N, D), with scale > 0 and offset (D,) and a fixed matrix P (D, D), as one product."""
    z: Tensor = _ScaledPermutation.apply(y, scale, offset, permutation)  # type: ignore[no-untyped-call]
    return z


class _Coupling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x1: Tensor, x2: Tensor, raw: Tensor, clamp: float) -> tuple[Tensor, Tensor]:
        y, log_det, tanh, stretch = _coupled(x1, x2, raw, clamp)
        ctx.save_for_backward(x2, tanh, stretch)
        ctx.clamp = clamp
        return y, log_det

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor, grad_log_det: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x2, tanh, stretch = ctx.saved_tensors
        grad_x1, grad_y2 = grad_y.split([grad_y.shape[-1] - x2.shape[-1], x2.shape[-1]], dim=-1)
        grad_x2 = grad_y2 * stretch
        factor = ctx.clamp * SUBNET_SCALE
        grad_s = torch.addcmul((factor * grad_log_det)[..., None], grad_x2, x2, value=factor)
        grad_raw = torch.cat([torch.ops.aten.tanh_backward(grad_s, tanh), grad_y2 * SUBNET_SCALE], dim=-1)
        return grad_x1, grad_x2, grad_raw, None


class _ScaledPermutation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, scale: Tensor, offset: Tensor, permutation: Tensor) -> Tensor:
        scaled = permutation * scale
        ctx.save_for_backward(y, scale, permutation, scaled)
        return torch.addmm(permutation @ offset, y, scaled.T)

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        y, scale, permutation, scaled = ctx.saved_tensors
        grad_y = grad_z @ scaled
        # grad_y is scale times the gradient of scale * y + offset.
        grad_scale = (grad_y * y).sum(dim=0) / scale if ctx.needs_input_grad[1] else None
        grad_offset = grad_z.sum(dim=0) @ permutation if ctx.needs_input_grad[2] else None
        return grad_y, grad_scale, grad_offset, None
