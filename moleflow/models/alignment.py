"""DeCoFlow's task-specific alignment (TSA), which takes the place of an adapter."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# Start of g on the first task: gamma is then 0.998.
FIRST_RAW_GAMMA = -0.7


class Alignment(nn.Module):
    """A layer norm followed by a bounded scale and shift of each channel.

        u = (x - mean(x)) / sqrt(var(x) + 1e-5)   over the D channels of a patch
        y = gamma * u + beta,   gamma = 0.5 + 1.5 sigmoid(g),   beta = 2 tanh(b)

    So gamma lies in (0.5, 2) and beta in (-2, 2). g and b (D numbers each) are all that a task
    learns. b starts at 0. g starts at -0.7 on the first task, and where gamma is `later_gamma` on
    the others; DeCoFlow starts them at g = 0, which is a gamma of 1.25.

    The layer norm puts every patch on a sphere, so the likelihood of its output has no upper bound.
    A smaller loss is then no evidence of a better detector; `loss.log_det_weight` bounds it.

    Args:
        width: D.
        first: true for the first task of a sequence.
        later_gamma: start of gamma on any other task, between 0.5 and 2.
    """

    def __init__(self, width: int, first: bool, later_gamma: float) -> None:
        super().__init__()
        share = (later_gamma - 0.5) / 1.5
        start = FIRST_RAW_GAMMA if first else math.log(share / (1 - share))
        self.raw_gamma = nn.Parameter(torch.full((width,), start))
        self.raw_beta = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return aligned features (B, H, W, D) of features x (B, H, W, D)."""
        gamma = 0.5 + 1.5 * torch.sigmoid(self.raw_gamma)
        beta = 2.0 * torch.tanh(self.raw_beta)
        return gamma * nn.functional.layer_norm(x, x.shape[-1:], eps=1e-5) + beta
