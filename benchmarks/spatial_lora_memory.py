"""Peak memory of one SC-LoRA layer, forward and backward, beside plain LoRA: D = 768, 37x37
patches, rank 32, grid 8.

    python benchmarks/spatial_lora_memory.py

Prints the growth of the process's peak resident memory, each layer in a fresh process, for 1 and 16
images.
"""

from __future__ import annotations

import resource
import subprocess
import sys

import torch

from moleflow.models.lora import LoRALinear
from moleflow.settings.config import LoraKnobs

WIDTH, SIDE, RANK, GRID = 768, 37, 32, 8


def growth(kind: str, images: int) -> float:
    """MiB by which one forward and backward pass raises the peak."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    lora = LoraKnobs(rank=RANK, grid_size=GRID, spatial=kind == "spatial")
    layer = LoRALinear(WIDTH, WIDTH, generator).add_expert(0, lora, generator)
    layer.base.requires_grad_(False)
    layer.active, layer.shape = "0", (2, 2)
    x = torch.randn(images * SIDE * SIDE, WIDTH, generator=generator, requires_grad=True)
    small = torch.randn(SIDE * SIDE, WIDTH, generator=generator)[: 2 * 4]
    layer(small).sum().backward()  # The libraries' own memory is not counted.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    layer.shape = (SIDE, SIDE)
    layer(x).square().sum().backward()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(f"{growth(sys.argv[1], int(sys.argv[2])):.0f}")
    else:
        print(
            f"D = {WIDTH}, {SIDE}x{SIDE} patches, rank {RANK}, grid {GRID}x{GRID}; one array of patches x D in float32:"
        )
        for images in (1, 16):
            own = images * SIDE * SIDE * WIDTH * 4 / 2**20
            peaks = {
                kind: float(
                    subprocess.run(
                        [sys.executable, __file__, kind, str(images)], capture_output=True, text=True, check=True
                    ).stdout
                )
                for kind in ("plain", "spatial")
            }
            print(
                f"{images:>3} images: {own:.0f} MiB an array; plain {peaks['plain']:.0f} MiB, spatial {peaks['spatial']:.0f} MiB"
            )
        factor = RANK * 2
        print(
            f"a pair of factors per patch would take {factor} arrays: {factor * 16 * SIDE * SIDE * WIDTH * 4 / 2**30:.1f} GiB for 16 images"
        )
