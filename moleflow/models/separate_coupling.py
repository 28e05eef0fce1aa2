"""DeCoFlow's coupling block (DCL): one network for the scale, another for the shift."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from moleflow.models.coupling import (
    UNIT_SCALE,
    affine_coupling,
    inverse_coupling,
    positive_scale,
    scaled_permutation,
)
from moleflow.models.patch_mixer import depthwise
from moleflow.settings.config import FlowKnobs

# Makes the network of a width from so many inputs to so many outputs: (inputs, hidden, outputs).
Network = Callable[[int, int, int], nn.Module]


class SeparateBlock(nn.Module):
    """FrEIA's AllInOneBlock with separate networks, of which the scale's sees the neighbourhood.

        [x1, x2] -> y = [x1, x2 * exp(s) + t],   z = w_perm (scale * y + global_offset)
        s = clamp * tanh(0.1 s_raw),   s_raw = L2 relu(L1 [x1, c])
        t = 0.1 t_raw,                 t_raw = L4 relu(L3 x1)
        c = alpha * conv(x1),   alpha = 0.2 sigmoid(q)

    The hidden layers of both networks are `hidden_ratio` times as wide as x1. conv is a depthwise
    k x k convolution with zero padding, whose weights and bias start at 0; q starts at 0, so alpha
    at 0.1. Without `scale_context` there is no c. The context comes from x1, which passes through:
    so the Jacobian of the whole map is triangular, and sum(s) is its exact log-determinant.

    Args:
        width: D.
        config: the flow's knobs.
        network: makes a network of one hidden layer.
        permutation: (D, D), orthogonal and fixed.
    """

    w_perm: Tensor

    def __init__(self, width: int, config: FlowKnobs, network: Network, permutation: Tensor) -> None:
        super().__init__()
        passive, active = self.splits = [width - width // 2, width // 2]
        self.clamp = config.clamp
        hidden = max(1, round(config.hidden_ratio * passive))
        self.context = DepthwiseContext(passive, config.scale_context) if config.scale_context else None
        self.scale = network(passive if self.context is None else 2 * passive, hidden, active)
        self.shift = network(passive, hidden, active)
        self.global_scale = nn.Parameter(torch.full((width,), UNIT_SCALE))
        self.global_offset = nn.Parameter(torch.zeros(width))
        self.w_perm = nn.Parameter(permutation.clone(), requires_grad=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (B, H, W, D) and log_det (B, H, W) in nats per patch, of x (B, H, W, D)."""
        x1, x2 = x.split(self.splits, dim=-1)
        y, log_det = affine_coupling(x1, x2, self._raw(x1), self.clamp)
        scale = positive_scale(self.global_scale)
        z = scaled_permutation(y.reshape(-1, y.shape[-1]), scale, self.global_offset, self.w_perm)
        return z.reshape(x.shape), log_det + torch.log(scale).sum()

    def inverse(self, z: Tensor) -> Tensor:
        """Return x (B, H, W, D) of z (B, H, W, D)."""
        y = (nn.functional.linear(z, self.w_perm.T) - self.global_offset) / positive_scale(self.global_scale)
        x1, y2 = y.split(self.splits, dim=-1)
        return inverse_coupling(x1, y2, self._raw(x1), self.clamp)

    def _raw(self, x1: Tensor) -> Tensor:
        """Return [s_raw, t_raw] (B, H, W, 2 * D2) of x1 (B, H, W, D1)."""
        seen = x1 if self.context is None else torch.cat([x1, self.context(x1)], dim=-1)
        parts = [net(of.reshape(-1, of.shape[-1])) for net, of in ((self.scale, seen), (self.shift, x1))]
        return torch.cat(parts, dim=-1).reshape(*x1.shape[:-1], -1)


class DepthwiseContext(nn.Module):
    """The neighbourhood's summary: alpha * depthwise convolution, alpha = 0.2 sigmoid(q).

    It starts at zero. It belongs to the base flow and trains on task 0 only.

    Args:
        width: C.
        kernel: side of the window in patches, odd.
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, 1, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(width))
        self.raw_alpha = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the context (B, H, W, C) of x (B, H, W, C)."""
        return 0.2 * torch.sigmoid(self.raw_alpha) * depthwise(x, self.weight, self.bias)
