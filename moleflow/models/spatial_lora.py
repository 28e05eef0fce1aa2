"""SC-LoRA: low-rank experts whose factors vary over the image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moleflow.config import Lora


class SpatialLoraExpert(nn.Module):
    """One task's position-dependent update of one linear layer: x -> scaling * B(p) A(p) x + bias.

    A (G, G, rank, inputs) and B (G, G, outputs, rank) lie on a grid over the image; A(p) and B(p) are their bilinear
    interpolation at the patch position p, corner patches on corner nodes, as `grid_sample` with align_corners=True. The factors
    are interpolated and not their product, as in the notes. G = 1 is plain LoRA.

    Interpolation is linear, so A(p) x is the sum over nodes of weight * A_node x, taken node by node over the patches that the node
    reaches (at most four nodes a patch). No factor is ever formed per patch: memory stays O(B * H * W * (D + R)).
    Measured at D = 768, 37x37 patches, R = 32, G = 8, forward and backward (benchmarks/spatial_lora_memory.py): 773 MiB for
    16 images, twelve arrays of patches x D, where plain LoRA takes 260 MiB and a pair of factors per patch would take 4 GiB.
    """

    def __init__(self, inputs: int, outputs: int, lora: Lora, generator: torch.Generator) -> None:
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
        image = x.reshape(-1, height, width, x.shape[-1])
        update = self._interpolated(self._interpolated(image, self.a), self.b) * self.scaling
        update = update.reshape(x.shape[0], -1)
        return update if self.bias is None else update + self.bias

    def _interpolated(self, image: Tensor, factors: Tensor) -> Tensor:
        """F(p) x at every position: (B, H, W, out) of image (B, H, W, in) and factors (G, G, out, in)."""
        batch, height, width, _ = image.shape
        total = image.new_zeros(batch, height, width, factors.shape[2])
        for node in _nodes(factors.shape[0], height, width):
            part = nn.functional.linear(image[:, node.rows, node.columns], factors[node.row, node.column])
            total[:, node.rows, node.columns] += part * node.weight.to(image)[:, :, None]
        return total


@dataclass(frozen=True)
class _Node:
    """A grid node and the rectangle of patches that it reaches, with its weight (h, w) on each."""

    row: int
    column: int
    rows: slice
    columns: slice
    weight: Tensor


def _nodes(grid: int, height: int, width: int) -> Iterator[_Node]:
    down, across = node_weights(height, grid), node_weights(width, grid)
    for row in range(grid):
        rows = _support(down[:, row])
        for column in range(grid):
            columns = _support(across[:, column])
            if rows.start < rows.stop and columns.start < columns.stop:
                yield _Node(row, column, rows, columns, down[rows, row, None] * across[None, columns, column])


def node_weights(length: int, grid: int) -> Tensor:
    """Linear interpolation weights (length, grid) of `grid` nodes at `length` positions, ends on ends; rows sum to 1."""
    if grid == 1:
        return torch.ones(length, 1, dtype=torch.float64)
    place = (
        torch.linspace(0, grid - 1, length, dtype=torch.float64) if length > 1 else torch.zeros(1, dtype=torch.float64)
    )
    return (1 - (place[:, None] - torch.arange(grid, dtype=torch.float64)).abs()).clamp_min(0)


def _support(weights: Tensor) -> slice:
    """The run of positions where a node has weight; linear interpolation leaves no gaps in it."""
    inside = torch.nonzero(weights > 0).flatten()
    return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)
