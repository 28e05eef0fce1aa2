"""DeCoFlow's mixer against loops over patches."""

from __future__ import annotations

import math

import pytest
import torch

from moleflow.models.patch_mixer import PatchMixer


def _image() -> torch.Tensor:
    return torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kernel", [3, 5])
def test_it_is_a_gated_weighted_sum_over_the_window_with_zeros_outside(kernel: int) -> None:
    x = _image()
    mixer = PatchMixer(5, kernel).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    share = 1 / (1 + math.exp(-mixer.gate.item()))
    half = kernel // 2
    expected = (1 - share) * x + share * mixer.bias
    windows = (torch.arange(n) for n in (3, 4, kernel, kernel))
    for row, column, down, across in torch.cartesian_prod(*windows).tolist():
        y, z = row + down - half, column + across - half
        if 0 <= y < 3 and 0 <= z < 4:
            expected[:, row, column] += share * mixer.weight[:, 0, down, across] * x[:, y, z]
    torch.testing.assert_close(mixer(x), expected)


def test_it_starts_as_a_share_of_the_windows_mean() -> None:
    """sigmoid(0.5) = 0.6225; inside the image conv is the mean over 3 x 3 patches."""
    x = _image()
    expected = (1 - 0.6224593312018546) * x[:, 1, 1] + 0.6224593312018546 * x[:, 0:3, 0:3].mean(dim=(1, 2))
    torch.testing.assert_close(PatchMixer(5, 3).double()(x)[:, 1, 1], expected, rtol=1e-6, atol=1e-6)


def test_zeros_outside_dim_the_border() -> None:
    """A corner has 4 of the 9 patches of its window."""
    mixed = PatchMixer(2, 3)(torch.ones(1, 4, 4, 2))
    share = 0.6224593312018546
    assert mixed[0, 1, 1].tolist() == pytest.approx([1.0] * 2)
    assert mixed[0, 0, 0].tolist() == pytest.approx([1 - share + share * 4 / 9] * 2)


def test_a_patch_sees_its_neighbours_and_only_them() -> None:
    mixer, x = PatchMixer(5, 3).double(), _image()
    changed = x.clone()
    changed[0, 0, 0] += 1
    differs = (mixer(x) != mixer(changed)).any(dim=-1)
    expected = torch.zeros(2, 3, 4, dtype=torch.bool)
    expected[0, :2, :2] = True
    assert torch.equal(differs, expected)
