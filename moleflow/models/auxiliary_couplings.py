"""DeCoFlow's auxiliary coupling layers (ACL): a task's own couplings after the shared flow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moleflow.models.seeded_linear import seeded_linear
from moleflow.settings.config import AuxiliaryKnobs


class AuxiliaryCouplings(nn.Module):
    """Affine couplings on single patches that start as the identity, without permutations.

    Layer 0, 2, ... changes the second half of the channels, layer 1, 3, ... the first:

        y2 = x2 * exp(s) + t,   log_det = sum(s),   s = limit * tanh(s_raw / limit)

    s_raw and t are functions of the other half: two networks of three linear layers with ReLU,
    D1 -> h -> h -> D2, where h is `hidden_share` * D. Their last layers start at zero. They belong
    to one task and train with it.

    Args:
        width: D; an odd D has the larger half first.
        config: number of layers, h / D and limit.
        generator: source of the initial weights.
    """

    def __init__(self, width: int, config: AuxiliaryKnobs, generator: torch.Generator) -> None:
        super().__init__()
        halves = [width - width // 2, width // 2]
        hidden = max(1, round(config.hidden_share * width))
        self.layers = nn.ModuleList(
            _AuxiliaryCoupling(halves, layer % 2 == 0, hidden, config.limit, generator)
            for layer in range(config.couplings)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (B, H, W, D) and log_det (B, H, W) in nats per patch, of x (B, H, W, D)."""
        log_det = x.new_zeros(x.shape[:-1])
        for layer in self.layers:
            x, layer_log_det = layer(x)
            log_det = log_det + layer_log_det
        return x, log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Return x (B, H, W, D) of z (B, H, W, D)."""
        for layer in reversed(self.layers):
            assert isinstance(layer, _AuxiliaryCoupling)
            z = layer.inverse(z)
        return z


class _AuxiliaryCoupling(nn.Module):
    """One of the layers; `second` says that it changes the second half."""

    def __init__(
        self, halves: Sequence[int], second: bool, hidden: int, limit: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.halves, self.second, self.limit = list(halves), second, limit
        passive, active = halves if second else reversed(halves)
        self.scale = _network(passive, hidden, active, generator)
        self.shift = _network(passive, hidden, active, generator)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        passive, active = self._split(x)
        s = self._log_scale(passive)
        return self._join(passive, active * torch.exp(s) + self.shift(passive)), s.sum(dim=-1)

    def inverse(self, y: Tensor) -> Tensor:
        passive, active = self._split(y)
        return self._join(passive, (active - self.shift(passive)) * torch.exp(-self._log_scale(passive)))

    def _log_scale(self, passive: Tensor) -> Tensor:
        return self.limit * torch.tanh(self.scale(passive) / self.limit)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the half that passes through, and the one that is changed."""
        first, second = x.split(self.halves, dim=-1)
        return (first, second) if self.second else (second, first)

    def _join(self, passive: Tensor, active: Tensor) -> Tensor:
        return torch.cat([passive, active] if self.second else [active, passive], dim=-1)


def _network(inputs: int, hidden: int, outputs: int, generator: torch.Generator) -> nn.Sequential:
    last = seeded_linear(hidden, outputs, generator)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    return nn.Sequential(
        seeded_linear(inputs, hidden, generator), nn.ReLU(), seeded_linear(hidden, hidden, generator), nn.ReLU(), last
    )
