"""The memory bank: its patches, its distances, and sequences that score by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moleflow.models import memory_bank
from moleflow.models.memory_bank import MemoryBank, coreset, nearest_distances
from moleflow.settings.config import BankKnobs

CPU = torch.device("cpu")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_numpy(patches: torch.Tensor, bank: torch.Tensor) -> np.ndarray:
    """The distance of each patch to its nearest row, from all differences in float64."""
    differences = patches.double().numpy()[:, None] - bank.double().numpy()[None]
    return np.sqrt((differences**2).sum(axis=2)).min(axis=1)


def filled(knobs: BankKnobs, features: torch.Tensor, seed: int = 0) -> MemoryBank:
    bank = MemoryBank(knobs, CPU)
    bank.load_task_state(0, bank.fill(features, torch.Generator().manual_seed(seed)))
    return bank


@pytest.mark.parametrize("pairs", [1, 500, 2**22])
def test_distances_equal_those_from_all_differences(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of one row, of some, and at once; far from the origin and next to the bank too."""
    monkeypatch.setattr(memory_bank, "_PAIRS", pairs)
    bank = drawn(50, 8) + 10
    patches = torch.cat([drawn(60, 8, seed=1) + 10, bank[:10] + 1e-3 * drawn(10, 8, seed=2), bank[:5]])
    found = nearest_distances(patches, bank)
    np.testing.assert_allclose(found.numpy(), by_numpy(patches, bank), rtol=2e-6)
    assert found[-5:].tolist() == [0.0] * 5


def test_an_image_has_a_map_of_distances_to_the_bank_of_its_expert() -> None:
    bank = MemoryBank(BankKnobs(patches=20), CPU)
    for task in (0, 1):
        bank.load_task_state(task, bank.fill(drawn(3, 4, 4, 8, seed=task) + 5 * task, torch.Generator().manual_seed(0)))
    image = drawn(4, 4, 8, seed=7)
    for task in (0, 1):
        terms = bank.terms(image, task)
        scores, norm = bank.scores(terms)
        assert terms.shape == (1, 4, 4)
        assert norm is None
        np.testing.assert_allclose(
            scores.ravel(), by_numpy(image.reshape(-1, 8), bank.get_buffer(f"task_{task}")), rtol=2e-6
        )
    assert bank.terms(image, 1).min() > bank.terms(image, 0).max()


def test_other_images_in_a_batch_change_no_distance_beyond_rounding() -> None:
    bank, images = filled(BankKnobs(patches=30), drawn(5, 3, 3, 8)), drawn(4, 3, 3, 8, seed=3)
    alone = torch.cat([bank(image[None], 0) for image in images])
    torch.testing.assert_close(bank(images, 0), alone, rtol=1e-6, atol=0)


def test_a_random_bank_holds_distinct_patches_of_the_seed() -> None:
    features = drawn(6, 3, 3, 4)
    rows = {tuple(row) for row in features.reshape(-1, 4).tolist()}
    banks = [filled(BankKnobs(patches=20), features, seed).get_buffer("task_0") for seed in (0, 0, 1)]
    for bank in banks:
        found = {tuple(row) for row in bank.tolist()}
        assert len(found) == 20
        assert found < rows
    assert torch.equal(banks[0], banks[1])
    assert not torch.equal(banks[0], banks[2])


@pytest.mark.parametrize("pick", ["random", "coreset"])
def test_a_bank_of_more_patches_than_there_are_holds_all(pick: str) -> None:
    features = drawn(2, 3, 3, 4)
    bank = filled(BankKnobs.model_validate({"patches": 8000, "pick": pick}), features)
    held = bank.get_buffer("task_0")
    assert bank.count_parameters(0) == 18 * 4
    assert sorted(held.tolist()) == sorted(features.reshape(-1, 4).tolist())
    assert bank(features, 0).abs().max() == 0


@pytest.mark.parametrize("start", [0, 17])
def test_a_coreset_is_that_of_the_plain_algorithm(start: int) -> None:
    patches = drawn(120, 6) * torch.tensor([5.0, 3.0, 1.0, 1.0, 1.0, 1.0])
    points = patches.double().numpy()
    picked = [start]
    while len(picked) < 40:
        distances = np.sqrt(((points[:, None] - points[picked][None]) ** 2).sum(axis=2)).min(axis=1)
        picked.append(int(distances.argmax()))
    assert coreset(patches, 40, start).tolist() == picked


def test_a_coreset_covers_the_patches_better_than_a_draw() -> None:
    features = torch.cat([drawn(20, 4, 4, 8), 4 + drawn(1, 4, 4, 8, seed=5)])
    farthest = {
        pick: float(filled(BankKnobs.model_validate({"patches": 40, "pick": pick}), features)(features, 0).max())
        for pick in ("random", "coreset")
    }
    assert farthest["coreset"] < 0.8 * farthest["random"]


def test_equal_patches_are_each_picked_once() -> None:
    assert sorted(coreset(torch.ones(7, 3), 7, 2).tolist()) == list(range(7))
