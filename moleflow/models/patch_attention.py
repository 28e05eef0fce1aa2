"""v6's self-attention over an image's patches, in front of the flow."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from moleflow.settings.config import AttentionKnobs


class PatchAttention(nn.Module):
    """A transformer layer with one head and a gate (Vaswani et al. 2017), as the notes publish it.

        x <- x + sigmoid(g) * O softmax(Q K^T / sqrt(d)) V,   Q, K, V = linear maps of LayerNorm(x)
        x <- x + FFN(LayerNorm(x)),   FFN(x) = W2 gelu(W1 x + b1) + b2

    Dropout acts on the softmax and on the FFN's output. The gate g starts at 0: sigmoid(0) is 0.5,
    so the layer does not start as the identity. All tasks share it; it trains on task 0 and is
    frozen after. It is not invertible: the flow's density is a density of its output.

    Args:
        width: D.
        config: width d of Q, K, V and of the FFN's hidden layer; share of dropout.
        generator: source of the initial weights.

    Attributes:
        dropout_generator: source of dropout's draws; None turns dropout off.
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
        self.dropout_generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return contextualised features (B, H, W, D) of x (B, H, W, D)."""
        batch, height, width, channels = x.shape
        tokens = x.reshape(batch, height * width, channels)
        normed = self.norm(tokens)
        query, key, value = self.query(normed), self.key(normed), self.value(normed)
        weights = torch.softmax(query @ key.transpose(1, 2) / math.sqrt(query.shape[-1]), dim=-1)
        tokens = tokens + torch.sigmoid(self.gate) * self.output(self._drop(weights) @ value)
        tokens = tokens + self._drop(self.ffn_out(nn.functional.gelu(self.ffn_in(self.norm_ffn(tokens)))))
        features: Tensor = tokens.reshape(x.shape)
        return features

    def _drop(self, x: Tensor) -> Tensor:
        if self.dropout_generator is None or self.dropout == 0:
            return x
        # Drawn on the CPU for every device, so masks are equal. torch's dropout takes no generator.
        keep = torch.rand(x.shape, generator=self.dropout_generator) >= self.dropout
        return x * keep.to(x) / (1 - self.dropout)


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
