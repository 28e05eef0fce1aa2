"""Precision of the matrix products of training; scores are always computed in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from moleflow.environment import Environment

DTYPES = {"float32": None, "tf32": None, "bfloat16": torch.bfloat16}
"""The types of the subnets' products by `training.products`; None is that of the features."""
TF32_CAPABILITY = (8, 0)
"""The first compute capability with tensor cores for TF32: Ampere."""


@contextmanager
def tensor_cores(products: str) -> Iterator[None]:
    """Allow TF32 meanwhile if `training.products` asks for it, and nothing but float32 afterwards.

    TF32 rounds the operands of every product and convolution to 10 bits after the point, on a GPU
    with tensor cores for it, and nothing else. Products in bfloat16 are the detector's affair.
    """
    _allow_tf32(products == "tf32")
    try:
        yield
    finally:
        _allow_tf32(False)


def _allow_tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def products_note(products: str, environment: Environment) -> str | None:
    """Return a remark for readers of the results, if the device lacks what `products` asks for."""
    if products != "tf32":
        return None
    if environment.device_kind == "cuda" and torch.cuda.get_device_capability() >= TF32_CAPABILITY:
        return None
    return f"training.products tf32: no effect on {environment.processor}, which computes in float32"
