"""A value computed from parameters, cached until one of them changes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class CachedTensorValue(Generic[T]):
    """A cache of one value that is computed from tensors.

    Without gradients the value is computed once and reused until a source tensor is written to.
    With gradients it is computed at each call, because it belongs to that call's graph.
    """

    def __init__(self) -> None:
        self._cached: tuple[Hashable, T] | None = None

    def get(self, compute: Callable[[], T], sources: tuple[Tensor, ...], *settings: Hashable) -> T:
        """Return `compute()`, from the cache if `sources` and `settings` have not changed."""
        if torch.is_grad_enabled():
            self._cached = None
            return compute()
        # `_version` counts in-place writes to a tensor; `data_ptr` changes when it is replaced.
        key = (settings, tuple((source.data_ptr(), source._version) for source in sources))
        if self._cached is None or self._cached[0] != key:
            self._cached = key, compute()
        return self._cached[1]
