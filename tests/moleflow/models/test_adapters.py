"""The notes' adapters: start values, bounds and the formula."""

from __future__ import annotations

import pytest
import torch

from moleflow.features.timm_import import import_timm
from moleflow.models.adapters import InputAdapter
from moleflow.settings.config import AdapterKnobs
from moleflow.training.adamp import AdamP


def _features() -> torch.Tensor:
    return 2 * torch.randn(3, 4, 4, 12, generator=torch.Generator().manual_seed(0)) + 1


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_the_published_adapter_starts_as_the_instance_norm() -> None:
    adapter = InputAdapter(12, AdapterKnobs(), 0.0, _generator())
    x = 0.01 * _features()  # Small: the epsilon of 1e-5 counts.
    expected = torch.nn.functional.instance_norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(adapter(x), expected)


def test_the_film_adapter_on_task_0_is_nine_tenths_identity() -> None:
    knobs = AdapterKnobs(norm="layer", film=True, gate="sigmoid")
    adapter = InputAdapter(12, knobs, 0.9, _generator())
    x = _features()
    torch.testing.assert_close(adapter(x), 0.9 * x + 0.1 * torch.nn.functional.layer_norm(x, (12,)))


@pytest.mark.parametrize(("gate", "factor"), [("raw", -0.5), ("sigmoid", 0.3775406687981454)])
def test_a_live_adapter_follows_its_formula(gate: str, factor: float) -> None:
    """y = gamma n + beta, then y + gate (W2 gelu(W1 y + b1) + b2); sigmoid(-1/2) = 0.37754."""
    knobs = AdapterKnobs(norm="layer", film=True, gate=gate, gate_init=-0.5, hidden=5, output_init="random")
    adapter = InputAdapter(12, knobs, 0.25, _generator()).double()
    for parameter in (adapter.gamma, adapter.beta, adapter.norm_weight, adapter.norm_bias, adapter.outer.bias):
        torch.nn.init.normal_(parameter, generator=_generator())
    x = _features().double()
    centred = x - x.mean(dim=-1, keepdim=True)
    n = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    y = adapter.gamma * (n * adapter.norm_weight + adapter.norm_bias) + adapter.beta
    inner = y @ adapter.inner.weight.T + adapter.inner.bias
    gelu = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
    y = y + factor * (gelu @ adapter.outer.weight.T + adapter.outer.bias)
    torch.testing.assert_close(adapter(x), 0.25 * x + 0.75 * y)


def test_three_layers_follow_the_formula() -> None:
    """MLP(y) = W3 gelu(W2 gelu(W1 y + b1) + b2) + b3, of widths 12 -> 5 -> 5 -> 12."""
    knobs = AdapterKnobs(norm="none", gate="sigmoid", gate_init=0.5, hidden=5, mlp_layers=3, output_init="normal")
    adapter = InputAdapter(12, knobs, 0.0, _generator()).double()
    torch.nn.init.normal_(adapter.outer.bias, generator=_generator())
    x = _features().double()
    value = x
    for layer in (adapter.inner, adapter.middle):
        value = value @ layer.weight.T + layer.bias
        value = value * 0.5 * (1 + torch.erf(value / 2**0.5))
    expected = x + 0.6224593312018546 * (value @ adapter.outer.weight.T + adapter.outer.bias)
    torch.testing.assert_close(adapter(x), expected)
    assert [tuple(layer.weight.shape) for layer in (adapter.inner, adapter.middle, adapter.outer)] == [
        (5, 12),
        (5, 5),
        (12, 5),
    ]


def test_a_normal_output_layer_starts_from_a_deviation_of_a_hundredth() -> None:
    knobs = AdapterKnobs(hidden="max(D//2,128)", mlp_layers=3, output_init="normal")
    adapter = InputAdapter(512, knobs, 0.0, _generator())
    weight = adapter.outer.weight.detach()
    assert weight.shape == (512, 256)
    # The deviation of 131,072 draws is known to 0.2 %; of a normal one, 68.27 % lie within it.
    assert weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert (weight.abs() < 0.01).float().mean().item() == pytest.approx(0.6827, abs=0.01)
    assert not adapter.outer.bias.any()


def test_the_third_layer_leaves_the_first_as_it_is_drawn() -> None:
    two, three = (InputAdapter(12, AdapterKnobs(mlp_layers=n), 0.0, _generator()) for n in (2, 3))
    assert torch.equal(two.inner.weight, three.inner.weight)
    assert two.middle is None


def test_adamp_projects_the_steps_of_a_gamma_of_four_dimensions() -> None:
    """timm's AdamP on (1, 1, 1, D) and on (D,), with a gradient that is orthogonal to gamma."""
    import_timm()
    from timm.optim.adamp import AdamP as Theirs

    after = {}
    for dims in (1, 4):
        knobs = AdapterKnobs(norm="none", film=True, gamma_dims=dims, output_init="zero")
        adapter = InputAdapter(12, knobs, 0.0, _generator())
        x = _features()
        assert torch.equal(adapter(x), x)
        reference = torch.nn.Parameter(torch.ones((1, 1, 1, 12) if dims == 4 else (12,)))
        gradient = torch.tensor([1.0, -1.0] * 6).view_as(reference)
        adapter.gamma.grad, reference.grad = gradient.clone(), gradient.clone()
        for optimizer in (AdamP([adapter.gamma], 0.1, 0.5), Theirs([reference], lr=0.1, weight_decay=0.5)):
            optimizer.step()
        torch.testing.assert_close(adapter.gamma, reference)
        after[dims] = adapter.gamma.detach().flatten()
    assert not torch.allclose(after[1], after[4])


def test_without_a_norm_the_adapter_starts_as_the_identity() -> None:
    x = _features()
    assert torch.equal(InputAdapter(12, AdapterKnobs(norm="none"), 0.0, _generator())(x), x)


@pytest.mark.parametrize(
    ("width", "hidden", "size"),
    [
        (512, "D//4", 128),
        (12, "D//4", 3),
        (3, "D//4", 1),
        (512, "max(D//2,128)", 256),
        (12, "max(D//2,128)", 128),
        (12, 7, 7),
    ],
)
def test_the_hidden_width_has_its_bounds(width: int, hidden: str | int, size: int) -> None:
    adapter = InputAdapter(width, AdapterKnobs(hidden=hidden), 0.0, _generator())
    assert adapter.inner.weight.shape == (size, width)
    assert adapter.outer.weight.shape == (width, size)


def test_a_random_output_layer_starts_at_a_tenth_of_torchs_default() -> None:
    """torch draws uniformly from +-1/sqrt(inputs), here +-1/4; a tenth of it is +-0.025."""
    weight = InputAdapter(64, AdapterKnobs(output_init="random"), 0.0, _generator()).outer.weight
    assert weight.shape == (64, 16)
    assert 0.0245 < weight.abs().max() <= 0.025
    assert not InputAdapter(64, AdapterKnobs(), 0.0, _generator()).outer.weight.any()
