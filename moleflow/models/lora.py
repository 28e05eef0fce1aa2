"""Low-rank experts: a frozen linear layer plus one small update a task."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from moleflow.config import Lora
from moleflow.linear import drawn_linear
from moleflow.models.spatial_lora import SpatialLoraExpert


class LoraExpert(nn.Module):
    """One task's update of one linear layer: x -> scaling * B A x + bias (Hu et al. 2021; the bias is the notes' task bias).

    A (rank, inputs) starts Xavier-uniform (at zero with `init: zero`, and then never moves), B (outputs, rank) and the
    bias (outputs) start at zero, so a new expert changes nothing.
    """

    def __init__(self, inputs: int, outputs: int, lora: Lora, generator: torch.Generator) -> None:
        super().__init__()
        self.scaling = lora.effective_scaling
        self.a = nn.Parameter(torch.empty(lora.rank, inputs))
        self.b = nn.Parameter(torch.zeros(outputs, lora.rank))
        self.bias = nn.Parameter(torch.zeros(outputs)) if lora.task_bias else None
        if lora.init == "xavier":
            nn.init.xavier_uniform_(self.a, generator=generator)
        else:
            nn.init.zeros_(self.a)

    def forward(self, x: Tensor, _shape: tuple[int, int]) -> Tensor:
        """The update (P, outputs) of x (P, inputs), the same at every position."""
        update = nn.functional.linear(nn.functional.linear(x, self.a), self.b) * self.scaling
        return update if self.bias is None else update + self.bias


class LoRALinear(nn.Module):
    """A linear layer shared by all tasks, with at most one expert a task; `active` says whose expert is used.

    `shape` is the (H, W) of the image at hand, for experts that depend on the position.
    """

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.base = drawn_linear(inputs, outputs, generator)
        self.experts = nn.ModuleDict()
        self.active: str | None = None
        self.shape = (1, 1)

    def add_expert(self, task: int, lora: Lora, generator: torch.Generator) -> Self:
        """Give `task` an expert of its own."""
        kind = SpatialLoraExpert if lora.spatial else LoraExpert
        self.experts[str(task)] = kind(self.base.in_features, self.base.out_features, lora, generator)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """y (P, outputs) for x (P, inputs)."""
        y: Tensor = self.base(x)
        return y if self.active is None else y + self.experts[self.active](x, self.shape)
