"""Seconds of an exact search: 50,000 patches of width 152 in a memory bank of 8,000.

Each way searches image by image, 196 patches at a time, as scoring does, and once for all patches
in one call. The ways take turns. Faiss is measured if it is installed; nothing here depends on it.

    python benchmarks/nearest_neighbours.py [--patches 50000] [--repeats 3]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from moleflow.models.memory_bank import nearest_distances

BANK, WIDTH, GRID = 8_000, 152, 196
Search = Callable[[np.ndarray], np.ndarray]


def ways(bank: np.ndarray) -> dict[str, Search]:
    """The searches by name; each returns the distances (N,) of patches (N, D)."""
    tensor = torch.from_numpy(bank)

    def by_cdist(patches: np.ndarray) -> np.ndarray:
        blocks = torch.from_numpy(patches).split(512)
        mode = "use_mm_for_euclid_dist"
        return torch.cat([torch.cdist(block, tensor, compute_mode=mode).amin(dim=1) for block in blocks]).numpy()

    def by_our_search(patches: np.ndarray) -> np.ndarray:
        return nearest_distances(torch.from_numpy(patches), tensor).numpy()

    fitted = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(bank)
    found: dict[str, Search] = {
        "ours (memory_bank.nearest_distances)": by_our_search,
        "torch.cdist in blocks of 512": by_cdist,
        "scikit-learn NearestNeighbors(brute)": lambda patches: fitted.kneighbors(patches)[0][:, 0],
    }
    try:
        import faiss  # type: ignore[import-not-found]
    except ModuleNotFoundError:
        return found
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatL2(WIDTH)
    index.add(bank)
    return found | {"faiss IndexFlatL2": lambda patches: np.sqrt(index.search(patches, 1)[0][:, 0])}


def main() -> None:
    """Print the least seconds of each way, and its largest relative error against float64."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--patches", type=int, default=50_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    bank, patches = (random.standard_normal((n, WIDTH)).astype(np.float32) for n in (BANK, given.patches))
    patches[:GRID] = bank[:GRID] + 1e-3 * patches[:GRID]  # An image close to the bank.
    images = np.split(patches, range(GRID, given.patches, GRID))
    few = patches[: 2 * GRID].astype(np.float64)
    exact = np.concatenate([np.sqrt(((bank - patch) ** 2).sum(axis=1).min(keepdims=True)) for patch in few])
    searches = ways(bank)
    seconds: dict[tuple[str, str], float] = {}
    with threadpool_limits(1):
        for _ in range(given.repeats):
            for name, search in searches.items():
                for kind, parts in (("image by image", images), ("one call", [patches])):
                    start = time.perf_counter()
                    for part in parts:
                        search(part)
                    took = time.perf_counter() - start
                    seconds[name, kind] = min(took, seconds.get((name, kind), took))
        for name, search in searches.items():
            error = np.abs(search(patches[: 2 * GRID]) / exact - 1).max()
            each = ", ".join(f"{kind} {seconds[name, kind]:.2f} s" for kind in ("image by image", "one call"))
            print(f"{name}: {each}; largest relative error {error:.1e}")


if __name__ == "__main__":
    main()
