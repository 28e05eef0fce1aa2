"""The matrix products and convolutions of a piece of work, to time them alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

PRODUCTS = frozenset(
    getattr(torch.ops.aten, name).default
    for name in ("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward")
)


class RecordedProducts(TorchDispatchMode):
    """Within this context, notes every product with its operands' sizes, strides and types."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Call `func`, and note it if it is a product."""
        named = kwargs or {}
        if func in PRODUCTS:
            self._calls.append((func, tree_map(_like, args), tree_map(_like, named)))
        return func(*args, **named)

    def again(self) -> None:
        """Compute all products again, on operands of their own."""
        with torch.no_grad():
            for func, args, named in self._calls:
                func(*args, **named)


def _like(value: Any) -> Any:
    """Return random numbers in the place of a tensor; any other value as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device).normal_()


def products_of(work: Callable[[], object]) -> Callable[[], None]:
    """Do the work once, and return a function that does its products alone."""
    recorded = RecordedProducts()
    with recorded:
        work()
    return recorded.again
