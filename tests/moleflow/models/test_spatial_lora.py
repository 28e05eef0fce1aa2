"""SC-LoRA: interpolated factors, and plain LoRA on a grid of one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moleflow.models.cached_tensor import CachedTensorValue
from moleflow.models.lora import LoraExpert
from moleflow.models.spatial_lora import SpatialLoraExpert, node_weights
from moleflow.settings.config import LoraKnobs


def _filled(expert: torch.nn.Module, generator: torch.Generator) -> torch.nn.Module:
    for parameter in expert.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return expert


def _sampled(factors: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Factors at every patch (H, W, out, in), by grid_sample with aligned corners."""
    grid = factors.shape[0]
    planes = factors.permute(2, 3, 0, 1).reshape(1, -1, grid, grid)
    rows, columns = (
        torch.linspace(-1, 1, n, dtype=factors.dtype) if n > 1 else -torch.ones(1, dtype=factors.dtype)
        for n in (height, width)
    )
    places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)[None]
    sampled = torch.nn.functional.grid_sample(planes, places, mode="bilinear", align_corners=True)
    return sampled[0].reshape(*factors.shape[2:], height, width).permute(2, 3, 0, 1)


@settings(max_examples=40, deadline=None)
@given(
    grid=st.integers(1, 6),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    rank=st.integers(1, 3),
    inputs=st.integers(1, 4),
    outputs=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_update_is_that_of_grid_samples_factors(
    grid: int, height: int, width: int, rank: int, inputs: int, outputs: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    expert = _filled(
        SpatialLoraExpert(inputs, outputs, LoraKnobs(rank=rank, scaling=0.5, grid_size=grid), generator).double(),
        generator,
    )
    x = torch.randn(2, height, width, inputs, dtype=torch.float64, generator=generator)
    a, b = _sampled(expert.a.detach(), height, width), _sampled(expert.b.detach(), height, width)
    expected = 0.5 * torch.einsum("hwor,hwri,nhwi->nhwo", b, a, x) + expert.bias
    torch.testing.assert_close(expert(x.reshape(-1, inputs), (height, width)).reshape(expected.shape), expected)


def test_a_grid_of_one_is_plain_lora() -> None:
    generator = torch.Generator().manual_seed(0)
    plain = _filled(LoraExpert(6, 5, LoraKnobs(rank=3), generator), generator)
    spatial = SpatialLoraExpert(6, 5, LoraKnobs(rank=3, spatial=True, grid_size=1), generator)
    spatial.load_state_dict({"a": plain.a[None, None], "b": plain.b[None, None], "bias": plain.bias})
    x = torch.randn(2 * 12, 6, generator=generator)
    base = torch.nn.Linear(6, 5)
    torch.testing.assert_close(base(x) + spatial(x, (3, 4)), plain(x, base, CachedTensorValue()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("length", "grid"), [(5, 1), (1, 4), (4, 4), (3, 8), (37, 8)])
def test_node_weights_sum_to_one_and_ends_meet_ends(length: int, grid: int) -> None:
    weights = node_weights(length, grid)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(length, dtype=torch.float64))
    assert weights[0, 0] == 1
    if length > 1:
        assert weights[-1, -1] == 1
    assert (weights > 0).sum(dim=1).max() <= 2


def test_node_weights_by_hand() -> None:
    """Five positions over three nodes: every second one lies halfway between two nodes."""
    expected = [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]]
    assert node_weights(5, 3).tolist() == expected
    assert node_weights(1, 3).tolist() == [[1, 0, 0]]
    assert node_weights(2, 1).tolist() == [[1], [1]]


def test_initial_values_are_those_of_plain_lora_at_every_node() -> None:
    expert = SpatialLoraExpert(50, 30, LoraKnobs(rank=8, grid_size=2), torch.Generator().manual_seed(0))
    bound = (6 / (50 + 8)) ** 0.5
    assert expert.a.abs().amax(dim=(2, 3)).max() <= bound
    assert expert.a.std(dim=(2, 3)).flatten().tolist() == pytest.approx([bound / 3**0.5] * 4, rel=0.1)
    assert not expert.b.any()
    assert not expert.bias.any()


def test_the_published_zero_start_gets_no_gradient() -> None:
    """Each factor's gradient is a product with the other one, and so exactly 0."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2 * 9, 4, generator=generator)
    for init, dead in (("zero", True), ("xavier", False)):
        expert = SpatialLoraExpert(4, 4, LoraKnobs(rank=2, grid_size=2, init=init), generator)
        expert(x, (3, 3)).square().sum().backward()
        (expert(x, (3, 3)) - 1).square().sum().backward()
        assert (not expert.a.grad.any() and not expert.b.grad.any()) == dead
        assert expert.bias.grad.any()
