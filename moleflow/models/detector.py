"""The whole trainable model: standardisation, position code, attention, adapters, mixer, flow."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from moleflow.models.adapters import InputAdapter
from moleflow.models.alignment import Alignment
from moleflow.models.flow import Flow
from moleflow.models.patch_attention import PatchAttention
from moleflow.models.patch_mixer import PatchMixer
from moleflow.settings.config import TrialConfig

# Gives a fresh generator for a name; the same name gives the same numbers.
NamedGenerators = Callable[[str], torch.Generator]
# Returns a function that computes what the given one does.
Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]

_TASK_PART = re.compile(r"(?:^|\.)(?:experts|adapters|statistics|auxiliary)\.(\d+)\.")


class Statistics(nn.Module):
    """Channel means and standard deviations (D,) of a task's training patches.

    Standard deviations divide by the number of patches minus 1 and are at least 1e-6.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def measure(self, features: Tensor) -> None:
        """Set both from features (N, H, W, D), summed in double precision."""
        flat = features.reshape(-1, features.shape[-1]).double()
        self.mean.copy_(flat.mean(dim=0))
        self.std.copy_(flat.std(dim=0).clamp_min(1e-6))


class Detector(nn.Module):
    """The detector: features (B, H, W, D) and a task -> z (B, H, W, D), log_det (B, H, W).

        x = (features - mean) / std + position_scale * position code
        z, log_det = flow(mixer(adapter(attention(x))))   through the expert of the task

    `add_task` adds the parts of a task. Training of a later task never changes them.

    Args:
        config: the trial's settings.
        shape: (H, W, D) of a feature map.
        generators: sources of the initial weights, under the names "flow" and "attention".
    """

    position: Tensor

    def __init__(self, config: TrialConfig, shape: tuple[int, int, int], generators: NamedGenerators) -> None:
        super().__init__()
        self.config = config
        self.width = shape[2]
        self.flow = Flow(self.width, config.flow, generators("flow"))
        self.attention = (
            PatchAttention(self.width, config.attention, generators("attention")) if config.attention.enabled else None
        )
        self.mixer = None if config.mixer.kernel is None else PatchMixer(self.width, config.mixer.kernel)
        self.adapters = nn.ModuleDict()
        self.statistics = nn.ModuleDict()
        code = (
            config.features.position_scale * position_code(*shape, config.features.position_order == "column_row")
            if config.features.position
            else torch.zeros(shape)
        )
        self.register_buffer("position", code, persistent=False)
        self._compiled: Callable[..., tuple[Tensor, Tensor]] | None = None

    def add_task(self, task: int, generators: NamedGenerators) -> None:
        """Add the parts of `task`: statistics, adapter, experts and auxiliary couplings.

        Args:
            task: position in the sequence, from 0.
            generators: sources of the initial weights, under the names "adapter", "expert" and
                "auxiliary".
        """
        config = self.config
        if config.features.standardise == "per_task" or (config.features.standardise == "task0" and task == 0):
            self.statistics[str(task)] = Statistics(self.width)
        if config.adapter.enabled and (task > 0 or config.adapter.task0):
            self.adapters[str(task)] = self._adapter(task, generators("adapter"))
        if config.lora.enabled and (task > 0 or config.lora.task0):
            self.flow.add_expert(task, config.lora, generators("expert"))
        if config.auxiliary.couplings > 0:
            self.flow.add_auxiliary(task, config.auxiliary, generators("auxiliary"))
        self.to(self.position.device)

    def _adapter(self, task: int, generator: torch.Generator) -> nn.Module:
        adapter = self.config.adapter
        if adapter.form == "alignment":
            return Alignment(self.width, task == 0, adapter.later_gamma)
        return InputAdapter(self.width, adapter, adapter.task0_identity if task == 0 else 0.0, generator)

    def measure(self, task: int, features: Tensor) -> None:
        """Set the statistics of `task`, if it has any, from its training features (N, H, W, D)."""
        if str(task) in self.statistics:
            self._statistics_of(task).measure(features)

    def _statistics_of(self, task: int) -> Statistics:
        statistics = self.statistics[str(task)]
        assert isinstance(statistics, Statistics)
        return statistics

    def adapt(self, features: Tensor, task: int) -> Tensor:
        """Return the flow's input (B, H, W, D) of features (B, H, W, D).

        The flow's density is a density of these.
        """
        return self._adapted(self._contextual(features, task), task)

    def _contextual(self, features: Tensor, task: int) -> Tensor:
        """Return the adapter's input (B, H, W, D): standardised, with position and attention."""
        source = 0 if self.config.features.standardise == "task0" else task
        x = features
        if str(source) in self.statistics:
            statistics = self._statistics_of(source)
            x = (x - statistics.mean) / statistics.std
        x = x + self.position
        return x if self.attention is None else self.attention(x)

    def _adapted(self, x: Tensor, task: int) -> Tensor:
        """Return the flow's input (B, H, W, D) of the adapter's (B, H, W, D)."""
        if str(task) in self.adapters:
            x = self.adapters[str(task)](x)
        return x if self.mixer is None else self.mixer(x)

    def forward(self, features: Tensor, task: int) -> tuple[Tensor, Tensor]:
        """Return z (B, H, W, D) and log_det (B, H, W) in nats per patch, by `task`'s expert."""
        x = self._contextual(features, task)
        self.flow.select(task)
        return (self._compiled or self._latents)(x, task)

    def _latents(self, x: Tensor, task: int) -> tuple[Tensor, Tensor]:
        z, log_det = self.flow(self._adapted(x, task))
        return z, log_det

    def set_compiler(self, compiler: Compiler | None) -> None:
        """Run adapter, mixer and flow as `compiler` returns them; None runs them as they are.

        The attention stays outside, because a compiled function cannot draw from its generator.
        """
        self._compiled = None if compiler is None else compiler(self._latents)

    def set_dropout(self, generator: torch.Generator | None) -> None:
        """Turn the attention's dropout on, with draws from `generator`; None turns it off."""
        if self.attention is not None:
            self.attention.dropout_generator = generator

    def set_products(self, products: torch.dtype | None) -> None:
        """Set the dtype of the subnets' matrix products; None is that of the features.

        The permutations and the auxiliary couplings keep the dtype of the features. A block is
        invertible for any output of its subnet, so its log-determinant stays exact.
        """
        for layer in self.flow.layers():
            layer.products = products

    def task_state(self, task: int) -> dict[str, Tensor]:
        """Return the tensors that training of `task` sets, by name; task 0 sets the base too."""
        return {name: tensor for name, tensor in self.state_dict().items() if owner_task(name) == task}

    def load_task_state(self, task: int, state: Mapping[str, Tensor]) -> None:
        """Copy a `task_state` into this detector; `add_task(task)` comes first.

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
        """Set which parameters train on `task` and return these by name.

        The base flow trains on task 0 only, a task's own parts on that task only.
        """
        learned = dict(self._learned(task))
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in learned)
        return learned

    def count_parameters(self, task: int) -> int:
        """Return how many learned numbers `task` added; those of task 0 include the base flow."""
        return sum(parameter.numel() for _, parameter in self._learned(task))

    def _learned(self, task: int) -> Iterator[tuple[str, nn.Parameter]]:
        """Return the parameters that `task` learns, without the flow's fixed ones."""
        fixed: tuple[str, ...] = ("w_perm", "w_perm_inv")
        if self.config.flow.global_affine == "fixed":
            fixed += ("global_scale", "global_offset")
        for name, parameter in self.named_parameters():
            if owner_task(name) == task and not name.endswith(fixed):
                yield name, parameter


def owner_task(name: str) -> int:
    """Return the task that trains the parameter `name`; shared parameters belong to task 0."""
    match = _TASK_PART.search(name)
    return int(match.group(1)) if match else 0


def position_code(height: int, width: int, channels: int, columns_first: bool = False) -> Tensor:
    """Return the fixed 2-D sine/cosine position code (H, W, D) (Vaswani et al. 2017).

    The first half of the channels codes the row, the second half the column, or the other way
    round if `columns_first` is true, as in the notes' code. Channel c of a half with n channels is,
    at position p,

        sin(p / 10000^(c/n)) for even c,   cos(p / 10000^((c-1)/n)) for odd c
    """
    if columns_first:
        return position_code(width, height, channels).transpose(0, 1).contiguous()
    half = channels // 2

    def line(length: int, size: int) -> Tensor:
        index = torch.arange(size, dtype=torch.float64)
        frequency = torch.exp(-math.log(10000.0) * (2 * torch.div(index, 2, rounding_mode="floor")) / max(1, size))
        angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
        return torch.where(index.long() % 2 == 0, torch.sin(angle), torch.cos(angle))

    rows = line(height, half)[:, None, :].expand(height, width, half)
    columns = line(width, channels - half)[None, :, :].expand(height, width, channels - half)
    return torch.cat([rows, columns], dim=-1).float()
