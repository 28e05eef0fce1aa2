"""Low-rank experts: scaling rules and the update itself."""

from __future__ import annotations

import pytest
import torch

from moleflow.config import Lora
from moleflow.models.lora import LoraExpert, LoRALinear


@pytest.mark.parametrize(
    ("lora", "scaling"),
    [
        (Lora(rank=32, alpha=1.0, scaling="alpha/(2*rank)"), 0.015625),
        (Lora(rank=32, alpha=1.0, scaling="alpha/rank"), 0.03125),
        (Lora(rank=4, alpha=2.0, scaling="alpha/rank"), 0.5),
        (Lora(rank=32, scaling=0.7), 0.7),
    ],
)
def test_effective_scaling(lora: Lora, scaling: float) -> None:
    assert lora.effective_scaling == scaling


def test_update_is_scaled_b_a_x_plus_bias() -> None:
    generator = torch.Generator().manual_seed(0)
    expert = LoraExpert(5, 3, Lora(rank=2, scaling=0.25), generator)
    torch.nn.init.normal_(expert.b, generator=generator)
    torch.nn.init.normal_(expert.bias, generator=generator)
    x = torch.randn(7, 5, generator=generator)
    torch.testing.assert_close(expert(x, (1, 7)), 0.25 * x @ (expert.b @ expert.a).T + expert.bias)


def test_initial_values_are_the_published_ones() -> None:
    expert = LoraExpert(50, 30, Lora(rank=8), torch.Generator().manual_seed(0))
    bound = (6 / (50 + 8)) ** 0.5
    assert expert.a.abs().max() <= bound
    assert expert.a.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert not expert.b.any()
    assert not expert.bias.any()


def test_zero_start_is_dead_but_for_the_bias() -> None:
    """Each factor's gradient is a product with the other one, and so exactly 0."""
    generator = torch.Generator().manual_seed(0)
    expert = LoraExpert(5, 3, Lora(rank=2, init="zero"), generator)
    assert not expert.a.any()
    assert not expert.b.any()
    (expert(torch.randn(7, 5, generator=generator), (1, 7)) - 1).square().sum().backward()
    assert not expert.a.grad.any()
    assert not expert.b.grad.any()
    assert expert.bias.grad.all()


def test_bias_is_a_knob() -> None:
    layer = LoRALinear(4, 4, torch.Generator()).add_expert(0, Lora(rank=1, task_bias=False), torch.Generator())
    assert [name for name, _ in layer.experts.named_parameters()] == ["0.a", "0.b"]
