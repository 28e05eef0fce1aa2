"""The normalizing flow over single patches: FrEIA's AllInOneBlock with LoRA experts in its subnets."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from FrEIA.modules import AllInOneBlock
from torch import Tensor, nn

from moleflow.config import Flow as FlowConfig
from moleflow.config import Lora
from moleflow.models.lora import LoRALinear


class Flow(nn.Module):
    """z, log_det = f(x): an invertible map of D-vectors with a tractable Jacobian.

    Args:
        width: D, the length of a patch's feature vector; at least 4.
        generator: source of the initial weights and of the fixed permutations.
        dtype: float32, or float64 for checks; a rotation rounded to float32 is none in float64.

    """

    def __init__(self, width: int, config: FlowConfig, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.width = width
        self.blocks = nn.ModuleList(_block(width, config, generator, dtype) for _ in range(config.blocks))

    def layers(self) -> Iterator[LoRALinear]:
        """Every linear layer that can hold experts, in order."""
        return (module for module in self.modules() if isinstance(module, LoRALinear))

    def add_expert(self, task: int, lora: Lora, generator: torch.Generator) -> None:
        """Give `task` its own low-rank expert in every layer."""
        for layer in self.layers():
            layer.add_expert(task, lora, generator)

    def select(self, task: int) -> None:
        """Use the expert of `task` from here on; a task without one uses the base alone."""
        for layer in self.layers():
            layer.active = str(task) if str(task) in layer.experts else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Z (P, D) and log|det dz/dx| (P,) in nats of patches x (P, D)."""
        log_det = x.new_zeros(x.shape[0])
        for block in self.blocks:
            (x,), part = block([x])
            log_det = log_det + part
        return x, log_det

    def inverse(self, z: Tensor) -> Tensor:
        """X (P, D) of latents z (P, D)."""
        for block in reversed(self.blocks):
            (z,), _ = block([z], rev=True)
        return z


def _block(width: int, config: FlowConfig, generator: torch.Generator, dtype: torch.dtype) -> nn.Module:
    def subnet(inputs: int, outputs: int) -> nn.Sequential:
        hidden = max(1, round(config.hidden_ratio * inputs))
        return nn.Sequential(LoRALinear(inputs, hidden, generator), nn.ReLU(), LoRALinear(hidden, outputs, generator))

    # FrEIA draws its permutation from numpy's global generator, and takes minutes for a soft one of many channels. It is given
    # the cheap kind here and then overwritten from our own generator.
    numpy_state = np.random.get_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        block: nn.Module = AllInOneBlock(
            [(width,)], subnet_constructor=subnet, affine_clamping=config.clamp, global_affine_type="SOFTPLUS", permute_soft=False
        )
    np.random.set_state(numpy_state)
    matrix = rotation(width, generator) if config.permutation == "soft" else torch.eye(width)[torch.randperm(width, generator=generator)]
    block.to(dtype)
    with torch.no_grad():
        block.get_parameter("w_perm").copy_(matrix)
        block.get_parameter("w_perm_inv").copy_(matrix.T)
    return block


def rotation(width: int, generator: torch.Generator) -> Tensor:
    """A rotation (width, width) in float64, drawn uniformly (Haar) from SO(width): QR of a Gaussian matrix with signs fixed (Mezzadri 2007)."""
    q, r = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    q = q * torch.sign(torch.diagonal(r))
    if torch.linalg.slogdet(q).sign < 0:
        q[:, 0] = -q[:, 0]
    rotated: Tensor = q
    return rotated
