"""The whole trainable model: standardisation, position code, attention, adapters and the flow with its experts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from moleflow.models.adapters import InputAdapter
from moleflow.models.flow import Flow
from moleflow.models.patch_attention import PatchAttention
from moleflow.settings.config import TrialConfig

_TASK_PART = re.compile(r"(?:^|\.)(?:experts|adapters|statistics)\.(\d+)\.")


class InitialDraws(Protocol):
    """Named random generators: the same name gives the same numbers."""

    def __call__(self, name: str) -> torch.Generator:
        """A fresh generator for `name`."""


class Statistics(nn.Module):
    """Channel means and standard deviations (D,) of a task's training patches."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def measure(self, features: Tensor) -> None:
        """Take them from features (N, H, W, D)."""
        flat = features.reshape(-1, features.shape[-1]).double()
        self.mean.copy_(flat.mean(dim=0))
        self.std.copy_(flat.std(dim=0).clamp_min(1e-6))


class Detector(nn.Module):
    """features (B, H, W, D), task -> z (B, H, W, D), log_det (B, H, W).

    Parts are added task by task with `add_task`; what a task adds is its own and is never touched again.

    Args:
        shape: (H, W, D) of a feature map.
        draws: generators for the initial weights of the flow (names "flow" and "attention").
    """

    position: Tensor

    def __init__(self, config: TrialConfig, shape: tuple[int, int, int], draws: InitialDraws) -> None:
        super().__init__()
        self.config = config
        self.width = shape[2]
        self.flow = Flow(self.width, config.flow, draws("flow"))
        self.attention = (
            PatchAttention(self.width, config.attention, draws("attention")) if config.attention.enabled else None
        )
        self.adapters = nn.ModuleDict()
        self.statistics = nn.ModuleDict()
        code = (
            config.features.position_scale * position_code(*shape) if config.features.position else torch.zeros(shape)
        )
        self.register_buffer("position", code, persistent=False)

    def add_task(self, task: int, draws: InitialDraws) -> None:
        """Add what `task` owns: statistics, adapter, experts (generators "adapter" and "expert")."""
        config = self.config
        if config.features.standardise == "per_task" or (config.features.standardise == "task0" and task == 0):
            self.statistics[str(task)] = Statistics(self.width)
        if config.adapter.enabled and (task > 0 or config.adapter.task0):
            identity = config.adapter.task0_identity if task == 0 else 0.0
            self.adapters[str(task)] = InputAdapter(self.width, config.adapter, identity, draws("adapter"))
        if task > 0 or config.lora.task0:
            self.flow.add_expert(task, config.lora, draws("expert"))
        self.to(self.position.device)

    def measure(self, task: int, features: Tensor) -> None:
        """Take `task`'s statistics from its training features (N, H, W, D), if it keeps any."""
        if str(task) in self.statistics:
            self._of(task).measure(features)

    def _of(self, task: int) -> Statistics:
        found = self.statistics[str(task)]
        assert isinstance(found, Statistics)
        return found

    def adapt(self, features: Tensor, task: int) -> Tensor:
        """What the flow sees: (B, H, W, D) of features (B, H, W, D). The flow's density is a density of these."""
        own = "0" if self.config.features.standardise == "task0" else str(task)
        x = features
        if own in self.statistics:
            statistics = self._of(int(own))
            x = (x - statistics.mean) / statistics.std
        x = x + self.position
        if self.attention is not None:
            x = self.attention(x)
        return self.adapters[str(task)](x) if str(task) in self.adapters else x

    def forward(self, features: Tensor, task: int) -> tuple[Tensor, Tensor]:
        """z (B, H, W, D) and log_det (B, H, W) in nats a patch, through the expert of `task`."""
        x = self.adapt(features, task)
        self.flow.select(task)
        z, log_det = self.flow(x)
        return z, log_det

    def set_dropout(self, draws: torch.Generator | None) -> None:
        """Where dropout takes its numbers from while the attention trains; None turns it off."""
        if self.attention is not None:
            self.attention.draws = draws

    def set_products(self, products: torch.dtype | None) -> None:
        """The precision of the subnets' matrix products; None is that of the features.

        The permutations keep theirs: whatever the subnets give, a block is then invertible and its log-determinant exact.
        """
        for layer in self.flow.layers():
            layer.products = products

    def task_state(self, task: int) -> dict[str, Tensor]:
        """What training `task` settled, by name: its own parts, and on task 0 the base flow."""
        return {name: tensor for name, tensor in self.state_dict().items() if owner_task(name) == task}

    def load_task_state(self, task: int, state: Mapping[str, Tensor]) -> None:
        """Put back what `task_state` gave; `add_task(task)` comes first.

        Raises:
            RuntimeError: names or shapes do not match this configuration.
        """
        own = self.task_state(task)
        if own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
            raise RuntimeError(f"the stored state of task {task} does not fit this configuration")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])

    def trainable(self, task: int) -> dict[str, nn.Parameter]:
        """Mark what trains on `task` (METHOD: the base on task 0, a task's own parts always) and return it by name."""
        chosen = {}
        for name, parameter in self.named_parameters():
            fixed = name.endswith(("w_perm", "w_perm_inv"))
            parameter.requires_grad_(owner_task(name) == task and not fixed)
            if parameter.requires_grad:
                chosen[name] = parameter
        return chosen

    def count_parameters(self, task: int) -> int:
        """Learned numbers that `task` added (on task 0 with the base flow, without the fixed permutations)."""
        return sum(
            p.numel()
            for n, p in self.named_parameters()
            if owner_task(n) == task and not n.endswith(("w_perm", "w_perm_inv"))
        )


def owner_task(name: str) -> int:
    """The task whose training settles the parameter `name`; everything shared belongs to task 0."""
    match = _TASK_PART.search(name)
    return int(match.group(1)) if match else 0


def position_code(height: int, width: int, channels: int) -> Tensor:
    """The fixed 2-D sine/cosine position code (H, W, D): half the channels for the row, half for the column (Vaswani et al. 2017)."""
    half = channels // 2

    def line(length: int, size: int) -> Tensor:
        index = torch.arange(size, dtype=torch.float64)
        frequency = torch.exp(-math.log(10000.0) * (2 * torch.div(index, 2, rounding_mode="floor")) / max(1, size))
        angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
        return torch.where(index.long() % 2 == 0, torch.sin(angle), torch.cos(angle))

    rows = line(height, half)[:, None, :].expand(height, width, half)
    columns = line(width, channels - half)[None, :, :].expand(height, width, channels - half)
    return torch.cat([rows, columns], dim=-1).float()
