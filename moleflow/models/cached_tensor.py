"""What follows from parameters alone, kept while they stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class CachedTensorValue(Generic[T]):
    """A value made of tensors. Without gradients it is made once and kept; whatever writes to one of the tensors makes it anew.

    With gradients it is made at each call, as it belongs to the call's graph.
    """

    def __init__(self) -> None:
        self._kept: tuple[Hashable, T] | None = None

    def get(self, make: Callable[[], T], sources: tuple[Tensor, ...], *about: Hashable) -> T:
        """The value that `make` gives of `sources`, and of what `about` says besides."""
        if torch.is_grad_enabled():
            self._kept = None
            return make()
        key = (about, tuple((source.data_ptr(), source._version) for source in sources))
        if self._kept is None or self._kept[0] != key:
            self._kept = key, make()
        return self._kept[1]
