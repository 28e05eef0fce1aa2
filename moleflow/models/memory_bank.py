"""The memory bank: a task's training patches, and the distance of a patch to the nearest of them.

A task of several classes has one bank of `bank.patches` patches, drawn from all their images.

It is the yardstick for the flow: it trains nothing and reads the same features (PatchCore, Roth et
al. 2022, without PatchCore's reweighting of the image score).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from moleflow.settings.config import BankKnobs

_PAIRS = 2**22
"""Most distances that are held at once, 16 MiB."""


class MemoryBank(nn.Module):
    """The banks of all tasks, each patches (K, D) as the backbone gives them.

    Args:
        knobs: size of a bank, and how its patches are picked.
        device: the device that computes the distances.
    """

    def __init__(self, knobs: BankKnobs, device: torch.device) -> None:
        super().__init__()
        self.knobs = knobs
        self.device = device

    def fill(self, features: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the state of a task: the patches of its bank.

        Args:
            features: (N, H, W, D) of the task's training images.
            generator: source of the draws.
        """
        patches = features.reshape(-1, features.shape[-1])
        count = min(self.knobs.patches, len(patches))
        if self.knobs.pick == "coreset":
            start = int(torch.randint(len(patches), (1,), generator=generator))
            picked = coreset(patches.to(self.device), count, start)
        else:
            picked = torch.randperm(len(patches), generator=generator)[:count]
        return {"patches": patches[picked.to(patches.device)].float().contiguous()}

    def load_task_state(self, task: int, state: Mapping[str, Tensor]) -> None:
        """Take the patches that `fill` returned as the bank of `task`."""
        self.register_buffer(f"task_{task}", state["patches"].to(self.device))

    def count_parameters(self, task: int) -> int:
        """Return how many numbers the bank of `task` holds."""
        return self.get_buffer(f"task_{task}").numel()

    @torch.no_grad()
    def forward(self, features: Tensor, task: int) -> Tensor:
        """Return the distances (B, H, W) of features (B, H, W, D) to the bank of `task`."""
        bank = self.get_buffer(f"task_{task}")
        patches = features.to(self.device).float()
        return nearest_distances(patches.reshape(-1, patches.shape[-1]), bank).reshape(patches.shape[:-1])

    def terms(self, features: Tensor, expert: int) -> npt.NDArray[np.float32]:
        """Return the distances (1, H, W) of one image's features (H, W, D); they are cached."""
        return np.asarray(self(features[None], expert).cpu().numpy(), dtype=np.float32)

    def scores(self, terms: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], None]:
        """Return the patch scores (H, W), which are the distances. There is no latent z."""
        return terms[0], None


def nearest_distances(patches: Tensor, bank: Tensor) -> Tensor:
    """Return the Euclidean distances (N,) of patches (N, D) to the nearest row of a bank (K, D).

    The search is exact but for rounding. It goes by matrix products, whose rounding hides distances
    near 0. So the distance to the row that was found is computed again from the differences.
    """
    rows = max(1, _PAIRS // len(bank))
    squares = bank.square().sum(dim=1)
    found = []
    for block in patches.split(rows):
        # Without the patch's own square, which moves all its distances alike.
        nearest = torch.addmm(squares, block, bank.T, alpha=-2.0).argmin(dim=1)
        found.append((block - bank[nearest]).square().sum(dim=1).sqrt())
    return torch.cat(found)


def coreset(patches: Tensor, count: int, start: int) -> Tensor:
    """Return the positions (count,) of a coreset by k-center greedy (Sener and Savarese 2018).

    Each pick is the patch with the largest distance to the nearest of those before; a tie goes to
    the first.

    Args:
        patches: (N, D).
        count: number of picks, at most N.
        start: position of the first pick.
    """
    patches = patches.float()
    squares = patches.square().sum(dim=1)
    nearest = torch.full_like(squares, torch.inf)
    picked = torch.empty(count, dtype=torch.long, device=patches.device)
    newest = torch.tensor(start, device=patches.device)
    for n in range(count):
        picked[n] = newest
        distances = torch.addmv(squares + squares[newest], patches, patches[newest], alpha=-2.0)
        nearest = torch.minimum(nearest, distances)
        nearest[newest] = -torch.inf  # Rounding must not pick a patch twice.
        newest = nearest.argmax()
    return picked
