"""SC-LoRA: low-rank experts whose factors vary over the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moleflow.settings.config import LoraKnobs


class SpatialLoraExpert(nn.Module):
    """One task's position-dependent update of one linear layer: x -> scaling * B(p) A(p) x + bias.

    A (G, G, rank, inputs) and B (G, G, outputs, rank) lie on a grid over the image; A(p) and B(p) are their bilinear
    interpolation at the patch position p, corner patches on corner nodes, as `grid_sample` with align_corners=True. The factors
    are interpolated and not their product, as in the notes. G = 1 is plain LoRA.

    Bilinear weights are a product of one weight per row and one per column. The factors are interpolated down to the H rows
    first, which leaves (H, G) pairs of them; A x is then one product per row for all G columns, weighted over the columns, and
    B the same backwards. No factor is ever formed per patch: memory is O(B * H * W * (D + G R)) and H G pairs of factors.
    Measured at D = 768, 37x37 patches, R = 32, G = 8, forward and backward of a layer (benchmarks/spatial_lora_memory.py): 447 MiB
    for 16 images, seven arrays of patches x D, where plain LoRA takes 258 MiB and factors per patch would take 4 GiB.
    """

    def __init__(self, inputs: int, outputs: int, lora: LoraKnobs, generator: torch.Generator) -> None:
        super().__init__()
        self.scaling = lora.effective_scaling
        grid = lora.grid_size
        self.a = nn.Parameter(torch.zeros(grid, grid, lora.rank, inputs))
        self.b = nn.Parameter(torch.zeros(grid, grid, outputs, lora.rank))
        self.bias = nn.Parameter(torch.zeros(outputs)) if lora.task_bias else None
        if lora.init == "xavier":
            bound = (6 / (inputs + lora.rank)) ** 0.5
            nn.init.uniform_(self.a, -bound, bound, generator=generator)

    def forward(self, x: Tensor, shape: tuple[int, int]) -> Tensor:
        """The update (P, outputs) of x (P, inputs), P = B * H * W patches in row order.

        Args:
            shape: (H, W) of the patch grid.
        """
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
    """Linear interpolation weights (length, grid) of `grid` nodes at `length` positions, ends on ends; rows sum to 1."""
    if grid == 1:
        return torch.ones(length, 1, dtype=torch.float64)
    place = (
        torch.linspace(0, grid - 1, length, dtype=torch.float64) if length > 1 else torch.zeros(1, dtype=torch.float64)
    )
    return (1 - (place[:, None] - torch.arange(grid, dtype=torch.float64)).abs()).clamp_min(0)
