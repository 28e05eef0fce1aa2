"""Low-rank experts: a frozen linear layer plus one small update a task."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from moleflow.models.cached_tensor import CachedTensorValue
from moleflow.models.seeded_linear import seeded_linear
from moleflow.models.spatial_lora import SpatialLoraExpert
from moleflow.settings.config import LoraKnobs


class LoraExpert(nn.Module):
    """One task's update of one linear layer: x -> scaling * B A x + bias (Hu et al. 2021; the bias is the notes' task bias).

    A (rank, inputs) starts Xavier-uniform (at zero with `init: zero`, and then never moves), B (outputs, rank) and the
    bias (outputs) start at zero, so a new expert changes nothing.
    """

    def __init__(self, inputs: int, outputs: int, lora: LoraKnobs, generator: torch.Generator) -> None:
        super().__init__()
        self.scaling = lora.effective_scaling
        self.a = nn.Parameter(torch.empty(lora.rank, inputs))
        self.b = nn.Parameter(torch.zeros(outputs, lora.rank))
        self.bias = nn.Parameter(torch.zeros(outputs)) if lora.task_bias else None
        if lora.init == "xavier":
            nn.init.xavier_uniform_(self.a, generator=generator)
        else:
            nn.init.zeros_(self.a)

    def forward(self, x: Tensor, base: nn.Linear, kept: CachedTensorValue[Tensor]) -> Tensor:
        """y (P, outputs) of x (P, inputs) through `base` with this update, the same at every position; in the precision of x.

        Without gradients the sum of the matrices is taken from `kept`.
        """
        bias = base.bias if self.bias is None else base.bias + self.bias
        if torch.is_grad_enabled():
            y: Tensor = _Updated.apply(x, base.weight, bias, self.a, self.b, self.scaling)  # type: ignore[no-untyped-call]
            return y
        sources = base.weight, self.a, self.b
        merged = kept.get(lambda: _merged(*sources, self.scaling, x.dtype), sources, x.dtype)
        return torch.addmm(bias.to(x.dtype), x, merged.T)


class _Updated(torch.autograd.Function):
    """x (W + s B A)^T + c of x (P, inputs), W (outputs, inputs), c (outputs,), A (R, inputs) and B (outputs, R), in the precision of x.

    The matrices are added first, so that neither the product nor the gradient of x has anything to do with the rank; the gradients of
    A and B are products of rank R where W is frozen, and follow from W's own where it trains.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
        merged = _merged(weight, a, b, scaling, x.dtype)
        ctx.save_for_backward(x, merged, a, b)
        ctx.scaling = scaling
        return torch.addmm(bias.to(x.dtype), x, merged.T)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, merged, a, b = ctx.saved_tensors
        of_x = grad @ merged if ctx.needs_input_grad[0] else None
        of_weight = grad.T @ x if ctx.needs_input_grad[1] else None
        of_bias = grad.sum(dim=0) if ctx.needs_input_grad[2] else None
        if not ctx.needs_input_grad[3]:
            return of_x, of_weight, of_bias, None, None, None
        if of_weight is not None:
            of_weight = of_weight.to(a.dtype)
            of_a, of_b = b.T @ of_weight, of_weight @ a.T
        else:
            low_a, low_b = a.to(x.dtype), b.to(x.dtype)
            of_a, of_b = ((grad @ low_b).T @ x).to(a.dtype), (grad.T @ (x @ low_a.T)).to(b.dtype)
        return of_x, of_weight, of_bias, ctx.scaling * of_a, ctx.scaling * of_b, None


def _merged(weight: Tensor, a: Tensor, b: Tensor, scaling: float, dtype: torch.dtype) -> Tensor:
    """W + s B A (outputs, inputs)."""
    return torch.addmm(weight, b, a, alpha=scaling).to(dtype)


class LoRALinear(nn.Module):
    """A linear layer shared by all tasks, with at most one expert a task; `active` says whose expert is used.

    `shape` is the (H, W) of the image at hand, for experts that depend on the position. `products` is the precision of the matrix
    products, and of what is returned; None is that of the input. Spatial experts compute in their own.
    """

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.base = seeded_linear(inputs, outputs, generator)
        self.experts = nn.ModuleDict()
        self.active: str | None = None
        self.shape = (1, 1)
        self.products: torch.dtype | None = None
        self._kept: CachedTensorValue[Tensor] = CachedTensorValue()

    def add_expert(self, task: int, lora: LoraKnobs, generator: torch.Generator) -> Self:
        """Give `task` an expert of its own."""
        kind = SpatialLoraExpert if lora.spatial else LoraExpert
        self.experts[str(task)] = kind(self.base.in_features, self.base.out_features, lora, generator)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """y (P, outputs) for x (P, inputs)."""
        expert = None if self.active is None else self.experts[self.active]
        low = x if self.products is None else x.to(self.products)
        if isinstance(expert, LoraExpert):
            y: Tensor = expert(low, self.base, self._kept)
            return y
        y = nn.functional.linear(low, self.base.weight.to(low.dtype), self.base.bias.to(low.dtype))
        return y if expert is None else y + expert(x.to(self.base.weight.dtype), self.shape).to(y.dtype)
