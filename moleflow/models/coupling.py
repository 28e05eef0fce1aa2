"""The affine coupling and the scaled permutation of FrEIA's AllInOneBlock, with gradients by hand.

Autograd would keep and traverse every intermediate array of patches x D. By hand, a block costs
little beside its matrix products (`benchmarks/step.py` measures both).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

# FrEIA multiplies the subnet's output by this, for stability and an easier start.
SUBNET_SCALE = 0.1
# FrEIA's start value of `global_scale`: `positive_scale` makes a scale of 1 from it.
UNIT_SCALE = 2.0 * math.log(math.exp(5.0) - 1)


def positive_scale(raw: Tensor) -> Tensor:
    """Return 0.1 * softplus(raw) with beta 0.5: FrEIA's `global_affine_type="SOFTPLUS"`."""
    return 0.1 * nn.functional.softplus(raw, beta=0.5)


def affine_coupling(x1: Tensor, x2: Tensor, raw: Tensor, clamp: float) -> tuple[Tensor, Tensor]:
    """Map x2 by a scale and a shift that the subnet computed (Dinh et al. 2017).

        y = [x1, x2 * exp(s) + t],   log_det = sum(s)
        s = clamp * tanh(0.1 s_raw),   t = 0.1 t_raw

    Args:
        x1: the half that passes through (..., D1).
        x2: the half that is mapped (..., D2).
        raw: the subnet's output [s_raw, t_raw] (..., 2 * D2).
        clamp: largest |s|.

    Returns:
        y (..., D1 + D2) and log_det (...) in nats.
    """
    raw = raw.to(x2.dtype)
    if not torch.is_grad_enabled():
        return _couple(x1, x2, raw, clamp)[:2]
    y, log_det, _, _ = _Coupling.apply(x1, x2, raw, clamp)  # type: ignore[no-untyped-call]
    return y, log_det


def inverse_coupling(x1: Tensor, y2: Tensor, raw: Tensor, clamp: float) -> Tensor:
    """Return x (..., D1 + D2), which `affine_coupling` maps to [x1, y2] with the same `raw`."""
    s, t = (SUBNET_SCALE * raw).chunk(2, dim=-1)
    return torch.cat([x1, (y2 - t) * torch.exp(-clamp * torch.tanh(s))], dim=-1)


def _couple(x1: Tensor, x2: Tensor, raw: Tensor, clamp: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return y, log_det, tanh(0.1 s_raw) and exp(s); the backward pass needs the last two."""
    width = x2.shape[-1]
    tanh = torch.tanh(raw[..., :width] * SUBNET_SCALE)
    stretch = torch.exp(tanh * clamp)
    y = torch.cat([x1, x2 * stretch], dim=-1)
    # In place on the concatenation: one array of patches x D2 less.
    y[..., x1.shape[-1] :].add_(raw[..., width:], alpha=SUBNET_SCALE)
    return y, tanh.sum(dim=-1) * clamp, tanh, stretch


def scaled_permutation(y: Tensor, scale: Tensor, offset: Tensor, permutation: Tensor) -> Tensor:
    """Return z = P (scale * y + offset) as one matrix product.

    Args:
        y: (N, D).
        scale: (D,), above 0.
        offset: (D,).
        permutation: P (D, D), fixed.
    """
    z: Tensor = _ScaledPermutation.apply(y, scale, offset, permutation)[0]  # type: ignore[no-untyped-call]
    return z


class _Coupling(torch.autograd.Function):
    """Gradient of `affine_coupling`, for a loss L with G = dL/dy2 and g = dL/dlog_det.

    y2 = x2 exp(s) + t and log_det = sum(s) give
        dL/dx2 = G exp(s),   dL/ds = G x2 exp(s) + g,   dL/dt = G.
    With u = tanh(0.1 s_raw), ds/ds_raw = clamp * 0.1 * (1 - u^2), and dt/dt_raw = 0.1.
    """

    generate_vmap_rule = True  # Lanes train several flows as one.

    @staticmethod
    def forward(x1: Tensor, x2: Tensor, raw: Tensor, clamp: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return _couple(x1, x2, raw, clamp)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, _, tanh, stretch = output
        ctx.mark_non_differentiable(tanh, stretch)
        ctx.save_for_backward(inputs[1], tanh, stretch)
        ctx.clamp = inputs[3]

    @staticmethod
    def backward(
        ctx: Any, grad_y: Tensor, grad_log_det: Tensor, *_: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        x2, tanh, stretch = ctx.saved_tensors
        grad_x1, grad_y2 = grad_y.split([grad_y.shape[-1] - x2.shape[-1], x2.shape[-1]], dim=-1)
        grad_x2 = grad_y2 * stretch
        factor = ctx.clamp * SUBNET_SCALE
        # factor * (g + G exp(s) x2) is dL/du * 0.1; tanh_backward multiplies it by 1 - u^2.
        grad_s = torch.addcmul((factor * grad_log_det)[..., None], grad_x2, x2, value=factor)
        grad_raw = torch.cat([torch.ops.aten.tanh_backward(grad_s, tanh), grad_y2 * SUBNET_SCALE], dim=-1)
        return grad_x1, grad_x2, grad_raw, None


class _ScaledPermutation(torch.autograd.Function):
    """Gradient of `scaled_permutation`, for rows y and G = dL/dz (N, D).

    z = (y * scale + offset) P^T, so v = G P is the gradient of (y * scale + offset):
        dL/dy = v * scale = G (P * scale),   dL/dscale = sum_n v y,   dL/doffset = sum_n v.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, scale: Tensor, offset: Tensor, permutation: Tensor) -> tuple[Tensor, Tensor]:
        scaled = permutation * scale
        return torch.addmm(permutation @ offset, y, scaled.T), scaled

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        y, scale, _, permutation = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(y, scale, permutation, output[1])

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        y, scale, permutation, scaled = ctx.saved_tensors
        grad_y = grad_z @ scaled
        # grad_y = v * scale: dividing by the scale gives v without another product with P.
        grad_scale = (grad_y * y).sum(dim=0) / scale if ctx.needs_input_grad[1] else None
        # Summed over the rows first: a vector times P instead of a second matrix product.
        grad_offset = grad_z.sum(dim=0) @ permutation if ctx.needs_input_grad[2] else None
        return grad_y, grad_scale, grad_offset, None
