"""v6: self-attention over an image's patches in front of the flow."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from moleflow.settings.config import AttentionKnobs


class PatchAttention(nn.Module):
    """x -> x + sigmoid(g) * O softmax(Q K^T / sqrt(d)) V of LayerNorm(x), then x + FFN(LayerNorm(x)); one head.

    The gate parameter g starts at 0, which is sigmoid(0) = 0.5 and not the identity, as published. The module is shared by all tasks,
    trained on task 0 and frozen after; dropout acts only while it trains. It is not invertible: the flow's density is one of
    what it returns.

    Args:
        width: D.
        generator: source of the initial weights.
    """

    def __init__(self, width: int, config: AttentionKnobs, generator: torch.Generator) -> None:
        super().__init__()
        hidden = config.hidden
        self.norm, self.norm_ffn = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (_linear(width, hidden, generator) for _ in range(3))
        self.output = _linear(hidden, width, generator)
        self.ffn_in, self.ffn_out = _linear(width, hidden, generator), _linear(hidden, width, generator)
        self.gate = nn.Parameter(torch.zeros(1))
        self.dropout = config.dropout
        self.draws: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Contextualised features (B, H, W, D) of x (B, H, W, D). Dropout is on while `draws` holds a generator."""
        batch, height, width, channels = x.shape
        tokens = x.reshape(batch, height * width, channels)
        normed = self.norm(tokens)
        query, key, value = self.query(normed), self.key(normed), self.value(normed)
        weights = torch.softmax(query @ key.transpose(1, 2) / math.sqrt(query.shape[-1]), dim=-1)
        tokens = tokens + torch.sigmoid(self.gate) * self.output(self._drop(weights) @ value)
        tokens = tokens + self._drop(self.ffn_out(nn.functional.gelu(self.ffn_in(self.norm_ffn(tokens)))))
        whole: Tensor = tokens.reshape(x.shape)
        return whole

    def _drop(self, x: Tensor) -> Tensor:
        if self.draws is None or self.dropout == 0:
            return x
        keep = torch.rand(x.shape, generator=self.draws) >= self.dropout
        return x * keep.to(x) / (1 - self.dropout)


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
