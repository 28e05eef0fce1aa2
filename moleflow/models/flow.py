"""The normalizing flow: coupling blocks with LoRA experts, and a task's auxiliary couplings."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from FrEIA.modules import AllInOneBlock
from torch import Tensor, nn

from moleflow.models.auxiliary_couplings import AuxiliaryCouplings
from moleflow.models.cached_tensor import CachedTensorValue
from moleflow.models.coupling import (
    affine_coupling,
    scaled_permutation,
)
from moleflow.models.cross_patch import CrossPatchBlock, Subnet
from moleflow.models.lora import LoRALinear
from moleflow.models.separate_coupling import SeparateBlock
from moleflow.settings.config import AuxiliaryKnobs, FlowKnobs, LoraKnobs


class Flow(nn.Module):
    """An invertible map of an image's features with a tractable Jacobian: z, log_det = f(x).

    The scale of x decides how exact the inverse is in floating point. A block stretches and
    squeezes by up to e^clamp, the more so the larger its input. The next block mixes the result,
    so rounding errors grow by up to e^(2 clamp) per block.

    Largest |f^-1(f(x)) - x| at D = 96, 8 blocks, soft permutation and random weights, over all
    couplings and experts:

        scale of x   float32   float64
        1            4e-6      2e-14
        3            2e-5      6e-14
        10           3e1       2e-8      (float32: no inverse any more)

    So an inverse in float32 needs standardised features. Scores use no inverse.

    Args:
        width: D, the length of a patch's feature vector; at least 4.
        config: the flow's knobs.
        generator: source of the initial weights and of the fixed permutations.
        dtype: float32, or float64 for checks: a rotation rounded to float32 is none in float64.
    """

    def __init__(
        self, width: int, config: FlowKnobs, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_block(width, config, generator, dtype) for _ in range(config.blocks))
        self._layers = [module for module in self.modules() if isinstance(module, LoRALinear)]
        self.auxiliary = nn.ModuleDict()
        self._active: str | None = None
        self._width, self._dtype = width, dtype

    def layers(self) -> Iterator[LoRALinear]:
        """Return every linear layer that can hold experts, in the order of the forward pass."""
        return iter(self._layers)

    def add_expert(self, task: int, lora: LoraKnobs, generator: torch.Generator) -> None:
        """Give `task` its own low-rank expert in every layer."""
        for layer in self._layers:
            layer.add_expert(task, lora, generator)

    def add_auxiliary(self, task: int, auxiliary: AuxiliaryKnobs, generator: torch.Generator) -> None:
        """Give `task` its own couplings after the blocks; they start as the identity."""
        self.auxiliary[str(task)] = AuxiliaryCouplings(self._width, auxiliary, generator).to(self._dtype)

    def select(self, task: int) -> None:
        """Use the expert of `task` from now on; a task without experts uses the base flow."""
        for layer in self._layers:
            layer.active = str(task) if str(task) in layer.experts else None
        self._active = str(task) if str(task) in self.auxiliary else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (B, H, W, D) and log_det (B, H, W) in nats per patch, of x (B, H, W, D).

        A `PatchBlock` maps each patch by itself, so log_det is each patch's own. With context from
        other patches only its sum over an image is a log-determinant, that of the whole map.
        """
        self._set_shape(x)
        log_det = x.new_zeros(x.shape[:-1])
        for block in self.blocks:
            x, block_log_det = block(x)
            log_det = log_det + block_log_det
        if self._active is not None:
            x, auxiliary_log_det = self.auxiliary[self._active](x)
            log_det = log_det + auxiliary_log_det
        return x, log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Return x (B, H, W, D) of latents z (B, H, W, D).

        Raises:
            RuntimeError: the flow has no closed inverse (`context_from: all`).
        """
        self._set_shape(z)
        if self._active is not None:
            auxiliary = self.auxiliary[self._active]
            assert isinstance(auxiliary, AuxiliaryCouplings)
            z = auxiliary.inverse(z)
        for block in reversed(self.blocks):
            assert isinstance(block, PatchBlock | CrossPatchBlock | SeparateBlock)
            z = block.inverse(z)
        return z

    def _set_shape(self, x: Tensor) -> None:
        for layer in self._layers:
            layer.shape = (x.shape[1], x.shape[2])


class PatchBlock(nn.Module):
    """FrEIA's AllInOneBlock on every patch of an image by itself.

        [x1, x2] -> y = [x1, x2 * exp(s) + t],   z = w_perm (scale * y + global_offset)
        s_raw, t_raw = subnet(x1),   s = clamp * tanh(0.1 s_raw),   t = 0.1 t_raw

    Parameters and inverse are FrEIA's. The forward pass is our own: the same numbers with less
    work.

    Args:
        width: D.
        config: the flow's knobs.
        subnet: makes the network from D1 to 2 * D2 numbers per patch.
        permutation: (D, D), orthogonal and fixed; its dtype is the block's.
    """

    def __init__(self, width: int, config: FlowKnobs, subnet: Subnet, permutation: Tensor) -> None:
        super().__init__()
        # FrEIA draws its permutation from numpy's global generator, and takes minutes for a soft
        # one of many channels. So it draws the cheap kind here, which is then overwritten.
        numpy_state = np.random.get_state()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.block = AllInOneBlock(
                [(width,)],
                subnet_constructor=subnet,
                affine_clamping=config.clamp,
                global_affine_type="SOFTPLUS",
                permute_soft=False,
            )
        np.random.set_state(numpy_state)
        self.block.to(permutation.dtype)
        with torch.no_grad():
            self.block.get_parameter("w_perm").copy_(permutation)
            self.block.get_parameter("w_perm_inv").copy_(permutation.T)
        self._cache: CachedTensorValue[tuple[Tensor, Tensor, Tensor]] = CachedTensorValue()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (B, H, W, D) and log_det (B, H, W) in nats per patch, of x (B, H, W, D)."""
        block = self.block
        x1, x2 = x.reshape(-1, x.shape[-1]).split(block.splits, dim=1)
        y, log_det = affine_coupling(x1, x2, block.subnet(x1), block.clamp)
        if torch.is_grad_enabled():
            scale = block.global_scale_activation(block.global_scale)[0]
            z, shift = scaled_permutation(y, scale, block.global_offset[0], block.w_perm), torch.log(scale).sum()
        else:
            sources = block.global_scale, block.global_offset, block.w_perm
            matrix, offset, shift = self._cache.get(self._global_map, sources)
            z = torch.addmm(offset, y, matrix)
        return z.reshape(x.shape), (log_det + shift).reshape(x.shape[:-1])

    def _global_map(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the matrix (D, D), offset (D,) and log-determinant () after the coupling."""
        block = self.block
        scale = block.global_scale_activation(block.global_scale)[0]
        return (block.w_perm * scale).T, block.w_perm @ block.global_offset[0], torch.log(scale).sum()

    def inverse(self, z: Tensor) -> Tensor:
        """Return x (B, H, W, D) of z (B, H, W, D)."""
        (x,), _ = self.block([z.reshape(-1, z.shape[-1])], rev=True)
        whole: Tensor = x.reshape(z.shape)
        return whole


def _block(width: int, config: FlowKnobs, generator: torch.Generator, dtype: torch.dtype) -> nn.Module:
    def network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            LoRALinear(inputs, hidden, generator), nn.ReLU(inplace=True), LoRALinear(hidden, outputs, generator)
        ).to(dtype)

    def subnet(inputs: int, outputs: int) -> nn.Sequential:
        return network(inputs, max(1, round(config.hidden_ratio * inputs)), outputs)

    if config.cpcf:
        return CrossPatchBlock(width, config, subnet, random_rotation(width, generator), generator).to(dtype)
    if config.permutation == "soft":
        permutation = random_rotation(width, generator)
    else:
        permutation = torch.eye(width)[torch.randperm(width, generator=generator)]
    if config.subnets == "separate":
        return SeparateBlock(width, config, network, permutation.to(dtype)).to(dtype)
    return PatchBlock(width, config, subnet, permutation.to(dtype))


def random_rotation(width: int, generator: torch.Generator) -> Tensor:
    """Return a rotation (width, width) in float64, drawn uniformly (Haar) from SO(width).

    QR of a Gaussian matrix is uniform once the signs of R's diagonal are fixed (Mezzadri 2007).
    """
    q, r = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    q = q * torch.sign(torch.diagonal(r))
    if torch.linalg.slogdet(q).sign < 0:  # A reflection: O(width) has two halves.
        q[:, 0] = -q[:, 0]
    rotation: Tensor = q
    return rotation
