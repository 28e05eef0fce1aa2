"""Low-rank experts: scaling rules and the update itself."""

from __future__ import annotations

import pytest
import torch

from moleflow.models.lora import LoraExpert, LoRALinear
from moleflow.settings.config import LoraKnobs


@pytest.mark.parametrize(
    ("lora", "scaling"),
    [
        (LoraKnobs(rank=32, alpha=1.0, scaling="alpha/(2*rank)"), 0.015625),
        (LoraKnobs(rank=32, alpha=1.0, scaling="alpha/rank"), 0.03125),
        (LoraKnobs(rank=4, alpha=2.0, scaling="alpha/rank"), 0.5),
        (LoraKnobs(rank=32, scaling=0.7), 0.7),
    ],
)
def test_effective_scaling(lora: LoraKnobs, scaling: float) -> None:
    assert lora.effective_scaling == scaling


def _layer(lora: LoraKnobs, generator: torch.Generator) -> LoRALinear:
    """A layer in float64 whose expert has an effect, as a trained one would."""
    layer = LoRALinear(5, 3, generator).add_expert(0, lora, generator).double()
    layer.active = "0"
    torch.nn.init.normal_(layer.experts["0"].b, generator=generator)
    torch.nn.init.normal_(layer.experts["0"].bias, generator=generator)
    return layer


def test_the_update_is_scaled_b_a_x_plus_bias() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = _layer(LoraKnobs(rank=2, scaling=0.25), generator)
    expert = layer.experts["0"]
    x = torch.randn(7, 5, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(layer(x) - layer.base(x), 0.25 * x @ (expert.b @ expert.a).T + expert.bias)


@pytest.mark.parametrize("base", [True, False], ids=["base trains", "base frozen"])
@pytest.mark.parametrize("expert", [True, False], ids=["expert trains", "expert frozen"])
def test_gradients_are_those_of_the_formula(base: bool, expert: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = _layer(LoraKnobs(rank=2, scaling=0.25), generator)
    layer.base.requires_grad_(base)
    layer.experts.requires_grad_(expert)
    x = torch.randn(4, 5, dtype=torch.float64, generator=generator).requires_grad_()
    inputs = [x, *(p for p in layer.parameters() if p.requires_grad)]
    weights = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    gradients = torch.autograd.grad((weights * layer(x)).sum(), inputs)
    low_rank = layer.experts["0"]
    formula = layer.base(x) + 0.25 * (x @ low_rank.a.T) @ low_rank.b.T + low_rank.bias
    for gradient, expected in zip(gradients, torch.autograd.grad((weights * formula).sum(), inputs), strict=True):
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("active", [None, "0"])
@pytest.mark.parametrize("spatial", [False, True])
def test_products_in_bfloat16_are_near_and_train_in_float32(active: str | None, spatial: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = _layer(LoraKnobs(rank=2, scaling=0.25, spatial=spatial, grid_size=2), generator).float()
    layer.active, layer.shape = active, (2, 2)
    x = torch.randn(8, 5, generator=generator).requires_grad_()
    inputs = [x, layer.base.weight, *(layer.experts["0"].parameters() if active else ())]
    exact = torch.autograd.grad(layer(x).square().sum(), inputs)
    layer.products = torch.bfloat16
    y = layer(x)
    assert y.dtype == torch.bfloat16
    rough = torch.autograd.grad(y.float().square().sum(), inputs)
    for one, other in zip(rough, exact, strict=True):
        assert one.dtype == torch.float32
        assert 0 < (one - other).abs().max() < 0.03 * other.abs().max()


def test_initial_values_are_the_published_ones() -> None:
    expert = LoraExpert(50, 30, LoraKnobs(rank=8), torch.Generator().manual_seed(0))
    bound = (6 / (50 + 8)) ** 0.5
    assert expert.a.abs().max() <= bound
    assert expert.a.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert not expert.b.any()
    assert not expert.bias.any()


def test_with_a_zero_start_only_the_bias_gets_a_gradient() -> None:
    """Each factor's gradient is a product with the other one, and so exactly 0."""
    generator = torch.Generator().manual_seed(0)
    layer = LoRALinear(5, 3, generator).add_expert(0, LoraKnobs(rank=2, init="zero"), generator)
    layer.active = "0"
    expert = layer.experts["0"]
    assert not expert.a.any()
    assert not expert.b.any()
    (layer(torch.randn(7, 5, generator=generator)) - 1).square().sum().backward()
    assert not expert.a.grad.any()
    assert not expert.b.grad.any()
    assert expert.bias.grad.all()


@pytest.mark.parametrize("spatial", [False, True])
def test_the_task_bias_is_a_knob(spatial: bool) -> None:
    knobs = LoraKnobs(rank=1, task_bias=False, spatial=spatial)
    layer = LoRALinear(4, 4, torch.Generator()).add_expert(0, knobs, torch.Generator())
    assert [name for name, _ in layer.experts.named_parameters()] == ["0.a", "0.b"]
    layer.active = "0"
    x = torch.ones(3, 4)
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            torch.testing.assert_close(layer(x), layer.base(x))


def test_each_task_uses_its_own_expert() -> None:
    """An expert's bias of 10 (task 0) or 20 (task 1) on a base that maps everything to 1."""
    layer = LoRALinear(4, 2, torch.Generator())
    with torch.no_grad():
        layer.base.weight.zero_()
        layer.base.bias.fill_(1.0)
        for task in (0, 1):
            layer.add_expert(task, LoraKnobs(rank=1), torch.Generator())
            layer.experts[str(task)].bias.fill_(10.0 * (task + 1))
        values = []
        for layer.active in ("0", "1", None):
            values.append(layer(torch.zeros(1, 4)).tolist())
    assert values == [[[11.0, 11.0]], [[21.0, 21.0]], [[1.0, 1.0]]]
