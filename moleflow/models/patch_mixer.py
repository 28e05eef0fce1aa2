"""DeCoFlow's mixer: a gated depthwise convolution over an image's patches, in front of the flow."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PatchMixer(nn.Module):
    """A share of each feature comes from the patch's neighbours.

        y = (1 - a) x + a conv(x),   a = sigmoid(p)

    conv is a depthwise k x k convolution with bias and zero padding. It starts as the mean over the
    window: every weight at 1/k^2, the bias at 0. p starts at 0.5, so a at 0.62. All tasks share the
    mixer; it trains on task 0 and is frozen after. It is not invertible: the flow's density is a
    density of its output.

    Args:
        width: D.
        kernel: k, odd.
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width, 1, kernel, kernel), 1.0 / kernel**2))
        self.bias = nn.Parameter(torch.zeros(width))
        self.gate = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Return mixed features (B, H, W, D) of x (B, H, W, D)."""
        share = torch.sigmoid(self.gate)
        return (1 - share) * x + share * depthwise(x, self.weight, self.bias)


def depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the convolution (B, H, W, C) of x (B, H, W, C), each channel by its own kernel.

    Args:
        x: (B, H, W, C); patches outside the image count as zeros.
        weight: (C, 1, k, k), k odd.
        bias: (C,).
    """
    maps = nn.functional.conv2d(
        x.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0]
    )
    return maps.permute(0, 2, 3, 1)
