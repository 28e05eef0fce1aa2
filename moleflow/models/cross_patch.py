"""CPCF: a coupling block whose scale and shift depend on the patch's neighbourhood."""

from __future__ import annotations

import math
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
from moleflow.settings.config import FlowKnobs

Subnet = Callable[[int, int], nn.Module]


class CrossPatchBlock(nn.Module):
    """One coupling block with context, followed by a global affine map and a fixed rotation.

        [x1, x2] -> y = [x1, x2 * exp(s) + t],   z = w_perm (scale * y + global_offset)
        s_raw, t_raw = subnet([x1, context]),   s = clamp * tanh(0.1 s_raw),   t = 0.1 t_raw

    With `context_from: passive` the context comes from x1 of the neighbourhood. x1 passes through
    unchanged, so the Jacobian of the whole map is triangular, sum(s) is its exact log-determinant,
    and the inverse is closed. The density is one of the whole image. Reading it as
    sum_i log p(x_i | N(i)) is the notes' interpretation.

    With `context_from: all`, the notes' literal form, the context depends on x2 too. The Jacobian
    is not triangular then. `log_det` is still sum(s), which leaves out every path from x2 through
    the context. It is an approximation, and the result is not a likelihood.

    Args:
        width: D.
        config: the flow's knobs.
        subnet: makes the network from (D1 + context width) to 2 * D2 numbers per patch.
        rotation: (D, D), fixed.
        generator: source of the context's initial weights.
    """

    w_perm: Tensor

    def __init__(
        self, width: int, config: FlowKnobs, subnet: Subnet, rotation: Tensor, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.splits = [width - width // 2, width // 2]
        self.clamp = config.clamp
        self.context_from = config.context_from
        context_width = self.splits[0] if config.context_from == "passive" else width
        self.context: nn.Module
        if config.context == "mean":
            self.context = MeanContext(config.context_kernel, config.context_gate)
        elif config.context == "conv":
            self.context = ConvContext(context_width, config.context_kernel, generator)
        else:
            self.context = AttentionContext(context_width, config.context_kernel, generator)
        self.subnet = subnet(self.splits[0] + context_width, 2 * self.splits[1])
        self.global_scale = nn.Parameter(torch.full((width,), UNIT_SCALE))
        self.global_offset = nn.Parameter(torch.zeros(width))
        self.w_perm = nn.Parameter(rotation.clone(), requires_grad=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (B, H, W, D) and log_det (B, H, W) in nats per patch, of x (B, H, W, D)."""
        x1, x2 = x.split(self.splits, dim=-1)
        y, log_det = affine_coupling(x1, x2, self._raw(x1, x), self.clamp)
        scale = positive_scale(self.global_scale)
        z = scaled_permutation(y.reshape(-1, y.shape[-1]), scale, self.global_offset, self.w_perm)
        return z.reshape(x.shape), log_det + torch.log(scale).sum()

    def inverse(self, z: Tensor) -> Tensor:
        """Return x (B, H, W, D) of z (B, H, W, D).

        Raises:
            RuntimeError: `context_from: all` has no closed inverse.
        """
        if self.context_from == "all":
            raise RuntimeError("context_from: all has no closed inverse; it is not a flow")
        y = (nn.functional.linear(z, self.w_perm.T) - self.global_offset) / positive_scale(self.global_scale)
        x1, y2 = y.split(self.splits, dim=-1)
        return inverse_coupling(x1, y2, self._raw(x1, x1), self.clamp)

    def _raw(self, x1: Tensor, x: Tensor) -> Tensor:
        context = self.context(x1 if self.context_from == "passive" else x)
        inputs = torch.cat([x1, context], dim=-1)
        raw: Tensor = self.subnet(inputs.reshape(-1, inputs.shape[-1])).reshape(*inputs.shape[:-1], -1)
        return raw


class MeanContext(nn.Module):
    """v4.1's context: (1 - gate) * x + gate * mean of x over the kernel's window, without weights.

    At the border the mean is taken over the patches inside the image, so that it is not dimmed.
    """

    def __init__(self, kernel: int, gate: float) -> None:
        super().__init__()
        self.kernel, self.gate = kernel, gate

    def forward(self, x: Tensor) -> Tensor:
        """Return the context (B, H, W, C) of x (B, H, W, C)."""
        mean = nn.functional.avg_pool2d(
            x.permute(0, 3, 1, 2), self.kernel, stride=1, padding=self.kernel // 2, count_include_pad=False
        )
        return (1 - self.gate) * x + self.gate * mean.permute(0, 2, 3, 1)


class ConvContext(nn.Module):
    """v4's context: a learned convolution over the window.

    It belongs to the base flow and trains on task 0 only.
    """

    def __init__(self, width: int, kernel: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, width, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5), generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return the context (B, H, W, C) of x (B, H, W, C)."""
        out = nn.functional.conv2d(x.permute(0, 3, 1, 2), self.weight, self.bias, padding=self.weight.shape[-1] // 2)
        return out.permute(0, 2, 3, 1)


class AttentionContext(nn.Module):
    """v4's context with attention: the patch queries the patches of its window, with one head.

        sum_j softmax_j(q . k_j / sqrt(C)) v_j   over the patches j of the window inside the image

    It belongs to the base flow and trains on task 0 only.
    """

    def __init__(self, width: int, kernel: int, generator: torch.Generator) -> None:
        super().__init__()
        self.kernel = kernel
        self.query, self.key, self.value = (nn.Parameter(torch.empty(width, width)) for _ in range(3))
        for weight in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(weight, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return the context (B, H, W, C) of x (B, H, W, C)."""
        batch, height, width, channels = x.shape
        query = nn.functional.linear(x, self.query).reshape(batch, height * width, 1, channels)
        key = self._windows(nn.functional.linear(x, self.key))
        value = self._windows(nn.functional.linear(x, self.value))
        logits = (query * key).sum(dim=-1) / math.sqrt(channels)
        # Padding has key 0 and so logit 0, not weight 0: it must be masked before the softmax.
        outside = self._windows(x.new_ones(1, height, width, 1))[..., 0] == 0
        weights = torch.softmax(logits.masked_fill(outside, -math.inf), dim=-1)
        return (weights[..., None] * value).sum(dim=-2).reshape(batch, height, width, channels)

    def _windows(self, x: Tensor) -> Tensor:
        """Return each patch's window (B, H*W, kernel^2, C), with zeros outside the image."""
        batch, _, _, channels = x.shape
        unfolded = nn.functional.unfold(x.permute(0, 3, 1, 2), self.kernel, padding=self.kernel // 2)
        return unfolded.reshape(batch, channels, self.kernel**2, -1).permute(0, 3, 2, 1)
