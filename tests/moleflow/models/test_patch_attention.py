"""v6's attention: the published gate, dropout from a given generator, and nothing else random."""

from __future__ import annotations

import torch

from moleflow.models.patch_attention import PatchAttention
from moleflow.settings.config import AttentionKnobs


def _module(**knobs: object) -> tuple[PatchAttention, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return PatchAttention(8, AttentionKnobs(enabled=True, hidden=6, **knobs), generator), torch.randn(
        2, 3, 3, 8, generator=generator
    )


def test_gate_starts_half_open_and_not_as_the_identity() -> None:
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


def test_dropout_acts_only_while_a_generator_is_given_and_repeats_with_it() -> None:
    module, x = _module(dropout=0.5)
    calm = module(x)
    module.draws = torch.Generator().manual_seed(1)
    one = module(x)
    module.draws = torch.Generator().manual_seed(1)
    assert torch.equal(one, module(x))
    assert not torch.equal(one, calm)
    module.draws = None
    assert torch.equal(module(x), calm)
