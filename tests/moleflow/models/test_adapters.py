"""The notes' adapters: start values, bounds and the formula."""

from __future__ import annotations

import pytest
import torch

from moleflow.models.adapters import InputAdapter
from moleflow.settings.config import AdapterKnobs


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
