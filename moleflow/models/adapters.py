"""The per-task map of features in front of the flow.

The notes' v1/v2 and v3 adapters are settings of one module.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moleflow.models.seeded_linear import seeded_linear
from moleflow.settings.config import AdapterKnobs


class InputAdapter(nn.Module):
    """A normalisation, an optional FiLM and a gated residual MLP, mixed with the input.

        y = gamma * norm(x) + beta   (without FiLM: y = norm(x))
        y <- y + gate * MLP(y),   MLP(y) = W2 gelu(W1 y + b1) + b2
                                  or W3 gelu(W2 gelu(W1 y + b1) + b2) + b3
        output = identity * x + (1 - identity) * y

    v1/v2: instance norm over the image's patches (epsilon 1e-5), no FiLM, raw gate from 0.
    v3: layer norm over channels, FiLM (Perez et al. 2018), sigmoid gate from 0.5.

    In the notes' code, v3's MLP has three layers, D -> hidden -> hidden -> D, and the last weights
    start from N(0, 0.01^2). The start of its biases is not known: here the last one starts at
    zero, the others as torch's.

    Args:
        width: D, the length of a patch's feature vector.
        config: the adapter's knobs.
        identity: share of the untouched input in the output, 0 to 1.
        generator: source of the MLP's initial weights.
    """

    def __init__(self, width: int, config: AdapterKnobs, identity: float, generator: torch.Generator) -> None:
        super().__init__()
        self.identity = identity
        self.norm = config.norm
        self.gate_kind = config.gate
        if config.film:
            self.gamma: Tensor | None = nn.Parameter(torch.ones((1,) * (config.gamma_dims - 1) + (width,)))
            self.beta: Tensor | None = nn.Parameter(torch.zeros(width))
        else:
            self.gamma = self.beta = None
        if config.norm == "layer":
            self.norm_weight: Tensor | None = nn.Parameter(torch.ones(width))
            self.norm_bias: Tensor | None = nn.Parameter(torch.zeros(width))
        else:
            self.norm_weight = self.norm_bias = None
        hidden = {"D//4": max(1, width // 4), "max(D//2,128)": max(width // 2, 128)}
        size = hidden[config.hidden] if isinstance(config.hidden, str) else config.hidden
        self.inner = seeded_linear(width, size, generator)
        self.middle = seeded_linear(size, size, generator) if config.mlp_layers == 3 else None
        self.outer = seeded_linear(size, width, generator)
        with torch.no_grad():
            if config.output_init == "normal":
                self.outer.weight.normal_(std=0.01, generator=generator)
            else:
                # "random" is small: a live residual starts near the identity, as published.
                self.outer.weight.mul_(0.0 if config.output_init == "zero" else 0.1)
            self.outer.bias.zero_()
        self.gate = nn.Parameter(torch.tensor([config.gate_init]))

    def forward(self, x: Tensor) -> Tensor:
        """Return adapted features (B, H, W, D) of features x (B, H, W, D)."""
        y = x
        if self.norm == "instance":
            mean = y.mean(dim=(1, 2), keepdim=True)
            variance = y.var(dim=(1, 2), keepdim=True, unbiased=False)
            y = (y - mean) * torch.rsqrt(variance + 1e-5)
        elif self.norm == "layer":
            y = nn.functional.layer_norm(y, y.shape[-1:], self.norm_weight, self.norm_bias)
        if self.gamma is not None and self.beta is not None:
            y = self.gamma * y + self.beta
        gate = torch.sigmoid(self.gate) if self.gate_kind == "sigmoid" else self.gate
        hidden = nn.functional.gelu(self.inner(y))
        if self.middle is not None:
            hidden = nn.functional.gelu(self.middle(hidden))
        residual: Tensor = self.outer(hidden)
        y = y + gate * residual
        if self.identity == 0.0:
            return y
        return self.identity * x + (1.0 - self.identity) * y
