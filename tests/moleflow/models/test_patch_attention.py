"""v6's attention: the published gate, the formula, and dropout from a given generator."""

from __future__ import annotations

import pytest
import torch

from moleflow.models.patch_attention import PatchAttention
from moleflow.settings.config import AttentionKnobs


def _module(**knobs: object) -> tuple[PatchAttention, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    module = PatchAttention(8, AttentionKnobs(enabled=True, hidden=6, **knobs), generator)
    return module, torch.randn(2, 3, 3, 8, generator=generator)


def test_the_gate_starts_half_open_and_not_as_the_identity() -> None:
    module, x = _module()
    assert torch.sigmoid(module.gate).item() == 0.5
    assert not torch.allclose(module(x), x)


def test_it_is_scaled_dot_product_attention_over_all_patches_of_the_image() -> None:
    module, x = _module()
    torch.nn.init.zeros_(module.ffn_out.weight)
    tokens = module.norm(x.reshape(2, 9, 8))
    attended = torch.nn.functional.scaled_dot_product_attention(
        module.query(tokens), module.key(tokens), module.value(tokens)
    )
    torch.testing.assert_close(module(x), x + 0.5 * module.output(attended).reshape(x.shape))
    changed = x.clone()
    changed[0, 0, 0, 0] += 1  # One channel: the layer norm undoes a shift of all.
    assert (module(x)[0] != module(changed)[0]).any(dim=-1).all()
    assert torch.equal(module(x)[1], module(changed)[1])


def test_the_feed_forward_layer_follows_its_formula() -> None:
    """With a closed gate the layer is x + W2 gelu(W1 n + b1) + b2, n the layer norm of x."""
    module, x = _module()
    module = module.double()
    x = x.double()
    with torch.no_grad():
        module.gate.fill_(-1000.0)
        for layer in (module.ffn_in, module.ffn_out):
            layer.bias.copy_(torch.arange(len(layer.bias)))
    centred = x - x.mean(dim=-1, keepdim=True)
    n = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    inner = n @ module.ffn_in.weight.T + torch.arange(6).double()
    gelu = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
    torch.testing.assert_close(module(x), x + gelu @ module.ffn_out.weight.T + torch.arange(8).double())


def test_weights_start_xavier_uniform_and_biases_at_zero() -> None:
    """Glorot and Bengio 2010: +-sqrt(6 / (inputs + outputs)), here sqrt(6/128)."""
    module = PatchAttention(64, AttentionKnobs(enabled=True, hidden=64), torch.Generator().manual_seed(0))
    for layer in (module.query, module.key, module.value, module.output, module.ffn_in, module.ffn_out):
        assert 0.214 < layer.weight.abs().max() <= 0.21651
        assert not layer.bias.any()


def test_dropout_acts_while_a_generator_is_set_and_repeats_with_it() -> None:
    module, x = _module(dropout=0.5)
    without = module(x)
    module.dropout_generator = torch.Generator().manual_seed(1)
    dropped = module(x)
    module.dropout_generator = torch.Generator().manual_seed(1)
    assert torch.equal(dropped, module(x))
    assert not torch.equal(dropped, without)
    module.dropout_generator = None
    assert torch.equal(module(x), without)


def test_dropout_rescales_what_it_keeps() -> None:
    """With dropout 1/4 the FFN's constant output 3 becomes 0 or 4, three quarters of them 4."""
    module = PatchAttention(40, AttentionKnobs(enabled=True, hidden=1, dropout=0.25), torch.Generator())
    with torch.no_grad():
        for parameter in (*module.output.parameters(), module.ffn_out.weight):
            parameter.zero_()
        module.ffn_out.bias.fill_(3.0)
    module.dropout_generator = torch.Generator().manual_seed(0)
    y = module(torch.zeros(2, 5, 5, 40))
    assert set(y.unique().tolist()) == {0.0, 4.0}
    assert (y == 4).double().mean().item() == pytest.approx(0.75, abs=0.03)


def test_dropout_acts_on_the_attention_weights_too() -> None:
    """Without an FFN, and with values of 1, an output of 1 becomes the sum of kept weights."""
    module = PatchAttention(2, AttentionKnobs(enabled=True, hidden=1, dropout=0.5), torch.Generator())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.value.bias.fill_(1.0)
        module.output.weight.fill_(1.0)
        module.gate.fill_(1000.0)
    module.dropout_generator = torch.Generator().manual_seed(0)
    y = module(torch.zeros(1, 1, 4, 2))
    assert set(y.unique().tolist()) <= {0.0, 0.5, 1.0, 1.5, 2.0}
    assert len(y.unique()) > 1
