"""SC-LoRA (spatially conditioned LoRA): low-rank experts whose factors vary over the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moleflow.settings.config import LoraKnobs


class SpatialLoraExpert(nn.Module):
    """One task's update of one linear layer: x -> scaling * B(p) A(p) x + bias, at position p.

    A (G, G, R, inputs) and B (G, G, outputs, R) lie on a grid over the image. A(p) and B(p) are
    their bilinear interpolation at the patch, with corner patches on corner nodes, as
    `grid_sample` with align_corners=True. The notes interpolate the factors, not their product.
    G = 1 is plain LoRA.

    Memory is O(P (D + G R)) for P patches, plus H G pairs of factors: no factor is formed per
    patch. Forward and backward of a layer at D = 768, 16 images of 37x37 patches, R = 32 and G = 8
    take 447 MiB. Plain LoRA takes 258 MiB, factors per patch would take 4 GiB
    (`benchmarks/spatial_lora_memory.py`).

    Args:
        inputs: length of x.
        outputs: length of the update.
        lora: rank R, grid size G, scaling and start values (those of `LoraExpert`, per node).
        generator: source of A's start values.
    """

    def __init__(self, inputs: int, outputs: int, lora: LoraKnobs, generator: torch.Generator) -> None:
        super().__init__()
        self.scaling: float | Tensor = lora.effective_scaling
        grid = lora.grid_size
        self.a = nn.Parameter(torch.zeros(grid, grid, lora.rank, inputs))
        self.b = nn.Parameter(torch.zeros(grid, grid, outputs, lora.rank))
        self.bias = nn.Parameter(torch.zeros(outputs)) if lora.task_bias else None
        if lora.init == "xavier":
            bound = (6 / (inputs + lora.rank)) ** 0.5
            nn.init.uniform_(self.a, -bound, bound, generator=generator)

    def forward(self, x: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return the update (P, outputs) of x (P, inputs).

        Args:
            x: P = B * H * W patches in row order.
            shape: (H, W) of the patch grid.
        """
        # A bilinear weight is a weight per row times one per column. Interpolating down the rows
        # first leaves (H, G) pairs of factors. A x is then one product per row for all G columns,
        # which `across` weighs and sums. B works backwards: spread over the columns, then multiply.
        height, width = shape
        grid, _, rank, inputs = self.a.shape
        down, across = (node_weights(length, grid).to(x) for length in shape)
        a = torch.einsum("hg,gkri->hkri", down, self.a).reshape(height, grid * rank, inputs)
        b = torch.einsum("hg,gkor->hokr", down, self.b).reshape(height, -1, grid * rank)
        rows = x.reshape(-1, height, width, inputs).transpose(0, 1).reshape(height, -1, inputs)
        nodes = torch.bmm(rows, a.transpose(1, 2)).reshape(height, -1, width, grid, rank)
        inner = torch.einsum("hbwkr,wk->hbwr", nodes, across)
        spread = (inner[:, :, :, None] * across[:, :, None]).reshape(height, -1, grid * rank)
        outer = torch.bmm(spread, b.transpose(1, 2)).reshape(height, -1, width, b.shape[1])
        update = outer.transpose(0, 1).reshape(x.shape[0], -1) * self.scaling
        return update if self.bias is None else update + self.bias


def node_weights(length: int, grid: int) -> Tensor:
    """Return the linear interpolation weights (length, grid) of `grid` nodes at `length` positions.

    The first and last positions lie on the first and last nodes. Rows sum to 1.
    """
    # torch.linspace of one step gives its start, node 0.
    position = torch.linspace(0, grid - 1, length, dtype=torch.float64)
    return (1 - (position[:, None] - torch.arange(grid, dtype=torch.float64)).abs()).clamp_min(0)
