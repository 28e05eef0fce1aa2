"""A cached value never outlives a change of its parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moleflow.models.cached_tensor import CachedTensorValue
from moleflow.models.lora import LoRALinear
from moleflow.settings.config import LoraKnobs


def test_the_value_is_computed_once_without_gradients_and_each_time_with_them() -> None:
    calls: list[int] = []
    cache: CachedTensorValue[Tensor] = CachedTensorValue()
    weight = nn.Parameter(torch.ones(2))

    def compute() -> Tensor:
        calls.append(1)
        return 2 * weight

    with torch.no_grad():
        first = cache.get(compute, (weight,))
        assert cache.get(compute, (weight,)) is first
        assert len(calls) == 1
        cache.get(compute, (weight,), "something else")
        assert len(calls) == 2
    assert cache.get(compute, (weight,)).requires_grad
    assert len(calls) == 3


def test_a_changed_layer_returns_the_same_with_and_without_gradients() -> None:
    draws = torch.Generator().manual_seed(0)
    layer = LoRALinear(6, 5, draws)
    for task in range(2):
        layer.add_expert(task, LoraKnobs(rank=2), draws)
    x = torch.randn(7, 6, generator=draws)

    def same(active: str | None) -> None:
        layer.active = active
        with torch.no_grad():
            frozen = layer(x)
        assert torch.equal(frozen, layer(x))

    for active in ("0", "1", None, "0"):
        same(active)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draws))
            same("0")
            same("1")
    layer.load_state_dict({name: 2 * tensor for name, tensor in layer.state_dict().items()})
    same("0")
    layer.products = torch.bfloat16
    same("0")
