"""Start values of linear layers."""

from __future__ import annotations

import torch

from moleflow.models.seeded_linear import seeded_linear


def test_weight_and_bias_fill_torchs_default_range_from_the_given_generator() -> None:
    """torch's own start: uniform in +-1/sqrt(inputs), so a standard deviation of 0.1/sqrt(3)."""
    layer = seeded_linear(100, 300, torch.Generator().manual_seed(0))
    again = seeded_linear(100, 300, torch.Generator().manual_seed(0))
    assert torch.equal(layer.weight, again.weight)
    assert torch.equal(layer.bias, again.bias)
    for tensor in (layer.weight, layer.bias):
        assert 0.099 < tensor.abs().max() <= 0.1
        torch.testing.assert_close(tensor.std(), torch.tensor(0.0577), atol=0.004, rtol=0)
